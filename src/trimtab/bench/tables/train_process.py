"""One training, run as `python -m trimtab.bench.tables.train_process OPTIONS`; prints what it took.

In a process of its own its memory is its own, too.
"""

from __future__ import annotations

import json
import sys

import torch

from trimtab.bench.speed.memory import resident
from trimtab.errors import TrimtabError
from trimtab.training.config import TrainConfig
from trimtab.training.run import run_training


def main() -> int:
    """Train, print JSON."""
    try:
        [result] = run_training(TrainConfig(**json.loads(sys.argv[1])))
    except TrimtabError as error:
        print(f"trimtab: error: {error}", file=sys.stderr)
        return 2
    cuda = torch.cuda.is_available() and torch.cuda.max_memory_allocated()
    metrics = {
        "train_seconds": result.metrics["train_seconds"],
        "loss": result.metrics["train_loss"],
    }
    print(json.dumps({**metrics, "peak_bytes": cuda or resident("VmHWM")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
