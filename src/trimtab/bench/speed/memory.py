"""Peak memory of one row, run as `python -m trimtab.bench.speed.memory JOB`; prints bytes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import resource
import sys
from pathlib import Path

import torch

from trimtab.bench.speed import rows


def resident(field: str) -> int:
    """Bytes of this process in memory now (`VmRSS`) or at its peak (`VmHWM`)."""
    if not _STATUS.exists():  # no such file on this system: the peak of the whole run
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


def forget() -> None:
    """Give freed memory back to the system and let the peak begin anew, where the system can.

    What the allocator kept would else be used again, unseen by a difference of peaks.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # the allocator of another C library
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


_STATUS = Path("/proc/self/status")


def main() -> None:
    """Build the row's models, decode once, print the peak."""
    job = json.loads(sys.argv[1])
    settings = job["settings"]
    models = getattr(rows, job["models"])(**settings)
    warm_up = rows.RandomModels("5m", "bfloat16", "cpu")  # what libraries take at first use
    warm_up.makers()[rows.BASE_ROW]().run(warm_up.prompts(1, 8), 2)
    forget()
    before = resident("VmRSS")
    contender = models.makers()[job["row"]]()
    contender.run(models.prompts(job["batch"], job["prompt"]), job["new_tokens"])
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        print(torch.cuda.max_memory_allocated())
    else:
        print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
