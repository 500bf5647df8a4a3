"""What numbers were made with: machine, versions, batch size."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version

from trimtab.version import __version__

_LIBRARIES = ("torch", "transformers", "peft", "numpy")


def made_with(device: str | None, batch_size: int) -> dict[str, object]:
    """Date, machine and versions behind numbers that are made now."""
    import torch

    accelerated = torch.cuda.is_available() and not (device or "").startswith("cpu")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": torch.cuda.get_device_name() if accelerated else platform.machine(),
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "trimtab": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }
