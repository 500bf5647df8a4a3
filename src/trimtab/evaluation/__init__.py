"""Measuring: accuracy beside its floors, what preference data hold, pictures, pages; lm-eval."""
