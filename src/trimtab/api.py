"""The Python API: the CLI's commands as functions. `import trimtab` re-exports them lazily."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from trimtab.arms.export import export_arm as export
from trimtab.calibration.calibrate import calibrate as calibrate
from trimtab.documented import takes_fields_of
from trimtab.engines.local.loading import load_engine as load
from trimtab.evaluation.accuracy import measure_accuracy as accuracy
from trimtab.scoring.score import score_responses as score
from trimtab.training.config import TrainConfig
from trimtab.training.run import TrainResult
from trimtab.training.run import train as _train

__all__ = ["accuracy", "calibrate", "export", "load", "score", "train"]


@takes_fields_of(TrainConfig)
def train(*, data: str | os.PathLike[str] | Sequence[str], **options: Any) -> list[TrainResult]:
    """Train one reward model per objective, or one for all (PARM, UniARM).

        trimtab.train(model="…", data="pairs.jsonl", objectives="helpful", output_dir="arms")

    Raises:
        TrimtabError: bad data, options, model folder or output directory; nothing is written.
    """
    files = [str(data)] if isinstance(data, str | os.PathLike) else [str(file) for file in data]
    return _train(TrainConfig(data=files, **options))
