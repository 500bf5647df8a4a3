"""Preferences inside the ARM against the specification: every core, any company, any batch."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conditioned import by_formula, save_arm
from conftest import make_model, make_tokenizer
from oracle import GREEDY, next_logp, specified, whole_model
from rounding import close, nats
from safetensors.torch import load_file
from test_local_engine import agrees, make_lora, requests_for

import trimtab
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Completion, Request

KINDS = ("bilinear", "affine", "soup", "mixed", "weak")


def small_model(folder: Path, seed: int) -> Path:
    """Half the width and one layer, over the base's vocabulary."""
    tokenizer = make_tokenizer()
    make_model(seed, len(tokenizer), hidden=8, layers=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(kind: str, base: Path, other: Path, folder: Path, **options: Any) -> LocalEngine:
    """An engine of one of `KINDS`.

    `mixed` has a PARM, a UniARM, a plain LoRA and a whole model; `weak` a UniARM on a small model.
    """
    if kind == "soup":
        loras = {name: make_lora(folder / name, base, i) for i, name in enumerate("abc")}
        return trimtab.load(str(base), {n: str(f) for n, f in loras.items()}, combine="soup")
    if kind == "mixed":
        arms = {
            "x": save_arm(folder / "x", base, "bilinear", "ab", seed=6),
            "y": save_arm(folder / "y", base, "affine", "cd", seed=7),
            "e": make_lora(folder / "e", base, 8),
            "f": other,
        }
        return trimtab.load(str(base), {n: str(f) for n, f in arms.items()}, **options)
    if kind == "weak":
        small = small_model(folder / "small", 9)
        arm = save_arm(folder / "x", small, "affine")
        return trimtab.load(str(base), {"x": str(arm)}, **options)
    arm = save_arm(folder / "x", base, "affine" if kind == "affine" else "bilinear")
    return trimtab.load(str(base), {"x": str(arm)}, **options)


@pytest.fixture(scope="module", params=KINDS)
def engine(
    request: pytest.FixtureRequest, base_dir: Path, arm_dir: Path, tmp_path_factory: Any
) -> LocalEngine:
    return load(request.param, base_dir, arm_dir, tmp_path_factory.mktemp(request.param))


def tokens(answers: list[Completion]) -> list[list[int]]:
    return [list(answer.token_ids) for answer in answers]


def many(engine: LocalEngine, count: int = 32) -> list[Request]:
    """Requests with as many preferences, every second one drawn, some with objectives at zero."""
    dice = random.Random(0)
    texts = ["the cat", "hello thank you yes no", "moon", "once upon a time big red"]
    found = []
    for i in range(count):
        weights = [dice.choice([0.0, 1.0, 1.0]) * dice.random() for _ in engine.objectives]
        weights[i % len(weights)] += 0.1
        sampling = GREEDY.but(max_new_tokens=1 + i % 7, temperature=float(i % 2), seed=i)
        preference = dict(zip(engine.objectives, weights, strict=True))
        found.append(Request(texts[i % 4], preference, [1.0, 0.5, 2.0, 1.0][i % 4], sampling))
    return found


@pytest.fixture(scope="module")
def singles(engine: LocalEngine) -> list[list[int]]:
    return [tokens(engine.generate([request]))[0] for request in many(engine)]


class TestSpecification:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_tokens_and_rewards(self, engine: LocalEngine, temperature: float) -> None:
        agrees(engine, requests_for(engine, GREEDY.but(temperature=temperature)))

    def test_one_stream_per_arm(self, engine: LocalEngine) -> None:
        """A conditioned ARM of three objectives is one stream; so is a soup of three ARMs."""
        names = {"x", "y", "e", "f", "a+b+c"}
        assert {arm.name for arm in engine.arms} <= names
        assert engine.objectives == list("abcdef")[: len(engine.objectives)]
        rows = sum(len(group.streams) for group in engine.groups)
        drafters = len(engine.streams) - 1 - len(engine.arms)
        assert rows == 1 + len(engine.arms) + drafters

    def test_the_preference_matters(self, engine: LocalEngine) -> None:
        """Else none of this could tell much: three corners of the simplex, three answers."""
        ends = [{n: float(n == name) for n in engine.objectives} for name in engine.objectives[:3]]
        answers = engine.generate([Request("the cat", end, 3.0, GREEDY) for end in ends])
        assert len({answer.token_ids[0] for answer in answers}) > 1
        assert len(set(map(tuple, tokens(answers)))) == 3


class TestBatches:
    @pytest.mark.parametrize("slots", [4, 8, 32])
    def test_many_preferences_are_single_runs(
        self, engine: LocalEngine, singles: list[list[int]], slots: int
    ) -> None:
        assert tokens(engine.generate(many(engine), batch_size=slots)) == singles

    def test_a_seed_is_its_tokens_in_any_company(
        self, engine: LocalEngine, singles: list[list[int]]
    ) -> None:
        """In another order, and beside others."""
        requests = many(engine)
        assert tokens(engine.generate(requests[::-1], batch_size=5))[::-1] == singles
        some = engine.generate([*requests[20:23], *requests[3:5]], batch_size=3)
        assert tokens(some) == [*singles[20:23], *singles[3:5]]

    def test_some_are_the_specification(
        self, engine: LocalEngine, singles: list[list[int]]
    ) -> None:
        for request, found in list(zip(many(engine), singles, strict=True))[::5]:
            assert found == specified(engine, request)


PAIR = {"a": 0.25, "b": 0.75}


def conditioned_formula(engine: LocalEngine, plain: Any, folder: Path) -> tuple[Any, list[float]]:
    weights = {**PAIR, "c": 0.0}
    return by_formula(plain, folder / "x", weights), [0.25, 0.75, 0.0]


def soup_formula(engine: LocalEngine, plain: Any, folder: Path) -> tuple[Any, list[float]]:
    """¼ ΔW_a + ¾ ΔW_b + 0 ΔW_c, with ΔW = 2 B A of each folder (alpha 8, rank 4)."""
    model = copy.deepcopy(plain)
    for name, p in PAIR.items():
        tensors = load_file(folder / name / "adapter_model.safetensors")
        for key in [key for key in tensors if ".lora_A." in key]:
            layer = model.get_submodule(key.split(".lora_A")[0].removeprefix("base_model.model."))
            layer.weight.data += p * 2 * tensors[key.replace("_A.", "_B.")] @ tensors[key]
    return model, [0.25, 0.75, 0.0]


@pytest.mark.parametrize("kind", ["bilinear", "affine", "soup"])
def test_the_specification_is_the_papers_formula(
    kind: str, base_dir: Path, arm_dir: Path, tmp_path: Path
) -> None:
    """What the engine's stream is at a preference, against the tensors in its folders."""
    engine = load(kind, base_dir, arm_dir, tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base_dir).eval()
    formula: Callable[..., Any] = soup_formula if kind == "soup" else conditioned_formula
    expected, inner = formula(engine, plain, tmp_path)
    plan = engine.plan(Request("moon", {**PAIR, "c": 0}, 2.0))
    [arm] = engine.arms
    assert (plan.weights, plan.conditions) == ([2.0], {arm.name: inner})
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        whole = whole_model(arm, inner)
        close(whole(ids.to(whole.device)).logits.cpu(), expected(ids).logits)


def test_weights_beside_other_arms(base_dir: Path, arm_dir: Path, tmp_path: Path) -> None:
    """a 2, b 1, c 0, d 0, e 1, f 4 of 8, at strength 2.

    The PARM of a and b weighs 2 · 3/8 = ¾ at (⅔, ⅓); the UniARM of c and d nothing, at (½, ½);
    e weighs ¼ and f 1.
    """
    engine = load("mixed", base_dir, arm_dir, tmp_path)
    request = Request("moon", {"a": 2, "b": 1, "c": 0, "d": 0, "e": 1, "f": 4}, 2.0, GREEDY)
    plan = engine.plan(replace(request, report=True))
    assert plan.weights == [0.75, 0.0, 0.25, 1.0]
    assert plan.conditions["x"] == pytest.approx([2 / 3, 1 / 3])
    assert plan.conditions["y"] == [0.5, 0.5]
    [answer] = engine.generate([request], report=True)
    assert list(answer.token_ids) == specified(engine, request)
    assert dict(answer.preference) == {"a": 0.25, "b": 0.125, "c": 0, "d": 0, "e": 0.125, "f": 0.5}
    for t, token in enumerate(answer.tokens):
        said = plan.prompts["y"] + list(answer.token_ids[:t])
        expected = next_logp(engine.arms[1], said, [0.5, 0.5])[token.token_id]
        assert token.rewards["y"] == nats(float(expected))


@pytest.fixture(scope="module", params=["ngram", "model", "weak"])
def drafted(
    request: pytest.FixtureRequest, base_dir: Path, arm_dir: Path, tmp_path_factory: Any
) -> LocalEngine:
    """PARM, UniARM, LoRA and whole model with a drafter; or a UniARM whose backbone drafts."""
    folder, draft = tmp_path_factory.mktemp("drafted"), request.param
    if draft == "weak":
        return load("weak", base_dir, arm_dir, folder)
    if draft == "model":
        draft = str(small_model(folder / "draft", 1))
    return load("mixed", base_dir, arm_dir, folder, draft=draft)


class TestSpeculating:
    @pytest.mark.parametrize("mode", ["on", "auto"])
    def test_greedy(self, drafted: LocalEngine, mode: Any) -> None:
        requests = [
            Request(r.prompt, r.preference, r.strength, GREEDY.but(max_new_tokens=12))
            for r in many(drafted, 8)
        ]
        expected = [specified(drafted, request) for request in requests]
        for slots in (8, 3):
            found = drafted.generate(requests, speculate=mode, batch_size=slots)
            assert tokens(found) == expected
        if mode == "on":
            assert sum(answer.drafted for answer in found) > 0

    def test_reports(self, drafted: LocalEngine) -> None:
        """Rewards of every token, kept or not, at the request's own preference."""
        requests = many(drafted, 8)
        answers = drafted.generate(requests, speculate="on", report=True)
        for request, answer in zip(requests, answers, strict=True):
            plan = drafted.plan(replace(request, report=True))
            for t, token in enumerate(answer.tokens):
                for arm in drafted.arms:
                    said = plan.prompts[arm.name] + list(answer.token_ids[:t])
                    logp = next_logp(arm, said, plan.conditions[arm.name])[token.token_id]
                    assert token.rewards[arm.name] == nats(float(logp))

    def test_a_seed_is_its_tokens_in_any_company(self, drafted: LocalEngine) -> None:
        requests = many(drafted, 8)
        together = tokens(drafted.generate(requests, speculate="on"))
        assert tokens(drafted.generate(requests[::-1], speculate="on"))[::-1] == together
        alone = [drafted.generate([r], speculate="on")[0] for r in requests]
        assert tokens(alone) == together
