"""Quantised bases: close to the plain ones, steered like them, and refused where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tokenizer

import trimtab
from trimtab.errors import ConfigError
from trimtab.models.quantization import quantized_loading
from trimtab.models.types import Quantization

PROMPTS = ["the cat sat", "hello thank you"]


@pytest.fixture(scope="module")
def wide_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose features fill the groups of 128 weights that int4 kernels take."""
    from conftest import make_model

    folder, tokenizer = tmp_path_factory.mktemp("wide"), make_tokenizer()
    model = make_model(1, len(tokenizer), hidden=128)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 0.3
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lora_on(base: Path, folder: Path) -> Path:
    """A LoRA with a non-zero B, as PEFT saves it."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(plain, LoraConfig(task_type=TaskType.CAUSAL_LM, r=4))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def reports(engine: trimtab.engines.local.LocalEngine) -> list[Any]:
    answers = engine.generate(PROMPTS, max_new_tokens=1, temperature=0, report=True)
    return [answer.tokens[0] for answer in answers]


@pytest.mark.parametrize(("bits", "nats"), [("int8", 0.05), ("int4", 0.6)])
def test_close_to_the_plain_base_with_a_fused_arm(
    wide_dir: Path, tmp_path: Path, bits: Quantization, nats: float
) -> None:
    """The base moves by the rounding of its weights, and so does the ARM on the same backbone."""
    arms = {"one": str(lora_on(wide_dir, tmp_path / "arm"))}
    plain = trimtab.load(str(wide_dir), arms)
    small = trimtab.load(str(wide_dir), arms, quantization=bits)
    assert len(small.groups) == 1
    layer = small.base.model.model.layers[0].mlp.up_proj
    assert type(layer.weight).__name__ != "Parameter"
    pairs = list(zip(reports(small), reports(plain), strict=True))
    alike = [(ours, theirs) for ours, theirs in pairs if ours.token_id == theirs.token_id]
    assert alike
    for ours, theirs in alike:
        assert ours.logp_base == pytest.approx(theirs.logp_base, abs=nats)
        assert ours.rewards["one"] == pytest.approx(theirs.rewards["one"], abs=nats)


def test_int4_has_kernels_for_bfloat16_only() -> None:
    with pytest.raises(ConfigError, match="bfloat16"):
        quantized_loading("int4", "float32")
    assert quantized_loading("int4", "auto")["dtype"] == "bfloat16"


def test_without_optimum_quanto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install optimum-quanto"):
        quantized_loading("int8", "auto")
