"""An OpenAI-compatible server: requests of HTTP to those of an engine, and its answers back."""
