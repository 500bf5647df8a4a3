"""The Python API: the CLI's commands as functions. `import trimtab` re-exports them lazily."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from trimtab.arms.export import export_arm as export
from trimtab.engines.local.loading import load_engine as load
from trimtab.evaluation.accuracy import AccuracyReport, measure_accuracy
from trimtab.evaluation.calibration import calibrate as calibrate
from trimtab.evaluation.scoring import Scored, score_responses
from trimtab.training.config import TrainConfig
from trimtab.training.run import TrainResult
from trimtab.training.run import train as _train

__all__ = ["accuracy", "calibrate", "export", "load", "score", "train"]


def train(*, data: str | os.PathLike[str] | Sequence[str], **options: Any) -> list[TrainResult]:
    """Train one reward model per objective; the options are the fields of `TrainConfig`.

        trimtab.train(model="…", data="pairs.jsonl", objectives="helpful", output_dir="arms")

    Raises:
        TrimtabError: bad data, options, model folder or output directory; nothing is written.
    """
    files = [str(data)] if isinstance(data, str | os.PathLike) else [str(file) for file in data]
    return _train(TrainConfig(data=files, **options))


def score(
    arm: str, prompts: Sequence[Any], responses: Sequence[str], **options: Any
) -> list[Scored]:
    """Rewards of given responses under an ARM (see `score_responses`)."""
    return score_responses(arm, prompts, responses, **options)


def accuracy(arm: str, data: str | Sequence[str], **options: Any) -> AccuracyReport:
    """Pairwise accuracy of an ARM on held-out pairs (see `measure_accuracy`)."""
    return measure_accuracy(arm, [data] if isinstance(data, str) else list(data), **options)
