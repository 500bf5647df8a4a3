"""Sequence classifiers as scorers: their own head, on the whole chat, as transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from classifiers import classifier, saved
from conftest import make_tokenizer, save_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from trimtab.arms.reward_model import RewardModel
from trimtab.errors import ConfigError, ModelLoadError
from trimtab.models.classifiers import is_classifier, require_language_model, require_one_output
from trimtab.scoring.specs import load_scorer

PROMPTS: list[Any] = ["the cat", [{"role": "user", "content": "hello"}], "a very big story , yes"]
RESPONSES = ["sat on the mat", "yes", "once upon a time the sun ran on"]


def by_transformers(model: Any, tokenizer: Any) -> list[float]:
    """Each chat alone through the template and the model's own forward."""
    found = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = tokenizer.apply_chat_template(
            [*chat, {"role": "assistant", "content": response}], tokenize=False
        )
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            found.append(model(**ids).logits.item())
    return found


def rewards(folder: str, batch_size: int = 16) -> list[float]:
    scored = RewardModel(folder).score(PROMPTS, RESPONSES, batch_size=batch_size)
    return [found.reward for found in scored]


@pytest.mark.parametrize("pad", [0, 1, None])
def test_a_classifier_scores_by_its_own_head(pad: int | None, tmp_path: Path) -> None:
    """A batch as one by one, also where the config's pad (1) is not the tokenizer's (0), or none.

    The template ends with a line end after the end of the turn: the head reads that.
    """
    model = classifier(pad=pad)
    folder = saved(tmp_path / "rm", model)
    expected = by_transformers(model, make_tokenizer())
    assert max(expected) - min(expected) > 0.1  # they could be told apart
    assert rewards(folder) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert rewards(folder, batch_size=1) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert load_scorer(folder, "good").score(PROMPTS, RESPONSES) == pytest.approx(
        expected, rel=1e-5, abs=1e-6
    )


def test_text_without_a_template_ends_with_its_end(tmp_path: Path) -> None:
    model, tokenizer = classifier(), make_tokenizer(template=None)
    folder = saved(tmp_path / "rm", model, tokenizer)
    ids = tokenizer("the cat sat<|end|>", return_tensors="pt")
    with torch.no_grad():
        expected = model(**ids).logits.item()
    for response in (" sat", " sat<|end|>"):
        [scored] = RewardModel(folder).score(["the cat"], [response])
        assert scored.reward == pytest.approx(expected, rel=1e-5)


def test_an_encoder_without_a_template_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=400, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    folder = saved(tmp_path / "bert", model, make_tokenizer(template=None))
    with pytest.raises(ConfigError, match="has no chat template: how an encoder reads"):
        rewards_of = RewardModel(folder)
        rewards_of.score(["the cat"], ["sat"])
    templated = saved(tmp_path / "templated", model)
    expected = by_transformers(model, make_tokenizer())
    assert rewards(templated) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def adapter(folder: Path, base: Path, seed: int = 0, labels: int = 1) -> Any:
    """A LoRA of a classifier made from a causal LM, its head and its matrices moved."""
    options: dict[str, Any] = {"num_labels": labels, "dtype": torch.float32}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, **options)
    model = get_peft_model(
        model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj", "v_proj"])
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    saved(folder, model)
    return model.eval()


def test_an_adapter_scores_with_the_head_it_holds(base_dir: Path, tmp_path: Path) -> None:
    model = adapter(tmp_path / "lora", base_dir)
    expected = by_transformers(model, make_tokenizer())
    for _ in range(2):  # a head that was left to chance would differ
        assert rewards(str(tmp_path / "lora")) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "score" not in k}, file)
    with pytest.raises(ModelLoadError, match=r"holds no head \(score.weight\); save it again"):
        load_scorer(str(tmp_path / "lora"), "good")
    three = adapter(tmp_path / "three", base_dir, labels=3)
    assert three.config.num_labels == 3
    with pytest.raises(ModelLoadError, match="classifier with 3 outputs"):
        load_scorer(str(tmp_path / "three"), "good")


