"""Conditioned adapters on disk: PEFT's layout and key names, safetensors only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.arms.adapter import LORA_A, LORA_B, PREFIX, WEIGHTS, AdapterWeights, LowRank
from trimtab.arms.conditioned import (
    ConditionedConfig,
    ConditionedLM,
    condition_model,
    conditioned_layers,
)
from trimtab.arms.cores import AffineCore, BilinearCore, Mix
from trimtab.errors import ModelLoadError

VECTORS, PROJECTION = "condition.vectors", "condition.projection"


def adapter_tensors(model: ConditionedLM) -> dict[str, Tensor]:
    """What a folder holds, under PEFT's key names: trained tensors, and the objectives' vectors."""
    tensors = {
        f"{PREFIX}{name}.{key}": tensor
        for name, layer in conditioned_layers(model)
        for key, tensor in layer.tensors().items()
    }
    if model.conditioning.vectors.numel():
        tensors[VECTORS] = model.conditioning.vectors
    if model.conditioning.projection is not None:
        tensors[PROJECTION] = model.conditioning.projection
    return {key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}


def save_adapter(model: ConditionedLM, folder: Path) -> None:
    """Write the adapter of a conditioned model: safetensors and `adapter_config.json`."""
    model.conditioned_config.save(folder)
    save_file(adapter_tensors(model), folder / WEIGHTS, metadata={"format": "pt"})


def load_adapter_tensors(model: ConditionedLM, tensors: dict[str, Tensor]) -> None:
    """Put saved tensors into a conditioned model.

    Raises:
        ModelLoadError: a tensor is missing, left over or of another shape.
    """
    left = dict(tensors)
    left.pop(VECTORS, None)
    left.pop(PROJECTION, None)
    for name, layer in conditioned_layers(model):
        for key, tensor in layer.tensors().items():
            saved = left.pop(f"{PREFIX}{name}.{key}", None)
            if saved is None or saved.shape != tensor.shape:
                raise ModelLoadError(
                    f"the adapter does not fit its backbone at {name}",
                    "name the base that the ARM was trained on",
                )
            tensor.data.copy_(saved)
    if left:
        raise ModelLoadError(
            f"the adapter has tensors for layers that are not there ({next(iter(left))})",
            "name the base that the ARM was trained on",
        )


def with_conditioned_adapter(carrier: Any, folder: str) -> Any:
    """A model with a conditioned ARM's adapter put into it (the carrier is changed)."""
    config, tensors = read_folder(folder)
    model = condition_model(carrier, config, tensors.get(VECTORS), tensors.get(PROJECTION))
    load_adapter_tensors(model, tensors)
    return model.eval()


@torch.no_grad()
def read_conditioned(
    folder: str, *, dtype: torch.dtype, device: str, more: Mapping[str, Tensor] | None = None
) -> AdapterWeights:
    """A conditioned ARM's adapter as plain tensors, for streams on a shared backbone.

    Args:
        folder: of the ARM.
        dtype: of the tensors.
        device: where to put them.
        more: affine: further objectives, name -> vector [Q].
    """
    config, tensors = read_folder(folder)
    objectives = (*config.objectives, *(more or {}))
    vectors = tensors.get(VECTORS, torch.zeros(len(config.objectives), 0))
    vectors = torch.cat([vectors, *(v[None] for v in (more or {}).values())])
    mixes = Mix(torch.eye(len(objectives)), vectors.float())
    layers = {}
    for key in [key for key in tensors if key.endswith(LORA_A)]:
        stem = key.removesuffix(LORA_A)
        core = layer_core(config, tensors, stem)
        b = config.scaling * tensors[f"{stem}{LORA_B}"].float()
        term = core.columns(tensors[key].float(), b, mixes)
        layers[stem.removeprefix(PREFIX)] = _moved(term, dtype, device)
    return AdapterWeights(layers, objectives)


def read_folder(folder: str) -> tuple[ConditionedConfig, dict[str, Tensor]]:
    """Config and tensors of a conditioned ARM, checked against each other.

    Raises:
        ModelLoadError: a tensor is missing, left over or of another shape than the config says.
    """
    config = ConditionedConfig.load(folder)
    tensors = load_file(Path(folder) / WEIGHTS)
    count, features = len(config.objectives), config.condition_dim
    shapes = {
        f".core.{name}": tensor.shape for name, tensor in config.new_core().named_parameters()
    }
    stems = {key.rpartition(".core.")[0] or key.rpartition(".lora_")[0] for key in tensors}
    left = set(tensors) - {VECTORS, PROJECTION}
    for stem in stems - {""}:
        wanted = {**shapes, LORA_A: (config.r, None), LORA_B: (None, config.r)}
        for part, shape in wanted.items():
            if not _fits(tensors.get(f"{stem}{part}"), shape):
                raise ModelLoadError(f"{folder} is not whole at {stem}{part}", "train it again")
            left.discard(f"{stem}{part}")
    good = config.core == "bilinear" or _fits(tensors.get(VECTORS), (count, features))
    if left or not good:
        name = next(iter(sorted(left)), VECTORS)
        raise ModelLoadError(f"{folder} is not whole: {name} is wrong", "train it again")
    return config, tensors


def _fits(tensor: Tensor | None, shape: Sequence[int | None]) -> bool:
    """Whether a tensor is there and has this shape; None is any size."""
    if tensor is None or tensor.dim() != len(shape):
        return False
    return all(want in (None, size) for size, want in zip(tensor.shape, shape, strict=True))


def layer_core(
    config: ConditionedConfig, tensors: Mapping[str, Tensor], stem: str
) -> BilinearCore | AffineCore:
    """One layer's core from a folder's tensors, whose keys begin with `stem`."""
    core = config.new_core()
    core.load_state_dict({name: tensors[f"{stem}.core.{name}"] for name in core.state_dict()})
    return core


def _moved(term: LowRank, dtype: torch.dtype, device: str) -> LowRank:
    """Factors in the layers' type; gains and shifts stay float32, they cost nothing."""
    a, b = (tensor.to(device, dtype) for tensor in (term.a, term.b))
    rest = [None if t is None else t.float().to(device) for t in (term.gain, term.shift)]
    return LowRank(a, b, *rest)
