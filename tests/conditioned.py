"""Conditioned ARMs with random weights, and what they come to by the papers' formulas, dense."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from oracle import QKV, add_dense
from safetensors.torch import load_file
from torch import Tensor

from trimtab.arms.conditioned import (
    ConditionedConfig,
    Core,
    condition_model,
    conditioned_layers,
)
from trimtab.arms.conditioned_files import read_conditioned, save_adapter
from trimtab.arms.describe import fit_projection, objective_vectors
from trimtab.engines.local.streams import Stream

CORES: tuple[Core, ...] = ("bilinear", "affine")
TEXTS = {"a": "happy cat", "b": "sad dog", "c": "big red moon", "d": "very little story"}


def conditioned(
    model: Any,
    core: Core,
    objectives: Sequence[str] = "abc",
    *,
    seed: int = 5,
    layers: Sequence[str] = QKV,
    tokenizer: Any = None,
    shift: bool = True,
) -> Any:
    """A copy of a model with a conditioned adapter of rank 6, all of its weights random.

    Args:
        model: a causal LM; it stays as it is. The adapter is float64 if it is, else float32.
        core: `bilinear` or `affine`.
        objectives: names.
        seed: of the weights.
        layers: short names of the layers that are adapted.
        tokenizer: makes the objectives' vectors of `TEXTS`; without one they are random.
        shift: affine: whether there is a shift.
    """
    generator = torch.Generator().manual_seed(seed)
    described = {name: TEXTS.get(name, name) for name in objectives} if core == "affine" else {}
    config = ConditionedConfig(
        core, tuple(objectives), 6, 12.0, 0.0, tuple(layers), preference_r=4, condition_dim=3,
        shift=shift, descriptions=described,
    )  # fmt: skip
    vectors = directions = None
    if core == "affine":
        hidden = model.get_input_embeddings().embedding_dim
        directions = torch.randn(3, hidden + 1, generator=generator)
        # sixteenths: mixed by quarters they are exact, also in float32
        vectors = (16 * torch.randn(len(objectives), 3, generator=generator)).round() / 16
        if tokenizer is not None:
            directions = fit_projection(model, tokenizer, described, 3)
            vectors = objective_vectors(model, tokenizer, described, directions)
    found = condition_model(copy.deepcopy(model), config, vectors, directions)
    with torch.no_grad():
        for _, layer in conditioned_layers(found):
            for tensor in layer.tensors().values():
                tensor.copy_(0.4 * torch.randn(tensor.shape, generator=generator))
    return found.double().eval() if model.dtype == torch.float64 else found.eval()


def save_arm(folder: Path, base: Path, core: Core, *args: Any, **options: Any) -> Path:
    """A conditioned ARM of a base folder on disk, as training leaves it there."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    folder.mkdir(parents=True, exist_ok=True)
    model = conditioned(plain, core, *args, tokenizer=tokenizer, **options)
    model.conditioned_config = replace(model.conditioned_config, base_model_name_or_path=str(base))
    save_adapter(model, folder)
    tokenizer.save_pretrained(folder)
    return folder


def with_core(
    stream: Stream, name: str, core: Core, folder: Path, *args: Any, **options: Any
) -> Stream:
    """A stream with a conditioned adapter, by way of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(conditioned(stream.model, core, *args, **options), folder)
    dtype = stream.model.dtype
    return replace(
        stream, name=name, adapter=read_conditioned(str(folder), dtype=dtype, device="cpu")
    )


def by_formula(plain: Any, folder: Path, preference: Mapping[str, float]) -> Any:
    """The model that a folder means at one preference: dense matrices added to a copy."""
    tensors = {
        key: tensor.to(plain.dtype)
        for key, tensor in load_file(folder / "adapter_model.safetensors").items()
    }
    facts = json.loads((folder / "adapter_config.json").read_text())
    weights = [preference[name] for name in facts["objectives"]]
    model = copy.deepcopy(plain)
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        own = {
            short.removeprefix(f"base_model.model.{name}."): tensor
            for short, tensor in tensors.items()
            if short.startswith(f"base_model.model.{name}.")
        }
        formula = _bilinear if facts["peft_type"] == "PBLORA" else _affine
        update, bias = formula(facts, own, weights, tensors.get("condition.vectors"))
        s = facts["lora_alpha"] / facts["r"]
        add_dense(model.get_submodule(name), s * update, None if bias is None else s * bias)
    return model


def _bilinear(
    facts: Any, own: Mapping[str, Tensor], weights: Sequence[float], _: Any
) -> tuple[Tensor, None]:
    """PARM: B1 W1 A1 + B2 W2(p) A2, with W2(p) = Σ p_i U_i."""
    r1 = facts["r"] - facts["preference_r"]
    a, b = own["lora_A.weight"], own["lora_B.weight"]
    w2 = torch.zeros(facts["preference_r"], facts["preference_r"], dtype=a.dtype)
    for p, flat in zip(weights, own["core.U"], strict=True):
        for i in range(len(w2)):
            for j in range(len(w2)):
                w2[i, j] += p * flat[i * len(w2) + j]
    return b[:, :r1] @ own["core.W1"] @ a[:r1] + b[:, r1:] @ w2 @ a[r1:], None


def _affine(
    facts: Any, own: Mapping[str, Tensor], weights: Sequence[float], vectors: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """UniARM: B diag(1 + G c) A and the bias B D c, with c = Σ p_i o_i."""
    assert vectors is not None
    c = torch.stack([p * vector for p, vector in zip(weights, vectors, strict=True)]).sum(0)
    gamma = own["core.G"] @ c
    update = own["lora_B.weight"] @ torch.diag(1 + gamma) @ own["lora_A.weight"]
    if not facts["shift"]:
        return update, None
    return update, own["lora_B.weight"] @ (own["core.D"] @ c)
