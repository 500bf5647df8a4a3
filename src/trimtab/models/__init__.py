"""Causal LMs from wherever they come: GGUF files, and whether all that was saved was loaded."""
