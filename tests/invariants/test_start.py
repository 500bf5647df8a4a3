"""Rewards against the model that training started from: trained, scored and decoded alike."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from conftest import save_model, train_with_processes
from rounding import AFTER_TRAINING, nats
from test_training import Crash, Workshop, crash_at

import trimtab
from trimtab.arms.export import export
from trimtab.arms.load import tokenizer_of
from trimtab.arms.sidecar import Sidecar
from trimtab.data.pairs import split_of
from trimtab.models.folder import weights_fingerprint
from trimtab.models.prompts import response_ids
from trimtab.training.plan import TrainResult

pytestmark = pytest.mark.filterwarnings("ignore:mtime may not be reliable")
LONG: dict[str, Any] = {"max_steps": 30, "learning_rate": 5e-3, "save_steps": 10}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, base_dir: Path, pairs_file: Path) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("runs"), base_dir, pairs_file)


@pytest.fixture(scope="module")
def lora(shop: Workshop) -> TrainResult:
    return shop.train("lora", reference="start", **LONG)


@pytest.fixture(scope="module")
def full(shop: Workshop) -> TrainResult:
    return shop.train("full", reference="start", finetuning="full", max_steps=30)


@pytest.fixture(scope="module")
def dpo(shop: Workshop) -> TrainResult:
    return shop.train("dpo", method="dpo", **LONG)


@pytest.mark.parametrize(
    "options",
    [
        {"reference": "start"},
        {"reference": "start", "finetuning": "full"},
        {"reference": "start", "length_normalize": True},
        {"reference": "start", "reward_head": "linear"},
        {"reference": "start", "lora_dropout": 0.5},
        {"method": "dpo"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_the_loss_starts_at_chance(shop: Workshop, options: dict[str, Any]) -> None:
    """−log σ(β · 0) = log 2 for every pair; with reference `none` these pairs start elsewhere."""
    name = "starts-" + "-".join(map(str, options.values()))
    shop.train(name, max_steps=1, save_strategy="no", **options)
    assert shop.losses(name)[0] == pytest.approx(math.log(2), abs=1e-5)
    assert shop.records(name)[0]["margin"] == pytest.approx(0, abs=1e-4)


def test_the_loss_of_an_arm_without_one_does_not(shop: Workshop) -> None:
    shop.train("none", max_steps=1, save_strategy="no", beta=0.1)
    assert abs(shop.losses("none")[0] - math.log(2)) > 0.05


def token_logp(model: Any, prompt: list[int], response: list[int]) -> list[float]:
    """Log-probs of a response's tokens, by the model's own forward."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return [float(row[i]) for row, i in zip(rows, response, strict=True)]


@pytest.mark.parametrize("kind", ["lora", "dpo"])
def test_a_score_is_pefts_with_the_adapter_less_without(
    shop: Workshop, kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind).output_dir
    plain = transformers.AutoModelForCausalLM.from_pretrained(shop.base)
    model = peft.PeftModel.from_pretrained(plain, folder).eval()
    pair = shop.validation()[0]
    with_it = token_logp(model, pair.prompt_ids, pair.chosen_ids)
    with model.disable_adapter():
        without = token_logp(model, pair.prompt_ids, pair.chosen_ids)
    expected = [a - b for a, b in zip(with_it, without, strict=True)]
    [scored] = trimtab.score(folder, validation_prompts(shop)[:1], ["happy happy the dog"])
    assert max(map(abs, expected)) > 0.01
    assert list(scored.token_rewards) == pytest.approx(expected, abs=1e-4)
    assert scored.reward == pytest.approx(sum(expected), abs=1e-4)


def validation_prompts(shop: Workshop) -> list[str]:
    rows = [json.loads(line) for line in shop.data.read_text().splitlines()]
    return [row["prompt"] for row in rows if split_of(row["prompt"]) == "validation"]


def test_a_whole_models_score_is_its_own_less_the_starts(shop: Workshop, full: TrainResult) -> None:
    prompts, answers = ["the cat", "moon"], ["happy dog", "sad cat sat"]
    own, start = (
        transformers.AutoModelForCausalLM.from_pretrained(folder)
        for folder in (full.output_dir, shop.base)
    )
    for scored, prompt, answer in zip(
        trimtab.score(full.output_dir, prompts, answers), prompts, answers, strict=True
    ):
        ids = response_ids(tokenizer_of(full.output_dir), prompt, answer, "auto")
        pairs = zip(token_logp(own, *ids), token_logp(start, *ids), strict=True)
        assert list(scored.token_rewards) == pytest.approx([a - b for a, b in pairs], abs=1e-4)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_training_measured_is_what_accuracy_measures(
    shop: Workshop, kind: str, request: pytest.FixtureRequest
) -> None:
    result = request.getfixturevalue(kind)
    report = trimtab.accuracy(result.output_dir, str(shop.data), split="validation")
    assert report.arm.value == result.metrics["eval_accuracy"] == 1.0
    prompts = validation_prompts(shop)
    margins = []
    for texts in (["happy happy the dog"], ["sad sad the cat sat"]):
        scored = trimtab.score(result.output_dir, prompts, texts * len(prompts))
        margins.append(sum(one.reward for one in scored) / len(scored))
    assert margins[0] - margins[1] == pytest.approx(result.metrics["eval_margin"], abs=1e-3)
    assert margins[0] == pytest.approx(result.metrics["eval_reward_chosen"], abs=1e-3)


