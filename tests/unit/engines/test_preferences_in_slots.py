"""What a slot has read belongs to a preference: never taken over by a request with another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conditioned import with_core
from oracle import GREEDY, next_logp, specified, stream, templated, with_lora
from rounding import nats
from test_scheduler import Reads, run_all, tokens, words

from trimtab.engines.local import batch
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Request

SIZE = 12
P, Q = {"a": 0.8, "b": 0.2}, {"a": 0.1, "b": 0.9}


@pytest.fixture(scope="module", params=["bilinear", "affine"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: Any) -> LocalEngine:
    """A base with a conditioned ARM of a and b: two streams that read the same prompts."""
    base = stream("base", 1, SIZE)
    folder: Path = tmp_path_factory.mktemp("arm")
    return LocalEngine(base, [with_core(base, "x", request.param, folder, "ab")])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def ask(prompt: str, preference: dict[str, float], count: int = 4, **sampling: Any) -> Request:
    return Request(prompt, preference, 2.0, GREEDY.but(max_new_tokens=count, **sampling))


def check(engine: LocalEngine, requests: list[Request], **options: Any) -> None:
    """Tokens and rewards are the specification's."""
    answers = engine.generate(requests, report=True, **options)
    for request, answer in zip(requests, answers, strict=True):
        plan = engine.plan(request)
        assert list(answer.token_ids) == specified(engine, request)
        for t, token in enumerate(answer.tokens):
            said = plan.prompts["x"] + list(answer.token_ids[:t])
            logp = next_logp(engine.arms[0], said, plan.conditions["x"])[token.token_id]
            assert token.rewards["x"] == nats(float(logp))


class TestRecall:
    @pytest.mark.parametrize("length", [1, 6, 40])
    def test_the_same_prompt_with_another_preference(
        self, engine: LocalEngine, length: int
    ) -> None:
        """One after another in one slot: P, Q, again Q, and P."""
        check(engine, [ask(words(3, length), p) for p in (P, Q, Q, P)], batch_size=1)

    def test_only_the_base_is_taken_over(self, engine: LocalEngine, reads: Reads) -> None:
        """40 words for base and ARM and one of two tokens: 2 · 41.

        Then with Q the base reads its last word again and the ARM all 40, and one token: 1 + 40
        + 2. With Q once more: the last word and a token for both, 2 · 2. The ARM's slot was needed
        for Q, so with P it reads all again.
        """
        engine = LocalEngine(engine.base, engine.arms)  # that has computed nothing yet
        for preference, expected in ((P, 82), (Q, 43), (Q, 4), (P, 43)):
            before = reads.of(engine)
            engine.generate([ask(words(3, 40), preference, 2)])
            assert reads.of(engine) - before == expected

    def test_a_row_that_read_with_the_same_preference(
        self, engine: LocalEngine, reads: Reads
    ) -> None:
        """Three running requests hold the prompt, one of them read with Q: the ARM's comes from it.

        The fourth reads the last word alone.
        """
        run = engine.scheduler()
        prompt = words(3, 40)
        requests = [ask(prompt, P, 3), ask(prompt, Q, 9), ask(prompt, P, 9), ask(prompt, Q, 9)]
        for i, request in enumerate(requests[:3]):
            run.add(i, engine.plan(request))
            run.step()
        fourth = run.add(3, engine.plan(requests[3]))
        before = reads.of(engine)
        run.step()
        assert reads.of(engine) - before <= 2 * 4  # it and the others, a token each
        assert run_all(run, fourth) == [specified(engine, requests[3])]


class TestSharedPrompts:
    @pytest.mark.parametrize("chunk", [7, 512])
    @pytest.mark.parametrize("slots", [2, 3, 6])
    def test_equal_and_different_preferences(
        self, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, slots: int, chunk: int
    ) -> None:
        """36 shared words; those with one's own preference wait for it, the others do not."""
        monkeypatch.setattr(batch, "CHUNK", chunk)
        prompts = [f"{words(3, 36)} w{i}" for i in range(3)] * 2
        preferences = [P, Q, P, Q, Q, P]
        check(
            engine,
            [
                ask(prompt, preference, 3, temperature=float(i % 2), seed=i)
                for i, (prompt, preference) in enumerate(zip(prompts, preferences, strict=True))
            ],
            batch_size=slots,
        )

    def test_equal_preferences_read_once(self, engine: LocalEngine, reads: Reads) -> None:
        """Three requests: 2 · (40 + 1 + 1 words), and one of each two tokens for both streams."""
        engine = LocalEngine(engine.base, engine.arms)  # that has computed nothing yet
        requests = [ask(words(3, 40), preference, 2) for preference in (P, P, {"a": 8, "b": 2})]
        engine.generate(requests, batch_size=3)
        assert reads.of(engine) == 2 * (40 + 1 + 1 + 3)

    def test_no_waiting_for_another_preference(self, engine: LocalEngine, reads: Reads) -> None:
        """Both read at once: nothing of the ARM's could be shared."""
        run = engine.scheduler()
        rows = [run.add(i, engine.plan(ask(words(3, 40), p, 4))) for i, p in enumerate((P, Q))]
        run.step()
        assert all(len(row.ids) == 1 for row in rows)


