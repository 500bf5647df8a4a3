"""Where a model's weights go, and in which type."""

from __future__ import annotations

import torch

from trimtab.errors import ConfigError, first_line
from trimtab.models.types import DType


def torch_dtype(dtype: DType, device: str) -> torch.dtype | str:
    """`auto` is the checkpoint's own type on an accelerator and float32 on a CPU."""
    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def require_device(name: str) -> str:
    """A device that is there, by its torch name.

    Raises:
        ConfigError: a name that means nothing here.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"cannot use device {name!r} ({first_line(error)})",
            "use cpu, or cuda where there is one",
        ) from None
    return name
