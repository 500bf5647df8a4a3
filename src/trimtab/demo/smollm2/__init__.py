"""The demo on SmolLM2-135M-Instruct: questions, scorers, pairs, shipped ARMs."""
