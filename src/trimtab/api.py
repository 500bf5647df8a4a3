"""The Python API: the CLI's commands as functions. `import trimtab` re-exports them lazily."""

from __future__ import annotations

from trimtab.arms.export import export_arm as export
from trimtab.calibration.calibrate import calibrate as calibrate
from trimtab.engines.local.loading import load_engine as load
from trimtab.evaluation.accuracy import measure_accuracy as accuracy
from trimtab.scoring.score import score_responses as score
from trimtab.training.run import train as train

__all__ = ["accuracy", "calibrate", "export", "load", "score", "train"]
