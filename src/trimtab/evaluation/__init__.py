"""Measuring: rewards of given responses, pairwise accuracy beside its floors, intervals, pictures."""
