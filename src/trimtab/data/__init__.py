"""Preference data: files and hub ids in, tokenised pairs out."""
