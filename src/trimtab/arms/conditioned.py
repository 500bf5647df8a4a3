"""Conditioned ARMs: a causal LM whose adapted layers take a preference (design.md §4).

PEFT takes no tuner from outside, so the layer is ours; the folder has PEFT's layout and key names,
with a `peft_type` of its own: PEFT refuses it instead of loading a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trimtab.arms.adapter import LORA_A, LORA_B
from trimtab.arms.cores import AffineCore, BilinearCore, Mix
from trimtab.arms.objectives import CONDITIONED
from trimtab.errors import ConfigError, ModelLoadError, PreferenceError
from trimtab.files import write_json
from trimtab.models.folder import read_json
from trimtab.models.protocols import CausalLM

Core = Literal["bilinear", "affine"]
_PEFT_TYPES: dict[Core, str] = dict(zip(("bilinear", "affine"), CONDITIONED, strict=True))
CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class ConditionedConfig:
    """What a conditioned adapter is made of.

    Attributes:
        core: `bilinear` (PARM) or `affine` (UniARM).
        objectives: names, in the order of the preference's entries.
        r: rank R of A and B.
        lora_alpha: the update is scaled by lora_alpha / r.
        lora_dropout: before A.
        target_modules: layers that are adapted.
        preference_r: bilinear: the part of the rank that the preference acts on, r2.
        condition_dim: affine: Q, entries of an objective's vector.
        shift: affine: whether there is a shift δ.
        descriptions: affine: objective -> the text that stands for it.
        base_model_name_or_path: the backbone.
        revision: of the backbone's hub id.
    """

    core: Core
    objectives: tuple[str, ...]
    r: int
    lora_alpha: float
    lora_dropout: float
    target_modules: tuple[str, ...]
    preference_r: int = 0
    condition_dim: int = 0
    shift: bool = True
    descriptions: dict[str, str] = field(default_factory=dict)
    base_model_name_or_path: str = ""
    revision: str | None = None

    @property
    def scaling(self) -> float:
        """s."""
        return self.lora_alpha / self.r

    def save(self, folder: Path) -> None:
        """Write `adapter_config.json`."""
        facts = {"peft_type": _PEFT_TYPES[self.core], "task_type": "CAUSAL_LM", **asdict(self)}
        write_json(folder / CONFIG, facts)

    @classmethod
    def load(cls, folder: str | Path) -> ConditionedConfig:
        """Read `adapter_config.json` of a conditioned ARM."""
        facts = read_json(Path(folder) / CONFIG)
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in facts.items() if key in known}
        wrong = [name for name, good in _GOOD.items() if not good(values.get(name))]
        if wrong or facts.get("peft_type") != _PEFT_TYPES[values["core"]]:
            name = wrong[0] if wrong else "peft_type"
            raise ModelLoadError(
                f"{folder}/{CONFIG} has {name} {facts.get(name)!r}", "train or copy the ARM again"
            )
        if (values.get("preference_r") or 0) > values["r"]:
            raise ModelLoadError(
                f"{folder}/{CONFIG} has preference_r above r", "train or copy the ARM again"
            )
        names = {name: tuple(values[name]) for name in ("objectives", "target_modules")}
        return cls(**{**values, **names})

    def new_core(self) -> BilinearCore | AffineCore:
        """A fresh core of one layer."""
        if self.core == "bilinear":
            return BilinearCore(len(self.objectives), self.r, self.preference_r)
        return AffineCore(self.condition_dim, self.r, shift=self.shift)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


_GOOD: dict[str, Callable[[Any], bool]] = {
    "core": lambda core: core in _PEFT_TYPES,
    "objectives": lambda names: _are_names(names) and len(set(names)) == len(names),
    "target_modules": _are_names,
    "r": lambda r: _is_count(r) and r > 0,
    "lora_alpha": lambda alpha: type(alpha) in (int, float),
    "lora_dropout": lambda share: type(share) in (int, float),
    "preference_r": lambda r: r is None or _is_count(r),
    "condition_dim": lambda q: q is None or _is_count(q),
    "descriptions": lambda texts: texts is None or isinstance(texts, dict),
}


class Conditioning:
    """The preferences of the current forward, which all adapted layers of a model share.

    Args:
        objectives: K names.
        vectors: objective vectors, [K, Q]; Q = 0 without.
        projection: what made them of embeddings, [Q, H + 1]; kept for objectives described later.
    """

    def __init__(
        self, objectives: Sequence[str], vectors: Tensor, projection: Tensor | None = None
    ) -> None:
        self.objectives, self.vectors, self.projection = tuple(objectives), vectors, projection
        self.mix = self.of(torch.full((1, len(objectives)), 1 / len(objectives)))

    def of(self, preference_NK: Tensor) -> Mix:
        """What the cores need to know about some preferences."""
        if preference_NK.shape[-1] != len(self.objectives):
            raise PreferenceError(
                f"a preference has {preference_NK.shape[-1]} entries",
                f"the objectives are: {', '.join(self.objectives)}",
            )
        return Mix(preference_NK, preference_NK @ self.vectors.to(preference_NK.device))

    def open(self, preference_NK: Tensor) -> None:
        """Set the rows' preferences: on the simplex, one per row or one for all."""
        self.mix = self.of(preference_NK.float())


