"""Adapters as plain tensors: what a stream adds to the layers of its backbone.

One form holds all cores of design.md §4. With preference p the layer adds

    ΔW x = B ( (Σ_i p_i Γ_i) ⊙ (A x) + Σ_i p_i Δ_i )

K objectives, C columns (the rank, or more where a core needs more), in/out features of the layer.
Plain LoRA has K = 1, Γ = 1 and no Δ; the scaling s is folded into B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor

from trimtab.errors import ConfigError, ModelLoadError
from trimtab.models.folder import adapter_config

WEIGHTS, PREFIX = "adapter_model.safetensors", "base_model.model."
LORA_A, LORA_B, LORA_BIAS = ".lora_A.weight", ".lora_B.weight", ".lora_B.bias"
"""PEFT's names, of the file and in it."""
_OF_PLAIN = {
    # what A and B already show, or what says nothing about the forward
    "r", "lora_alpha", "use_rslora", "lora_bias", "rank_pattern", "fan_in_fan_out",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "lora_dropout", "inference_mode", "task_type", "base_model_name_or_path", "revision",
    "auto_mapping", "peft_version", "runtime_config", "megatron_config", "megatron_core",
    # how A and B began; whether that changed the base is seen when PEFT loads them
    "init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
}  # fmt: skip


@dataclass(frozen=True)
class LowRank:
    """What one layer gets.

    Attributes:
        a: A, [C, in].
        b: s · B, [out, C].
        gain: Γ, [K, C]; None for ones.
        shift: Δ, [K, C]; None for zeros.
    """

    a: Tensor
    b: Tensor
    gain: Tensor | None = None
    shift: Tensor | None = None

    def gains(self) -> Tensor:
        """Γ, [K, C]."""
        return self.a.new_ones(1, len(self.a)) if self.gain is None else self.gain

    def shifts(self) -> Tensor:
        """Δ, [K, C]."""
        return torch.zeros_like(self.gains()) if self.shift is None else self.shift


@dataclass(frozen=True)
class AdapterWeights:
    """One adapter.

    Attributes:
        layers: layer name -> its term.
        objectives: what the preference inside the adapter weighs, K names; none for plain LoRA.
        squared: whether Γ and Δ have a row for every pair of objectives, [K², C], for products
            p_i p_j.
    """

    layers: Mapping[str, LowRank]
    objectives: tuple[str, ...] = ()
    squared: bool = False

    @property
    def width(self) -> int:
        """Numbers that a preference comes to: rows of Γ."""
        return max(1, len(self.objectives)) ** (2 if self.squared else 1)

    def coefficients(self, preference: Sequence[float]) -> list[float]:
        """What a preference inside the adapter makes the rows of Γ count."""
        if not self.squared:
            return list(preference)
        return [p * q for p in preference for q in preference]


def read_lora(folder: str, *, dtype: torch.dtype, device: str) -> AdapterWeights | None:
    """Read a PEFT folder; None when it holds more than plain LoRA on linear layers.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        dtype: of the tensors.
        device: where to put them.
    """
    config = adapter_config(folder)
    if not _is_plain(config):
        return None
    alpha = config.get("lora_alpha", 8)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise ModelLoadError(
            f"{folder}/adapter_config.json has lora_alpha {alpha!r}", "write the number it had"
        )
    tensors = load_file(Path(folder) / WEIGHTS, device=device)
    layers = {}
    for key in [key for key in tensors if key.endswith(LORA_A)]:
        a, b = tensors.pop(key), tensors.pop(key.removesuffix(LORA_A) + LORA_B, None)
        if b is None or ".experts." in key:  # experts see their tokens out of order
            return None
        scale = alpha / (math.sqrt(len(a)) if config.get("use_rslora") else len(a))
        name = key.removeprefix(PREFIX).removesuffix(LORA_A)
        bias = tensors.pop(key.removesuffix(LORA_A) + LORA_BIAS, None)
        term = LowRank(a.to(dtype), (scale * b.float()).to(dtype))
        layers[name] = term if bias is None else _with_bias(term, (scale * bias.float()).to(dtype))
    return None if tensors else AdapterWeights(layers)


