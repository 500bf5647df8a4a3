"""Engines whose weights are packed, as users load them, against the specification.

Packing takes a model over, so the specification runs those of an engine that has not packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conditioned import save_arm
from conftest import packing
from oracle import GREEDY, is_specified
from test_local_engine import make_lora, requests_for

import trimtab
from trimtab.engines.local import LocalEngine
from trimtab.engines.local.linear import Piece


def loaded(base: Path, guides: Mapping[str, Any]) -> tuple[LocalEngine, LocalEngine]:
    """One that has packed its weights, and one that has not."""
    with packing():
        packed = trimtab.load(str(base), **guides)
    return packed, trimtab.load(str(base), **guides)


def guides_of(kind: str, base: Path, arm: Path, folder: Path) -> dict[str, Any]:
    if kind == "alone":
        return {}
    if kind == "instruction and contrast":
        lora = make_lora(folder / "lora", base, 3)
        return {"contrast": {"c": (str(lora), str(base))}, "instruct": {"i": "big red sun"}}
    if kind == "conditioned":
        return {"arms": {"abc": str(save_arm(folder / "parm", base, "bilinear"))}}
    loras = {f"l{i}": str(make_lora(folder / f"l{i}", base, i)) for i in (3, 4)}
    return {"arms": {**loras, "whole": str(arm)}}


@pytest.mark.parametrize("kind", ["alone", "arms", "conditioned", "instruction and contrast"])
def test_as_specified(kind: str, base_dir: Path, arm_dir: Path, tmp_path: Path) -> None:
    packed, plain = loaded(base_dir, guides_of(kind, base_dir, arm_dir, tmp_path))
    pieces = [m for m in packed.base.model.modules() if isinstance(m, Piece)]
    assert pieces
    if not torch.cpu._is_amx_tile_supported():  # there MKL is faster for few rows
        assert all(piece._joint._weight.is_mkldnn for piece in pieces)
    for temperature in (0.0, 1.0):
        requests = requests_for(packed, GREEDY.but(temperature=temperature, max_new_tokens=16))
        for speculate in ("off", "on"):
            answers = packed.generate(requests, speculate=speculate)  # type: ignore[arg-type]
            for request, answer in zip(requests, answers, strict=True):
                assert is_specified(plain, request, answer.token_ids)


def test_one_copy_of_the_weights(base_dir: Path, tmp_path: Path) -> None:
    """Packed, a LoRA ARM still shares the base's; the layers hold on to nothing of their own."""
    lora = make_lora(tmp_path / "lora", base_dir, 3)
    packed, plain = loaded(base_dir, {"arms": {"a": str(lora)}})
    assert len(packed.groups) == len(plain.groups) == 1
    layers = [m for m in plain.base.model.modules() if isinstance(m, torch.nn.Linear)]
    linear = sum(layer.weight.numel() for layer in layers)
    left = sum(p.numel() for p in packed.base.model.parameters())
    whole = sum(p.numel() for p in packed.base.model.get_input_embeddings().parameters())
    assert linear > 0 and left - whole < linear / 10
