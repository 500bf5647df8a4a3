"""`--method dpo` and `--reward-head linear`: trained alike, read as what they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from oracle import GREEDY
from rounding import nats
from test_training import Workshop

import trimtab
from trimtab.arms.export import export
from trimtab.arms.logprobs import response_logp
from trimtab.arms.sidecar import Sidecar
from trimtab.data.collate import PairCollator
from trimtab.data.pairs import split_of
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, ModelLoadError
from trimtab.training.plan import TrainResult

TEXTS = ["the cat sat", "hello thank you", "moon", "a very big red sun please"]
LONG: dict[str, Any] = {"max_steps": 30, "learning_rate": 5e-3, "save_strategy": "no"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, base_dir: Path, pairs_file: Path) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("runs"), base_dir, pairs_file)


@pytest.fixture(scope="module")
def dpo(shop: Workshop) -> TrainResult:
    return shop.train("dpo", method="dpo", **LONG)


@pytest.fixture(scope="module")
def linear(shop: Workshop) -> TrainResult:
    return shop.train("linear", reward_head="linear", **LONG)


def test_a_policy_is_no_arm(shop: Workshop, dpo: TrainResult) -> None:
    assert Sidecar.load(dpo.output_dir).method == "dpo"
    for read in (
        lambda: trimtab.load(str(shop.base), {"helpful": dpo.output_dir}),
        lambda: trimtab.ArmLogitsProcessor(
            dpo.output_dir,
            transformers.AutoModelForCausalLM.from_pretrained(shop.base),
            transformers.AutoTokenizer.from_pretrained(shop.base),
        ),
    ):
        with pytest.raises(ModelLoadError, match="it is a policy, and no ARM") as refusal:
            read()
        assert "--policy NAME=" in refusal.value.hint and "--contrast NAME=" in refusal.value.hint


def test_dpo_is_the_arm_with_a_start(shop: Workshop, dpo: TrainResult) -> None:
    """The same loss on the same numbers: weights are equal to the bit, and so are the rewards."""
    arm = shop.train("arm", reference="start", **LONG)
    shop.same("arm", "dpo", tolerance=0.0)
    asked = (["the cat"], ["happy dog"])
    both = [trimtab.score(result.output_dir, *asked)[0] for result in (arm, dpo)]
    assert both[0].token_rewards == both[1].token_rewards
    assert dpo.metrics == {**arm.metrics, "train_seconds": dpo.metrics["train_seconds"]}


def test_a_contrast_with_its_base_is_the_policy(
    shop: Workshop, dpo: TrainResult, tmp_path: Path
) -> None:
    """base + (dpo - base) at strength 1 is the merged policy decoded alone."""
    merged = export(dpo.output_dir, tmp_path / "merged", merge=True)
    base = str(shop.base)
    engines = trimtab.load(base, contrast={"a": (dpo.output_dir, base)}), trimtab.load(merged)
    for text in TEXTS:
        one, other = (e.generate([Request(text, sampling=GREEDY)])[0] for e in engines)
        assert one.token_ids == other.token_ids


def test_a_linear_score_is_the_raw_logit(shop: Workshop, linear: TrainResult) -> None:
    facts = Sidecar.load(linear.output_dir)
    assert (facts.reward_head, facts.reference, facts.beta) == ("linear", "none", 0.05)
    plain = transformers.AutoModelForCausalLM.from_pretrained(shop.base)
    model = peft.PeftModel.from_pretrained(plain, linear.output_dir).eval()
    pair = shop.validation()[0]
    ids = [*pair.prompt_ids, *pair.chosen_ids]
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([ids])).logits[0][len(pair.prompt_ids) - 1 : -1]
    raw = [float(row[i]) for row, i in zip(rows, pair.chosen_ids, strict=True)]
    prompt = next(row["prompt"] for row in _rows(shop) if split_of(row["prompt"]) == "validation")
    [scored] = trimtab.score(linear.output_dir, [prompt], ["happy happy the dog"])
    assert list(scored.token_rewards) == nats(raw)
    assert scored.reward == pytest.approx(sum(raw), abs=1e-4)
    report = trimtab.accuracy(linear.output_dir, str(shop.data), split="validation")
    assert report.arm.value == linear.metrics["eval_accuracy"] == 1.0


def _rows(shop: Workshop) -> list[dict[str, str]]:
    return [json.loads(line) for line in shop.data.read_text().splitlines()]


def test_a_linear_head_trains_otherwise_and_decodes_alike(
    shop: Workshop, linear: TrainResult, tmp_path: Path
) -> None:
    """Raw logits and log-probs differ by one number a state, which normalising takes away."""
    shop.train("logprob", **LONG)
    a, b = (shop.weights(name) for name in ("linear", "logprob"))
    assert any(not torch.equal(a[name], b[name]) for name in a)
    other = tmp_path / "told otherwise"
    shutil.copytree(linear.output_dir, other)
    replace(Sidecar.load(other), reward_head="logprob").save(other)
    engines = [trimtab.load(str(shop.base), {"h": str(f)}) for f in (linear.output_dir, other)]
    for text in TEXTS:
        request = Request(text, sampling=GREEDY.but(temperature=1.0))
        one, two = (engine.generate([request])[0] for engine in engines)
        assert one.token_ids == two.token_ids


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_gradient_of_raw_logits(shop: Workshop, kind: str) -> None:
    """d Σ logit / d weights through chunks of the head is what the model's own forward gives."""
    model = transformers.AutoModelForCausalLM.from_pretrained(shop.base)
    if kind == "lora":
        model.lm_head.weight.requires_grad_(False)
    batch = PairCollator(0)(shop.validation()[:2])
    weight = model.model.layers[0].self_attn.q_proj.weight
    response_logp(model, batch, chunk=3, linear=True)[0].sum().backward()
    found, weight.grad = weight.grad.clone(), None
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    target = batch["input_ids"][:, 1:, None]
    picked = logits[:, :-1].gather(-1, target)[..., 0]
    (picked * batch["response_mask"][:, 1:]).sum().backward()
    torch.testing.assert_close(found, weight.grad, atol=1e-4, rtol=1e-4)


def test_options_of_other_methods_are_refused(shop: Workshop) -> None:
    for options, match in (
        ({"method": "trajectory", "reference": "start"}, "--reference means nothing"),
        ({"method": "parm", "reference": "start"}, "--reference means nothing for --method parm"),
        ({"method": "uniarm", "reward_head": "linear"}, "--reward-head means nothing"),
        ({"method": "dpo", "reward_head": "linear"}, "--reward-head means nothing"),
    ):
        with pytest.raises(ConfigError, match=match):
            shop.train("refused", **options)
        assert not (shop.root / "refused").exists()