def _with_bias(term: LowRank, bias_O: Tensor) -> LowRank:
    """A constant beside what depends on x: one more column, of gain 0 and shift 1."""
    last = torch.zeros(1, len(term.a) + 1, device=bias_O.device)
    last[0, -1] = 1
    a = torch.cat([term.a, torch.zeros_like(term.a[:1])])
    return LowRank(a, torch.cat([term.b, bias_O[:, None]], 1), 1 - last, last)


def _is_plain(config: dict[str, Any]) -> bool:
    """Whether every option that could change the forward is as in a plain LoRA."""
    if config.get("peft_type") != "LORA":
        return False
    plain = LoraConfig().to_dict()
    return all(
        (not value and not plain.get(option)) or value == plain.get(option)
        for option, value in config.items()
        if option not in _OF_PLAIN
    )


def soup(ingredients: Mapping[str, AdapterWeights | None]) -> AdapterWeights:
    """Rewarded soup (arXiv 2306.04488): one adapter with `ΔW(p) = Σ_i p_i ΔW_i`.

    The updates themselves are averaged, not their factors A and B apart. Nothing is merged: the
    columns of all adapters lie side by side, and a request's preference is their gain.

    Args:
        ingredients: objective -> its plain LoRA, all on one backbone.

    Raises:
        ConfigError: an ARM that is no plain LoRA.
    """
    plain = _plain(ingredients)
    layers = {}
    for name in sorted({name for adapter in plain for name in adapter.layers}):
        terms = [(i, a.layers[name]) for i, a in enumerate(plain) if name in a.layers]
        rows = torch.eye(len(plain), device=terms[0][1].a.device)
        gains = [rows[:, i : i + 1] * term.gains() for i, term in terms]
        shifts = [rows[:, i : i + 1] * term.shifts() for i, term in terms]
        layers[name] = LowRank(
            torch.cat([term.a for _, term in terms]),
            torch.cat([term.b for _, term in terms], 1),
            torch.cat(gains, 1),
            torch.cat(shifts, 1) if any(term.shift is not None for _, term in terms) else None,
        )
    return AdapterWeights(layers, tuple(ingredients))


def factor_soup(ingredients: Mapping[str, AdapterWeights | None]) -> AdapterWeights:
    """The factors averaged apart: `ΔW(p) = (Σ_i p_i B_i) (Σ_j p_j A_j)`.

    What some released code calls a rewarded soup; it has p_i p_j B_i A_j for i ≠ j as well, and
    less of each ΔW_i. Between single objectives it is another model than `soup`.

    Args:
        ingredients: objective -> its plain LoRA, all on one backbone and of one rank.

    Raises:
        ConfigError: an ARM that is no plain LoRA, or of another rank or other layers.
    """
    plain = _plain(ingredients)
    layers = {}
    for name in plain[0].layers:
        terms = [adapter.layers.get(name) for adapter in plain]
        shapes = {None if t is None or t.gain is not None else (*t.a.shape,) for t in terms}
        if None in shapes or len(shapes) > 1:
            raise _unlike()
        known = [term for term in terms if term is not None]
        rank, pairs = len(known[0].a), len(known) ** 2
        gain = torch.eye(pairs, device=known[0].a.device).repeat_interleave(rank, 1)
        layers[name] = LowRank(
            torch.cat([right.a for _ in known for right in known]),
            torch.cat([left.b for left in known for _ in known], 1),
            gain,
        )
    if any(adapter.layers.keys() != layers.keys() for adapter in plain):
        raise _unlike()
    return AdapterWeights(layers, tuple(ingredients), squared=True)


def _unlike() -> ConfigError:
    return ConfigError(
        "the factors of these LoRAs cannot be averaged: they differ in layers, rank or biases",
        "train them alike, or take --combine soup, which averages their updates",
    )


def _plain(ingredients: Mapping[str, AdapterWeights | None]) -> list[AdapterWeights]:
    """The ingredients of a soup.

    Raises:
        ConfigError: one that is no plain LoRA, or none at all.
    """
    for objective, adapter in ingredients.items():
        if adapter is None or adapter.objectives:
            raise ConfigError(
                f"the ARM {objective} is no plain LoRA", "a soup is made of LoRAs on one backbone"
            )
    plain = [adapter for adapter in ingredients.values() if adapter is not None]
    if not plain:
        raise ConfigError("a soup of no ARMs", "name LoRA ARMs with --arm")
    return plain
