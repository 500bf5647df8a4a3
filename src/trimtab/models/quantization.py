"""Quantised bases, through transformers' own loader and optimum-quanto's kernels."""

from __future__ import annotations

import importlib.util
from typing import Any

import transformers

from trimtab.errors import ConfigError
from trimtab.models.types import DType, Quantization


def quantized_loading(bits: Quantization, dtype: DType) -> dict[str, Any]:
    """Options for `load_model` that quantise the weights of all linear layers but the LM head.

    Args:
        bits: of a weight. Activations keep `dtype`.
        dtype: as the user asked for; int4 has kernels for bfloat16 only, so `auto` means that.

    Raises:
        ConfigError: without optimum-quanto, or int4 in another dtype.
    """
    if importlib.util.find_spec("optimum") is None or not _has_quanto():
        raise ConfigError(f"quantization {bits} needs optimum-quanto", "pip install optimum-quanto")
    if bits == "int4" and dtype not in ("auto", "bfloat16"):
        raise ConfigError(f"int4 weights have no {dtype} kernels", "use --dtype bfloat16")
    options: dict[str, Any] = {"quantization_config": transformers.QuantoConfig(weights=bits)}
    return {**options, "dtype": "bfloat16"} if bits == "int4" else options


def _has_quanto() -> bool:
    return importlib.util.find_spec("optimum.quanto") is not None
