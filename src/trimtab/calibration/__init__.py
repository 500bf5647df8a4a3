"""The strength that an ARM should have: measured, chosen, stored as its scale."""