class ConditionedLM(CausalLM, Protocol):
    """A causal LM that `condition_model` put layers into."""

    @property
    def conditioning(self) -> Conditioning:
        """The preferences of its current forward."""

    @property
    def conditioned_config(self) -> ConditionedConfig:
        """What its adapter is made of."""


class ConditionedLayer(nn.Module):
    """`y = W x + s · B · core_p(A x)` with W frozen.

    Args:
        inner: the frozen layer.
        config: of the adapter.
        conditioning: where the preferences of the current forward are found.
    """

    def __init__(
        self, inner: nn.Linear | Conv1D, config: ConditionedConfig, conditioning: Conditioning
    ) -> None:
        super().__init__()
        rows, columns = inner.weight.shape
        outs, ins = (columns, rows) if isinstance(inner, Conv1D) else (rows, columns)
        device = inner.weight.device
        self.inner = inner
        self.lora_A = nn.Parameter(torch.empty(config.r, ins, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outs, config.r, device=device))
        if device.type != "meta":
            nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)
        self.core = config.new_core().to(device)
        self.dropout = nn.Dropout(config.lora_dropout)
        self.scaling = config.scaling
        self._conditioning = conditioning

    @property
    def weight(self) -> Tensor:
        """The frozen layer's, for models that look at it; as with PEFT, they see no adapter."""
        return self.inner.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen layer's."""
        return self.inner.bias

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, in] (or [N · T, in]) -> the same with out features.

        One preference for all rows takes PEFT's own operations in PEFT's order, with the core
        folded into B: an exported LoRA gives the same bits.
        """
        y: Tensor = self.inner(x)
        mix = self._conditioning.mix
        z = nn.functional.linear(self.dropout(x.to(self.lora_A.dtype)), self.lora_A)
        if len(mix.preference) == 1:
            b_OR, bias = self.core.fold(self.lora_B, mix)
            update = nn.functional.linear(z, b_OR, bias)
        else:
            if x.dim() == 3 and len(x) != len(mix.preference):
                raise PreferenceError(
                    f"{len(mix.preference)} preferences for {len(x)} rows", "give one for each row"
                )
            z_NTR = self.core.apply_rows(z.view(len(mix.preference), -1, z.shape[-1]), mix)
            update = nn.functional.linear(z_NTR, self.lora_B).view(y.shape)
        return (y + update * self.scaling).to(y.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """What is trained, by the name it is saved under."""
        core = {f"core.{name}": tensor for name, tensor in self.core.named_parameters()}
        return {LORA_A.lstrip("."): self.lora_A, LORA_B.lstrip("."): self.lora_B, **core}


def condition_model(
    model: Any,
    config: ConditionedConfig,
    vectors: Tensor | None = None,
    projection: Tensor | None = None,
) -> Any:
    """Put fresh conditioned layers into a causal LM, in place, and freeze everything else.

    Args:
        model: a transformers causal LM.
        config: of the adapter.
        vectors: affine: objective vectors, [K, Q].
        projection: affine: what made them, [Q, H + 1].

    Raises:
        ConfigError: no layer is meant, or one that cannot be adapted.
    """
    model.requires_grad_(False)
    vectors = torch.zeros(len(config.objectives), 0) if vectors is None else vectors
    model.conditioning = Conditioning(config.objectives, vectors, projection)
    model.conditioned_config = config
    names = _targets(model, config.target_modules)
    for name in names:
        layer = ConditionedLayer(model.get_submodule(name), config, model.conditioning)
        model.set_submodule(name, layer)
    return model


def _targets(model: Any, wanted: Sequence[str]) -> list[str]:
    """Full names of the layers that the short ones mean; `all-linear` is all but the LM head."""
    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    if tuple(wanted) == ("all-linear",):
        return [name for name, module in linear.items() if module is not head]
    names = [n for n in linear if any(n == w or n.endswith(f".{w}") for w in wanted)]
    if not names or any(linear[name] is head for name in names):
        raise ConfigError(
            f"--lora-target-modules {' '.join(wanted)} is no choice of layers to condition",
            "name linear layers other than the LM head",
        )
    return names


def conditioned_layers(model: CausalLM) -> Iterator[tuple[str, ConditionedLayer]]:
    """Name and layer of everything that `condition_model` put in."""
    for name, module in model.named_modules():
        if isinstance(module, ConditionedLayer):
            yield name, module