def mixed(count: int = 9) -> list[Request]:
    """Unequal prompts, lengths and preferences, every second row drawn."""
    return [
        Request(
            words(i % 5, 1 + 8 * i % 17),
            {"a": 1 + i, "b": 1 + 5 * i % 7, "c": i % 3},
            [1.0, 0.5, 0.0, 2.0][i % 4],
            GREEDY.but(max_new_tokens=1 + 5 * i % 9, temperature=float(i % 2), seed=i),
        )
        for i in range(count)
    ]


@pytest.fixture(scope="module", params=["bilinear", "affine"])
def crowd(request: pytest.FixtureRequest, tmp_path_factory: Any) -> LocalEngine:
    """A base, a conditioned ARM with a template of its own and a plain LoRA."""
    base = stream("base", 1, SIZE)
    arm = with_core(base, "x", request.param, tmp_path_factory.mktemp("arm"), "ab")
    return LocalEngine(base, [templated(arm, "w5 w6 w7 w8 w9"), with_lora(base, "c", 3)])


@pytest.fixture(scope="module")
def expected(crowd: LocalEngine) -> list[list[int]]:
    """The specification's tokens for `mixed()`."""
    return [specified(crowd, request) for request in mixed()]


class TestComingAndGoing:
    @pytest.mark.parametrize(("slots", "chunk"), [(1, 4), (3, 4), (4, 512), (9, 7)])
    def test_any_number_of_slots_and_any_chunk(
        self, crowd: LocalEngine, expected: Any, monkeypatch: Any, slots: int, chunk: int
    ) -> None:
        monkeypatch.setattr(batch, "CHUNK", chunk)
        assert tokens(crowd.generate(mixed(), batch_size=slots)) == expected

    @pytest.mark.parametrize("most", [1, 2, 5])
    def test_memory_runs_out(
        self, crowd: LocalEngine, expected: Any, reads: Reads, most: int
    ) -> None:
        """The requests wait for each other, each with its own preference."""
        run = crowd.scheduler(most=8)
        reads.fails = lambda entries: len([e for e in entries if e.row.stream == 0]) > most
        rows = [run.add(i, crowd.plan(r)) for i, r in enumerate(mixed())]
        assert run_all(run, *rows) == expected

    def test_ending(self, crowd: LocalEngine, expected: Any) -> None:
        """Every second request goes after two steps."""
        run = crowd.scheduler()
        rows = [run.add(i, crowd.plan(request)) for i, request in enumerate(mixed())]
        for _ in range(2):
            run.step()
        for key in range(0, 9, 2):
            run.end(key)
        run_all(run)
        for i in range(1, 9, 2):
            assert rows[i].ids == expected[i]

    @pytest.mark.parametrize("speculate", ["off", "on"])
    def test_behind_a_gate(self, tmp_path: Path, speculate: Any) -> None:
        """A conditioned ARM of its own backbone catches up, at the row's preference."""
        arm = with_core(stream("own", 2, SIZE), "x", "affine", tmp_path, "ab")
        engine = LocalEngine(stream("base", 1, SIZE), [arm])
        requests = [
            Request(words(i, 6), p, 1.5, GREEDY.but(max_new_tokens=20, seed=i), gate=0.4)
            for i, p in enumerate((P, Q, P))
        ]
        answers = engine.generate(requests, report=True, speculate=speculate)
        assert any(0 < answer.gated < 20 for answer in answers)
        for request, answer in zip(requests, answers, strict=True):
            plan = engine.plan(request)
            for t, token in enumerate(answer.tokens):
                said = plan.prompts["x"] + list(answer.token_ids[:t])
                logp = next_logp(arm, said, plan.conditions["x"])[token.token_id]
                if token.rewards:
                    assert token.rewards["x"] == nats(float(logp))
