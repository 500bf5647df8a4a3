"""Preference sweeps: guides compared by the fronts that they reach."""
