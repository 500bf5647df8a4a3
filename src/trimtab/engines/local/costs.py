"""What a pass of a model costs, from its size: what decides whether drafting pays.

Only ratios matter. They must not be measured while decoding nor depend on the other requests: what
is drafted decides which random numbers are used, so the same seed would no longer give the same
tokens.
"""

from __future__ import annotations

from typing import Any

# A pass takes its weights' bytes over the bandwidth, and a fixed time per layer.
_SECONDS_PER_BYTE = {"cpu": 1 / 20e9, "cuda": 1 / 1.5e12}
_SECONDS_PER_LAYER = {"cpu": 0.25e-3, "cuda": 0.15e-3}
_ROW = {"cpu": 0.03, "cuda": 0.002}


def pass_cost(model: Any) -> float:
    """Seconds that one pass of a model takes, roughly."""
    kind = _kind(model)
    layers = int(getattr(model.config.get_text_config(), "num_hidden_layers", 1))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return float(size * _SECONDS_PER_BYTE[kind] + layers * _SECONDS_PER_LAYER[kind])


def row_cost(model: Any) -> float:
    """What one more row adds to a pass, as a share of it."""
    return _ROW[_kind(model)]


def _kind(model: Any) -> str:
    return "cpu" if model.device.type == "cpu" else "cuda"
