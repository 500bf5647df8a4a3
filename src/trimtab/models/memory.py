"""The memory that models take, and what is free."""

from __future__ import annotations

from trimtab.models.memory_limits import left_bytes


def free_bytes(device: str) -> int:
    """Memory that is free where models are; Linux kills a process that takes more."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


def available_bytes() -> int:
    """Memory that this process may still take: the machine's, within a container's limit."""
    import psutil

    available, left = int(psutil.virtual_memory().available), left_bytes()
    return available if left is None else min(available, left)


def free_memory() -> None:
    """Give back what models held that nothing refers to any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