def test_the_sidecar(shop: Workshop, lora: TrainResult, full: TrainResult) -> None:
    ours, whole = (Sidecar.load(result.output_dir) for result in (lora, full))
    assert (ours.reference, ours.start, ours.beta) == ("start", "", 0.1)
    assert (whole.reference, whole.start) == ("start", str(shop.base.resolve()))
    assert whole.base_fingerprint == weights_fingerprint(str(shop.base))
    assert "reference: start" in (Path(lora.output_dir) / "README.md").read_text()


def test_a_resumed_run_is_the_undisturbed_one(shop: Workshop) -> None:
    for kind in ("lora", "full"):
        how: dict[str, Any] = {"reference": "start", "finetuning": kind}
        shop.train(f"{kind}-whole", **how)
        with pytest.raises(Crash):
            shop.train(f"{kind}-cut", crash_at(3), **how)
        shop.train(f"{kind}-cut", resume_from_checkpoint="auto", **how)
        shop.same(f"{kind}-whole", f"{kind}-cut", tolerance=0.0)


@pytest.mark.parametrize("finetuning", ["lora", "full"])
def test_gradient_checkpointing_changes_nothing(shop: Workshop, finetuning: str) -> None:
    how: dict[str, Any] = {"reference": "start", "finetuning": finetuning, "save_strategy": "no"}
    shop.train(f"plain-{finetuning}", **how)
    shop.train(f"again-{finetuning}", gradient_checkpointing=True, **how)
    shop.same(f"plain-{finetuning}", f"again-{finetuning}", tolerance=AFTER_TRAINING)


@pytest.mark.slow
def test_two_processes_train_what_one_does(
    base_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    more = ("--reference", "start")
    weights = [
        train_with_processes(n, base_dir, pairs_file, tmp_path / str(n), *more) for n in (1, 2)
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=AFTER_TRAINING, rtol=0)


def test_a_merged_export_gives_the_same_rewards(
    shop: Workshop, lora: TrainResult, tmp_path: Path
) -> None:
    merged = export(lora.output_dir, tmp_path / "merged", merge=True)
    facts = Sidecar.load(merged)
    assert (facts.reference, facts.start) == ("start", str(shop.base.resolve()))
    asked = (["the cat", "moon"], ["happy dog", "sad cat"])
    pairs = zip(trimtab.score(lora.output_dir, *asked), trimtab.score(merged, *asked), strict=True)
    for one, other in pairs:
        assert list(one.token_rewards) == nats(list(other.token_rewards))


def test_a_start_that_went_away_is_refused(
    lora: TrainResult, shop: Workshop, tmp_path: Path
) -> None:
    """A whole ARM alone is not its reward: nothing may read it without its start."""
    merged = Path(export(lora.output_dir, tmp_path / "merged", merge=True))
    other = save_model(tmp_path / "other", seed=9)
    facts = json.loads((merged / "trimtab.json").read_text())
    for start, match in (
        ("", "does not say which model it was trained from"),
        (str(tmp_path / "gone"), "which is not there"),
        (str(other), "no longer holds the weights"),
    ):
        (merged / "trimtab.json").write_text(json.dumps({**facts, "start": start}))
        for read in (
            lambda: trimtab.score(str(merged), ["a"], ["b"]),
            lambda: trimtab.load(str(other), {"a": str(merged)}),
            lambda: export(str(merged), tmp_path / "x", merge=True),
        ):
            with pytest.raises(trimtab.TrimtabError, match=f"{match}|is a whole model"):
                read()
    # beside the very base it started from, wherever that was, it needs no place
    (merged / "trimtab.json").write_text(json.dumps({**facts, "start": "gone/away"}))
    engine = trimtab.load(str(shop.base), {"a": str(merged)})
    assert engine.arms[0].reference is not None


def test_a_reference_that_is_not_known_is_refused(lora: TrainResult, tmp_path: Path) -> None:
    arm = tmp_path / "arm"
    shutil.copytree(lora.output_dir, arm)
    facts = json.loads((arm / "trimtab.json").read_text())
    (arm / "trimtab.json").write_text(json.dumps({**facts, "reference": "other"}))
    with pytest.raises(trimtab.TrimtabError, match="the reference 'other'"):
        trimtab.score(str(arm), ["a"], ["b"])
