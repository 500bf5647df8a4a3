"""The autoregressive reward model (ARM): loading, sidecar, card and the vocabulary contract."""
