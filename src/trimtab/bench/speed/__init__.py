"""The price of guidance: time per token, memory, time to the first token."""
