"""The autoregressive reward model (ARM): loading, saving, its sidecar and the vocabulary contract."""