def test_a_trajectory_model_of_ours_reads_to_the_end_of_the_turn(
    base_dir: Path, tmp_path: Path
) -> None:
    """As it was trained: without the line end that the template writes after it."""
    model, tokenizer = adapter(tmp_path / "lora", base_dir), make_tokenizer()
    (tmp_path / "lora" / "trimtab.json").write_text(json.dumps({"method": "trajectory"}))
    ids = tokenizer("<|user|>the cat<|assistant|>sat<|end|>", return_tensors="pt")
    with torch.no_grad():
        expected = model(**ids).logits.item()
    found = RewardModel(str(tmp_path / "lora")).score(["the cat"] * 2, ["sat", "sat on the mat"])
    assert found[0].reward == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_classifier_of_several_outputs_is_refused_by_their_names(tmp_path: Path) -> None:
    named = classifier(3, id2label={0: "bad", 1: "so so", 2: "good"})
    folder = saved(tmp_path / "three", named)
    with pytest.raises(ModelLoadError, match=r"with 3 outputs \(bad, so so, good\), not a reward"):
        load_scorer(folder, "good")
    with pytest.raises(ModelLoadError, match="a scorer has one output"):
        RewardModel(folder)
    two = saved(tmp_path / "two", classifier(2))  # the default, which config.json leaves out
    with pytest.raises(ModelLoadError, match=r"2 outputs \(LABEL_0, LABEL_1\)"):
        require_one_output(two)


def test_what_is_a_classifier(base_dir: Path, tmp_path: Path) -> None:
    assert is_classifier(saved(tmp_path / "rm", classifier()))
    assert not is_classifier(str(base_dir)) and not is_classifier("owner/name")
    adapter(tmp_path / "lora", base_dir)
    assert is_classifier(str(tmp_path / "lora"))
    said = r"rm is a sequence classifier \(LlamaForSequenceClassification\), not a language model"
    with pytest.raises(ModelLoadError, match=said + "; it can judge whole"):
        require_language_model(str(tmp_path / "rm"))
    with pytest.raises(ModelLoadError, match="an adapter with task_type SEQ_CLS"):
        require_language_model(str(tmp_path / "lora"))
    require_language_model(str(base_dir))
    facts = tmp_path / "lora" / "adapter_config.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "task_type": "CAUSAL_LM"}))
    assert not is_classifier(str(tmp_path / "lora"))


def test_equal_texts_tie_exactly(base_dir: Path, tmp_path: Path) -> None:
    """Whatever batch they fall into: no label may hang on the last place of a float."""
    words = ["sat", "ran on", "once upon a time the sun ran on", "yes", "very very good"]
    for folder in (str(base_dir), saved(tmp_path / "rm", classifier())):
        model = RewardModel(folder)
        found = [s.reward for s in model.score(["the cat"] * 15, words * 3, batch_size=4)]
        assert found[:5] == found[5:10] == found[10:]
        assert len(set(found)) == 5


# --- numbers that are none ----------------------------------------------------------------------


def broken(folder: Path, name: str, value: float) -> str:
    """The weights of a model with one number of one tensor broken."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_gives_nan_is_named(value: float, tmp_path: Path) -> None:
    lm = broken(save_model(tmp_path / "lm"), "model.norm.weight", value)
    rm = broken(Path(saved(tmp_path / "rm", classifier())), "model.norm.weight", value)
    with pytest.raises(ModelLoadError, match=rf"{lm} gives (NaN|an infinite number) on ordinary"):
        load_scorer(lm, "good").score(["the cat"], ["sat"])
    with pytest.raises(ModelLoadError, match=rf"model {rm} gives (NaN|-?inf) for row 1"):
        load_scorer(rm, "good").score(["the cat"], ["sat"])
    with pytest.raises(ModelLoadError, match=r"gives (NaN|-?inf) for place 9"):
        load_scorer(rm, "good").score(["the cat"], ["sat"], places=["place 9"])
