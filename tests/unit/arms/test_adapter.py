"""PEFT LoRA folders as plain tensors; what is more than plain LoRA is left to PEFT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from oracle import dense
from rounding import nats

import trimtab
from trimtab.arms.adapter import AdapterWeights, LowRank, read_lora, soup
from trimtab.errors import ConfigError


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
    term = lora.layers["model.layers.0.self_attn.q_proj"]
    a, b = term.a, term.b
    assert a.shape == (4, 16) and b.shape == (16, 4)
    assert (term.gain, term.shift, lora.objectives) == (None, None, ())
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
    assert arm.adapter is None and arm.model is not engine.base.model
    [answer] = engine.generate(["hello"], max_new_tokens=3, report=True, ignore_eos=True)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_dir), folder)
    ids = engine.plan(trimtab.Request("hello")).prompts["one"]
    with torch.no_grad():
        logp = theirs.eval()(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    token = answer.tokens[0]
    assert token.rewards["one"] == nats(float(logp[token.token_id]))


def test_an_adapter_that_does_not_fit(tmp_path: Path, base_dir: Path) -> None:
    """Named as trained on this base, but its layers are of another size: refused, named."""
    folder = save_adapter(tmp_path / "lora", base_dir)
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    tensors = {name: torch.ones(4, 4) for name in load_file(path)}
    save_file(tensors, path)
    with pytest.raises(OSError, match=r"does not fit its backbone at model\.layers\.\d"):
        trimtab.load(str(base_dir), {"one": str(folder)})


def term(a: list[list[float]], b: list[list[float]]) -> LowRank:
    return LowRank(torch.tensor(a), torch.tensor(b))


class TestSoup:
    def test_by_hand(self) -> None:
        """Layer u, 1 x 1: ΔW_a = 3 · 2 = 6 (rank 1), ΔW_b = 5 · 1 + 1 · 7 = 12 (rank 2).

        At (⅓, ⅔): 2 + 8 = 10. Averaging A and B apart would give another number. Layer v is b's
        alone: ⅔ · 4 · 3 = 8.
        """
        one = AdapterWeights({"u": term([[2.0]], [[3.0]])})
        two = AdapterWeights({"u": term([[1.0], [7.0]], [[5.0, 1.0]]), "v": term([[3.0]], [[4.0]])})
        mixed = soup({"a": one, "b": two})
        assert mixed.objectives == ("a", "b")
        assert sorted(mixed.layers) == ["u", "v"]
        gains = [mixed.layers[name].gain for name in "uv"]
        assert gains[0] is not None and gains[1] is not None
        assert gains[0].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
        assert gains[1].tolist() == [[0.0], [1.0]]
        for name, expected in (("u", 10.0), ("v", 8.0)):
            update, bias = dense(mixed.layers[name], [1 / 3, 2 / 3])
            assert float(update) == pytest.approx(expected)
            assert bias is None

    def test_of_what_it_cannot_be(self) -> None:
        """None is what `read_lora` makes of more than plain LoRA."""
        plain = AdapterWeights({"u": term([[2.0]], [[3.0]])})
        for other in (None, AdapterWeights(plain.layers, ("c", "d"))):
            with pytest.raises(ConfigError, match="the ARM b is no plain LoRA"):
                soup({"a": plain, "b": other})
