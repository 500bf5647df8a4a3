"""The conditions of a measurement: machine, versions, bandwidth."""

from __future__ import annotations

import datetime
import os
import platform
import time
from pathlib import Path

import torch
import transformers

from trimtab.version import __version__


def conditions(device: str) -> dict[str, object]:
    """What a reader has to know to compare with their own machine."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "copy_bandwidth_gb_s": round(copy_bandwidth(device) / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trimtab": __version__,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def copy_bandwidth(device: str) -> float:
    """Bytes read and written per second by a large copy; the best of ten."""
    source = torch.ones(64 * 2**20, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - start))
    return best


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
