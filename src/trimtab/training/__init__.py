"""Training reward models on preferences: pure losses, and a small trainer over transformers."""
