"""PEFT LoRA folders as plain tensors; what is more than plain LoRA is left to PEFT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model

import trimtab
from trimtab.arms.adapter import read_lora


def save_adapter(folder: Path, base: Path | None = None, **options: Any) -> Path:
    """A LoRA with all tensors set to 1, on q_proj."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(base) if base else make_model(0, 40)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(plain, LoraConfig(**{**settings, **options}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.fill_(0.1)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_names_shapes_and_scale(tmp_path: Path, rslora: bool, scale: float) -> None:
    """`s` is alpha / r, or alpha / √r for rsLoRA, and is folded into B."""
    folder = save_adapter(tmp_path, use_rslora=rslora)
    lora = read_lora(str(folder), dtype=torch.float32, device="cpu")
    assert lora is not None
    assert sorted(lora.layers) == [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
    a, b = lora.layers["model.layers.0.self_attn.q_proj"]
    assert a.shape == (4, 16) and b.shape == (16, 4)
    torch.testing.assert_close(a, torch.full_like(a, 0.1))
    torch.testing.assert_close(b, torch.full_like(b, 0.1 * scale))


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]},
     {"alpha_pattern": {"q_proj": 3}}],
)  # fmt: skip
def test_more_than_plain_lora(tmp_path: Path, base_dir: Path, options: dict[str, Any]) -> None:
    """Not read here, and yet it steers: PEFT runs it on the base's own tensors."""
    folder = save_adapter(tmp_path, base_dir, **options)
    assert read_lora(str(folder), dtype=torch.float32, device="cpu") is None
    engine = trimtab.load(str(base_dir), {"one": str(folder)})
    [arm] = engine.arms
    assert arm.lora is None and arm.model is not engine.base.model
    [answer] = engine.generate(["hello"], max_new_tokens=3, report=True, ignore_eos=True)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_dir), folder)
    ids = engine.plan(trimtab.Request("hello")).prompts["one"]
    with torch.no_grad():
        logp = theirs.eval()(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    token = answer.tokens[0]
    assert token.rewards["one"] == pytest.approx(float(logp[token.token_id]), abs=1e-4)


def test_an_adapter_that_does_not_fit(tmp_path: Path, base_dir: Path) -> None:
    """Named as trained on this base, but its layers are of another size: refused, named."""
    folder = save_adapter(tmp_path / "lora", base_dir)
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = {name: torch.ones(4, 4) for name in load_file(path)}
    save_file(tensors, path)
    with pytest.raises(OSError, match=r"does not fit its backbone at model\.layers\.\d"):
        trimtab.load(str(base_dir), {"one": str(folder)})
