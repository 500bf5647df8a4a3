"""The memory that models take."""

from __future__ import annotations


def free_memory() -> None:
    """Give back what models held that nothing refers to any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
