"""Trimtab: steer a frozen language model at test time with small autoregressive reward models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trimtab.version import __version__ as __version__

if TYPE_CHECKING:
    from trimtab.arms.export import export
    from trimtab.bench.speed.run import bench_speed
    from trimtab.bench.tables.run import bench_table
    from trimtab.calibration.calibrate import calibrate
    from trimtab.comparison.alpaca_eval import write_alpaca_eval
    from trimtab.comparison.run import compare
    from trimtab.distillation.distill import distill
    from trimtab.engines.local.loading import load_engine as load
    from trimtab.engines.processor import ArmLogitsProcessor
    from trimtab.engines.sampling import Sampling
    from trimtab.engines.types import Completion, Event, Request
    from trimtab.errors import TrimtabError
    from trimtab.evaluation.accuracy import accuracy
    from trimtab.evaluation.data_facts import inspect_data
    from trimtab.fronts.run import pareto
    from trimtab.methods.generate import generate
    from trimtab.methods.search import search
    from trimtab.scoring.label import label
    from trimtab.scoring.score import score, score_file
    from trimtab.serving.run import serve
    from trimtab.steering import Steering
    from trimtab.training.run import train

_HOME = {
    "ArmLogitsProcessor": "trimtab.engines.processor",
    "Completion": "trimtab.engines.types",
    "Event": "trimtab.engines.types",
    "Request": "trimtab.engines.types",
    "Sampling": "trimtab.engines.types",
    "Steering": "trimtab.steering",
    "TrimtabError": "trimtab.errors",
    "accuracy": "trimtab.evaluation.accuracy",
    "bench_speed": "trimtab.bench.speed.run",
    "bench_table": "trimtab.bench.tables.run",
    "calibrate": "trimtab.calibration.calibrate",
    "compare": "trimtab.comparison.run",
    "distill": "trimtab.distillation.distill",
    "export": "trimtab.arms.export",
    "generate": "trimtab.methods.generate",
    "inspect_data": "trimtab.evaluation.data_facts",
    "label": "trimtab.scoring.label",
    "load": "trimtab.engines.local.loading:load_engine",
    "pareto": "trimtab.fronts.run",
    "score": "trimtab.scoring.score",
    "score_file": "trimtab.scoring.score",
    "search": "trimtab.methods.search",
    "serve": "trimtab.serving.run",
    "train": "trimtab.training.run",
    "write_alpaca_eval": "trimtab.comparison.alpaca_eval",
}
"""Public name -> its module, and its name there where that says more."""

__all__ = [
    "ArmLogitsProcessor",
    "Completion",
    "Event",
    "Request",
    "Sampling",
    "Steering",
    "TrimtabError",
    "accuracy",
    "bench_speed",
    "bench_table",
    "calibrate",
    "compare",
    "distill",
    "export",
    "generate",
    "inspect_data",
    "label",
    "load",
    "pareto",
    "score",
    "score_file",
    "search",
    "serve",
    "train",
    "write_alpaca_eval",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import trimtab` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    module, _, there = _HOME[name].partition(":")
    return getattr(importlib.import_module(module), there or name)


def __dir__() -> list[str]:
    return sorted(__all__)
