"""Measuring: rewards of responses, accuracy beside its floors, intervals, pictures, pages."""
