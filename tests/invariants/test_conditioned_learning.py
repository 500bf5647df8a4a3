"""What one ARM for every preference learns, and what is measured of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl
from test_conditioned_training import HAPPY, METHODS, SAD, Conditioned, judged

import trimtab
from trimtab.arms.conditioned import conditioned_layers
from trimtab.arms.load import load_arm
from trimtab.arms.reward_model import RewardModel
from trimtab.training.conditioned import PreferenceDraws

pytestmark = pytest.mark.filterwarnings("ignore:mtime may not be reliable")

LEARN: dict[str, Any] = {
    "max_steps": 100, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "beta": 0.1,
    "split": "none", "save_strategy": "no", "preference_draws": "row", "logging_steps": 50,
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, base_dir: Path) -> Conditioned:
    root = tmp_path_factory.mktemp("learning")
    return Conditioned(root, base_dir, write_jsonl(root / "judged.jsonl", judged(missing=True)))


@pytest.fixture(scope="module")
def opposed(shop: Conditioned) -> dict[str, list[str]]:
    """The same opposite verdicts, in one file with labels and in a file for each objective."""
    rows = judged(missing=False)
    one = [{**row, "labels": None} for row in rows]
    other = [{**row, "chosen": SAD, "rejected": HAPPY} for row in one]
    files = [
        write_jsonl(shop.root / f"{name}.jsonl", lines)
        for name, lines in (("both", rows), ("one", one), ("other", other))
    ]
    return {"labels": [str(files[0])], "files": [f"a={files[1]}", f"b={files[2]}"]}


def margins(folder: str, weight: float) -> list[float]:
    """By how much happy is ahead of sad, on each prompt, under `a=weight,b=1−weight`."""
    model = RewardModel(folder)
    prompts = [row["prompt"] for row in judged(missing=False)]
    happy, sad = (
        model.score(
            prompts, [text] * len(prompts), preference={"a": weight, "b": 1 - weight}, batch_size=40
        )
        for text in (HAPPY, SAD)
    )
    return [one.reward - other.reward for one, other in zip(happy, sad, strict=True)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("data", ["labels", "files"])
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_what_only_a_conditioned_model_can(
    shop: Conditioned, opposed: dict[str, list[str]], method: str, data: str
) -> None:
    """Opposite labels on the same pairs: whoever is not told the preference gets one of two wrong.

    The loss −α_a ln σ(βd) − α_b ln σ(−βd) is least where σ(βd) = α_a, d = ln(α_a / α_b) / β; with
    β = .1 that is 11 nats at (.75, .25), 0 at (.5, .5) and no bound at a corner. Over four seeds
    the means were 8.4 … 19.3, −4.1 … 2.5 and, at corners, 13.4 or more, no single prompt below
    12.0; the bounds below leave a third or more.
    """
    result = shop.train(f"learns-{method}-{data}", method=method, data=opposed[data], **LEARN)
    assert result.objective == "a+b"
    happy = {w: margins(result.output_dir, w) for w in (1, 0.75, 0.5, 0.25, 0)}
    assert min(happy[1]) > 8 and max(happy[0]) < -8
    assert 5.5 < mean(happy[0.75]) < 22 and -22 < mean(happy[0.25]) < -5.5
    assert abs(mean(happy[0.5])) < 6
    for objective in ("a", "b"):
        report = trimtab.accuracy(
            result.output_dir, opposed[data], objective=objective, split="all"
        )
        assert (report.arm.value, report.arm.n) == (1.0, 40)


def test_uniarm_without_a_shift(shop: Conditioned, opposed: dict[str, list[str]]) -> None:
    """It has no D, is plain LoRA at every preference, and learns the same."""
    options = {**LEARN, "method": "uniarm", "shift": False}
    result = shop.train("no-shift", data=opposed["labels"], **options)
    assert not [name for name in shop.weights("no-shift") if name.endswith("core.D")]
    assert all(layer.core.D is None for _, layer in conditioned_layers(load_arm(result.output_dir)))
    assert min(margins(result.output_dir, 1)) > 6 and max(margins(result.output_dir, 0)) < -6


@pytest.mark.parametrize("method", METHODS)
def test_the_first_loss_by_hand(shop: Conditioned, method: str) -> None:
    """All 40 pairs in one pass, of which 32 are judged on each objective: N / N_i = 1.25.

    ΔW = 0 at first, so that d is the base's; α is the draw of step 0, and with s_i = 1.25 α_i over
    the labels that are there, and s(x) = ln(1 + e^−x), a pair costs Σ s_i s(±β_i d) and, for
    UniARM, λ Σ s_i (z̄ s(β̄ d) + (1 − z̄) s(−β̄ d)), the means z̄ and β̄ weighted by s_i.
    """
    betas, weight = {"a": 0.2, "b": 0.4}, 0.5 if method == "uniarm" else 0.0
    shop.train(
        f"first-{method}", method=method, per_device_train_batch_size=40, max_steps=1, seed=3,
        split="none", beta="a=0.2,b=0.4", **({"global_weight": weight} if weight else {}),
    )  # fmt: skip
    alpha = dict(
        zip("ab", PreferenceDraws(2, 0.5, False, 3).draw(0, 0, [])[0].tolist(), strict=True)
    )
    base, rows = RewardModel(str(shop.base)), judged(missing=True)
    sides = [base.score([row["prompt"] for row in rows], [t] * 40) for t in (HAPPY, SAD)]
    total = 0.0
    for row, happy, sad in zip(rows, *sides, strict=True):
        d = happy.reward - sad.reward
        share = {name: 1.25 * alpha[name] for name in row["labels"]}
        mass = sum(share.values())
        better = {name: 1.0 - label for name, label in row["labels"].items()}
        for name, s in share.items():
            total += s * cost(better[name], betas[name] * d)
        z = sum(share[name] * better[name] for name in share) / mass
        beta = sum(share[name] * betas[name] for name in share) / mass
        total += weight * mass * cost(z, beta * d)
    assert shop.losses(f"first-{method}") == [pytest.approx(total / 40, abs=1e-4)]


def cost(better: float, d: float) -> float:
    """Of a pair whose first response is better with this probability."""
    return better * math.log1p(math.exp(-d)) + (1 - better) * math.log1p(math.exp(d))


def test_betas_of_their_own(shop: Conditioned, opposed: dict[str, list[str]]) -> None:
    """They are written down, one for each objective."""
    shop.train("betas", data=opposed["labels"], beta="b=2,a=0.5", max_steps=1, save_strategy="no")
    facts = json.loads((shop.root / "betas" / "trimtab.json").read_text())
    assert facts["betas"] == {"a": 0.5, "b": 2.0}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_measured(shop: Conditioned, method: str) -> None:
    """Accuracy of each objective with all of the preference on it, while training and at the end.

    Of 40 prompts some validate; a pair counts once for each verdict it has.
    """
    name = f"measured-{method}"
    result = shop.train(name, method=method, max_steps=12, learning_rate=1e-2, save_strategy="no")
    wanted = ("accuracy", "margin", "loss", "reward_chosen", "accuracy_a", "accuracy_b")
    keys = {f"eval_{key}" for key in wanted}
    assert keys <= result.metrics.keys()
    assert any(keys <= record.keys() for record in shop.records(name))
    found = {}
    for objective in ("a", "b"):
        report = trimtab.accuracy(
            result.output_dir, str(shop.data), objective=objective, split="validation"
        )
        assert report.arm.value == pytest.approx(result.metrics[f"eval_accuracy_{objective}"])
        found[objective] = report.arm.n
    pooled = sum(result.metrics[f"eval_accuracy_{o}"] * n for o, n in found.items())
    assert result.metrics["eval_accuracy"] == pytest.approx(pooled / sum(found.values()))
    assert result.rows.judged == {"a": 32, "b": 32}
