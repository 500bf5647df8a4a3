"""The protocols say nothing of transformers' objects that is not there."""

import inspect
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from trimtab.arms.conditioned import ConditionedConfig, ConditionedLM, condition_model
from trimtab.models.load import load_config, load_model, load_tokenizer
from trimtab.models.protocols import CausalLM, Config, TextConfig, Tokenizer


def told(protocol: type) -> set[str]:
    """Names of what a protocol asks for."""
    names: set[str] = set()
    for kind in protocol.__mro__:
        if getattr(kind, "_is_protocol", False):
            names |= {*vars(kind), *inspect.get_annotations(kind)}
    return {n for n in names if not n.startswith("_") or n in ("__call__", "__len__")}


def test_a_tokenizer_and_a_config_have_what_is_told_of_them(base_dir: Path) -> None:
    tokenizer, config = load_tokenizer(str(base_dir)), load_config(str(base_dir))
    assert {"__call__", "eos_token_id", "chat_template"} <= told(Tokenizer)
    for found, protocol in (
        (tokenizer, Tokenizer),
        (config, Config),
        (config.get_text_config(), TextConfig),
    ):
        missing = sorted(name for name in told(protocol) if not hasattr(found, name))
        assert not missing, f"{protocol.__name__}: {missing}"


@pytest.mark.parametrize("kind", ["plain", "peft", "conditioned"])
def test_a_model_has_what_is_told_of_it(base_dir: Path, kind: str) -> None:
    model, protocol = load_model(str(base_dir)), CausalLM
    if kind == "peft":
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    if kind == "conditioned":
        config = ConditionedConfig("bilinear", ("a", "b"), 4, 8.0, 0.0, ("q_proj",), 2)
        model, protocol = condition_model(model, config), ConditionedLM
        assert "conditioning" in told(protocol)
    missing = sorted(name for name in told(protocol) if not hasattr(model, name))
    assert not missing, missing
