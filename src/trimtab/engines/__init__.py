"""Decoding engines: `reference` is the specification, `local` is what runs."""
