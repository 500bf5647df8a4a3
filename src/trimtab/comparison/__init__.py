"""Whose answers are better: two sides met by prompt, win rates, variety, AlpacaEval's files."""
