"""Trimtab: steer a frozen language model at test time with small autoregressive reward models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trimtab.version import __version__ as __version__

if TYPE_CHECKING:
    from trimtab.api import accuracy, calibrate, export, load, score, train
    from trimtab.engines.processor import ArmLogitsProcessor
    from trimtab.engines.types import Chunk, Completion, Request, Sampling
    from trimtab.errors import TrimtabError
    from trimtab.evaluation.data_report import inspect_data
    from trimtab.steering import Steering

_HOME = {
    "calibrate": "trimtab.api",
    "export": "trimtab.api",
    "load": "trimtab.api",
    "train": "trimtab.api",
    "score": "trimtab.api",
    "accuracy": "trimtab.api",
    "ArmLogitsProcessor": "trimtab.engines.processor",
    "Chunk": "trimtab.engines.types",
    "inspect_data": "trimtab.evaluation.data_report",
    "Request": "trimtab.engines.types",
    "Sampling": "trimtab.engines.types",
    "Completion": "trimtab.engines.types",
    "Steering": "trimtab.steering",
    "TrimtabError": "trimtab.errors",
}

__all__ = [
    "ArmLogitsProcessor",
    "Chunk",
    "Completion",
    "Request",
    "Sampling",
    "Steering",
    "TrimtabError",
    "accuracy",
    "calibrate",
    "export",
    "inspect_data",
    "load",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import trimtab` stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
