"""Names that changed between versions of transformers: found out in one place, and nowhere else."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import transformers
from conftest import make_model

import trimtab
from trimtab.models.renamed import cache_name, checkpointing_options, runs_layers_again

GIVEN_UP = (
    "past_key_values", "cache_params", "is_gradient_checkpointing", "gradient_checkpointing_enable",
    "gradient_checkpointing_kwargs",
)  # fmt: skip


def test_no_other_module_knows_them() -> None:
    """A warning of PEFT's own about one of them is let pass, so none of ours would be heard."""
    root = Path(trimtab.__file__).parent
    found = {
        (path.name, name)
        for path in root.rglob("*.py")
        for name in GIVEN_UP
        if name in path.read_text(encoding="utf-8")
    }
    assert {path for path, _ in found} == {"renamed.py"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["input_ids", "past_key_values"], "past_key_values"),
        (["input_ids", "cache_params"], "cache_params"),
        (["input_ids", "cache"], "cache"),
        (["input_ids", "state"], "past_key_values"),
    ],
)
def test_the_cache(names: list[str], expected: str) -> None:
    assert cache_name(names) == expected


@pytest.mark.parametrize("config", [transformers.LlamaConfig, transformers.MambaConfig])
def test_the_cache_of_this_version(config: type) -> None:
    """Among the parameters and in the output it is one name, and what is given is used."""
    small = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = transformers.AutoModel.from_config(config(**small, intermediate_size=16)).eval()
    name = cache_name(inspect.signature(type(model).forward).parameters)
    output = model(model.dummy_inputs["input_ids"] % 8, use_cache=True)
    assert cache_name({*output}) == name and output[name] is not None


@pytest.mark.parametrize("on", [False, True])
def test_options_of_this_version(on: bool, tmp_path: Path) -> None:
    """Taken without a warning, and understood."""
    options = transformers.TrainingArguments(tmp_path, use_cpu=True, **checkpointing_options(on))
    assert options.gradient_checkpointing is on
    assert options.gradient_checkpointing_kwargs == {"use_reentrant": False}


def test_layers_that_are_run_again() -> None:
    model = make_model(0, 20)
    assert not runs_layers_again(model)
    model.model.layers[1].gradient_checkpointing = True
    assert runs_layers_again(model)
