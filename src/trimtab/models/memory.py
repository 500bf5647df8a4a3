"""The memory that models take, and what is free."""

from __future__ import annotations


def free_bytes(device: str) -> int:
    """Memory that is free where models are; Linux kills a process that takes more."""
    import psutil
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def free_memory() -> None:
    """Give back what models held that nothing refers to any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
