"""Conditioned ARMs as folders: what is saved, what comes back, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conditioned import CORES, conditioned, save_arm
from conftest import make_model, save_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import trimtab
from trimtab.arms.conditioned import ConditionedConfig, Core
from trimtab.arms.load import load_arm
from trimtab.errors import ModelLoadError

ROWS = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
Q = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module", params=CORES)
def core(request: pytest.FixtureRequest) -> Core:
    found: Core = request.param
    return found


@pytest.fixture(scope="module")
def arm(core: Core, base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditioned ARM of a, b and c on the base, with random weights."""
    return save_arm(tmp_path_factory.mktemp("arm") / core, base_dir, core)


@pytest.fixture(scope="module")
def plain(base_dir: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base_dir).eval()


def logits(model: Any, rows: Tensor) -> Tensor:
    """The same few tokens once per preference."""
    model.conditioning.open(rows)
    with torch.no_grad():
        found: Tensor = model(torch.arange(4, 12)[None].expand(len(rows), -1)).logits
    return found


class TestFolder:
    def test_round_trip(self, arm: Path, core: Core, plain: Any, base_dir: Path) -> None:
        """Bit for bit; what it is made of and which base it needs are in its config."""
        tokenizer = transformers.AutoTokenizer.from_pretrained(base_dir)
        before, after = conditioned(plain, core, tokenizer=tokenizer), load_arm(str(arm))
        for rows in ROWS, ROWS[:1]:
            assert torch.equal(logits(before, rows), logits(after, rows))
        config = ConditionedConfig.load(arm)
        assert config == after.conditioned_config
        assert config.base_model_name_or_path == str(base_dir)
        assert (config.core, config.objectives, config.scaling) == (core, ("a", "b", "c"), 2.0)
        assert bool(config.descriptions) == (core == "affine")

    def test_files_and_keys(self, arm: Path, core: Core) -> None:
        """safetensors only, PEFT's key names, and no copy of a backbone weight."""
        names = {path.name for path in arm.iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors"} <= names
        assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
        with safe_open(arm / "adapter_model.safetensors", "pt") as file:
            keys, metadata = set(file.keys()), file.metadata()
        own = {"bilinear": ("W1", "U"), "affine": ("G", "D")}[core]
        kinds = ("lora_A.weight", "lora_B.weight", *(f"core.{name}" for name in own))
        layers = [f"model.layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qkv"]
        expected = {f"base_model.model.{layer}.{kind}" for layer in layers for kind in kinds}
        condition = {"condition.vectors", "condition.projection"}
        assert keys == expected | (condition if core == "affine" else set())
        assert metadata == {"format": "pt"}
        facts = json.loads((arm / "adapter_config.json").read_text())
        assert facts["peft_type"] == {"bilinear": "PBLORA", "affine": "MOSLORA"}[core]

    def test_peft_refuses_it(self, arm: Path, base_dir: Path) -> None:
        """Rather than load A and B as a plain LoRA that they are not."""
        from peft import PeftModel

        plain = transformers.AutoModelForCausalLM.from_pretrained(base_dir)
        with pytest.raises((KeyError, ValueError, TypeError), match=r"PBLORA|MOSLORA"):
            PeftModel.from_pretrained(plain, arm)


A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
BROKEN: dict[str, Callable[[dict[str, Tensor], dict[str, Any]], object]] = {
    "no B": lambda tensors, _: tensors.pop(B),
    "no A": lambda tensors, _: tensors.pop(A),
    "no core": lambda tensors, _: [tensors.pop(k) for k in [*tensors] if f"{Q}.core" in k],
    "A of another rank": lambda tensors, _: tensors.update({A: torch.ones(5, 16)}),
    "B of another rank": lambda tensors, _: tensors.update({B: torch.ones(16, 5)}),
    "another width": lambda tensors, _: tensors.update({A: torch.ones(6, 8)}),
    "another rank in the config": lambda _, facts: facts.update(r=8),
    "a layer that is not there": lambda tensors, _: tensors.update(
        {k.replace("layers.1", "layers.7"): tensors[k].clone() for k in [*tensors] if Q in k}
    ),
    "a tensor too many": lambda tensors, _: tensors.update({f"{Q}.lora_magnitude": torch.ones(16)}),
    "no rank in the config": lambda _, facts: facts.pop("r"),
    "no objectives in the config": lambda _, facts: facts.pop("objectives"),
    "objectives as text": lambda _, facts: facts.update(objectives="helpful"),
    "a rank as text": lambda _, facts: facts.update(r="6"),
    "no rank at all": lambda _, facts: facts.update(r=0),
    "another core": lambda _, facts: facts.update(core="other"),
    "somebody else's PBLoRA": lambda _, facts: [facts.pop(key) for key in ("core", "objectives")],
    "one more objective in the config": lambda _, facts: facts["objectives"].append("d"),
}


@pytest.mark.parametrize("load", ["engine", "arm"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_folder_is_refused_in_one_line(
    arm: Path, base_dir: Path, tmp_path: Path, what: str, load: str
) -> None:
    """By the engine, which reads tensors, and where the ARM is loaded as a model."""
    tensors = load_file(arm / "adapter_model.safetensors")
    facts = json.loads((arm / "adapter_config.json").read_text())
    BROKEN[what](tensors, facts)
    folder = broken(tmp_path / "broken", arm)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    with pytest.raises(ModelLoadError) as caught:
        if load == "arm":
            load_arm(str(folder))
        else:
            trimtab.load(str(base_dir), {"x": str(folder)})
    assert "\n" not in str(caught.value)
    assert "__init__" not in str(caught.value)
    assert caught.value.hint


def broken(folder: Path, arm: Path) -> Path:
    """A copy of an ARM that can be spoilt."""
    folder.mkdir()
    for path in arm.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_truncated_file(arm: Path, base_dir: Path, tmp_path: Path) -> None:
    folder = broken(tmp_path / "broken", arm)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    for load in (load_arm, lambda name: trimtab.load(str(base_dir), {"x": name})):
        with pytest.raises(ModelLoadError, match="is corrupt: not a whole safetensors file"):
            load(str(folder))


def test_vectors_that_are_missing(base_dir: Path, tmp_path: Path) -> None:
    """An affine ARM without its objectives' vectors knows none of them."""
    folder = save_arm(tmp_path / "arm", base_dir, "affine")
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({key: t for key, t in tensors.items() if not key.startswith("condition")}, path)
    for load in (load_arm, lambda name: trimtab.load(str(base_dir), {"x": name})):
        with pytest.raises(ModelLoadError):
            load(str(folder))


def test_a_base_of_another_width(arm: Path, tmp_path: Path) -> None:
    """Its layers are of another size: the first that does not fit is named."""
    other = save_model(tmp_path / "other", 1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(other)
    make_model(1, len(tokenizer), hidden=24).save_pretrained(other)
    folder = broken(tmp_path / "broken", arm)
    facts = json.loads((folder / "adapter_config.json").read_text())
    facts["base_model_name_or_path"] = str(other)
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    for load in (load_arm, lambda name: trimtab.load(str(other), {"x": name})):
        with pytest.raises(ModelLoadError, match=r"does not fit its backbone at model\.layers\.0"):
            load(str(folder))
