"""The autoregressive reward model (ARM): adapters, loading, export, sidecar, card, rewards."""
