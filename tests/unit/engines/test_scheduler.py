"""Continuous batching: slots, chunks, shared beginnings, cancelling and memory that runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from oracle import GREEDY, specified, stream, templated, with_lora

import trimtab
from trimtab.engines.local import batch
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.slots import SlotCaches
from trimtab.engines.types import Completion, Request
from trimtab.errors import ConfigError

SIZE = 12
LONG = "w5 w6 w7 w8 w9"
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"


def words(seed: int, count: int) -> str:
    return " ".join(f"w{(seed + 7 * i + i * i) % SIZE}" for i in range(count))


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    """A base with a LoRA that reads five words more, and an ARM of its own with a padded head."""
    base = stream("base", 1, SIZE)
    return LocalEngine(
        base, [templated(with_lora(base, "a", 3), LONG), stream("b", 2, SIZE, padding=4)]
    )


@pytest.fixture(scope="module")
def pair() -> LocalEngine:
    """A base with one LoRA: one group of two streams that read the same prompts."""
    base = stream("base", 1, SIZE)
    return LocalEngine(base, [with_lora(base, "a", 3)])


def request(i: int, prompt: str, tokens: int, temperature: float = 0.0) -> Request:
    sampling = GREEDY.but(max_new_tokens=tokens, temperature=temperature, seed=i)
    return Request(prompt, None, [1.0, 0.5, 0.0, 2.0][i % 4], sampling)


def mixed(count: int = 9) -> list[Request]:
    """Prompts of 1 to 17 words and 1 to 9 tokens, every second row drawn."""
    return [request(i, words(i, 1 + 8 * i % 17), 1 + 5 * i % 9, i % 2) for i in range(count)]


def tokens(answers: Sequence[Completion]) -> list[list[int]]:
    return [list(answer.token_ids) for answer in answers]


@pytest.fixture(scope="module")
def expected(engine: LocalEngine) -> list[list[int]]:
    """The specification's tokens for `mixed()`."""
    return [specified(engine, r) for r in mixed()]


class Reads:
    """Counts what every group reads while a test runs; fails a read when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: dict[int, int] = {}
        self.calls = 0
        self.fails: Callable[[int], bool] = lambda slots: False
        forward = SlotCaches.forward

        def counted(slots: SlotCaches, first: int, tokens: Any, wanted: Any, **more: Any) -> Any:
            self.calls += 1
            if self.fails(len(tokens)):
                raise RuntimeError(NO_MEMORY)
            own = sum(len(ids) for slot in tokens for ids in slot)
            self.tokens[id(slots.group)] = self.tokens.get(id(slots.group), 0) + own
            return forward(slots, first, tokens, wanted, **more)

        monkeypatch.setattr(SlotCaches, "forward", counted)

    def of(self, engine: LocalEngine, group: int = 0) -> int:
        return self.tokens.get(id(engine.groups[group]), 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


class TestContinuousBatching:
    @pytest.mark.parametrize(("slots", "chunk"), [(1, 4), (2, 7), (3, 4), (3, 512), (16, 7)])
    def test_any_number_of_slots_and_any_chunk(
        self,
        engine: LocalEngine,
        expected: list[list[int]],
        monkeypatch: pytest.MonkeyPatch,
        slots: int,
        chunk: int,
    ) -> None:
        """Nine requests of unequal prompts and lengths, greedy and drawn, are the specification."""
        monkeypatch.setattr(batch, "CHUNK", chunk)
        assert tokens(engine.generate(mixed(), batch_size=slots)) == expected

    def test_a_free_slot_is_filled_at_once(self, engine: LocalEngine, reads: Reads) -> None:
        """A row of 20 tokens beside 19 rows of one: 20 steps, not 20 batches."""
        run = engine.scheduler(2, 30)
        run.add(engine.plan(request(0, "w1 w2", 20)))
        for i in range(1, 20):
            run.add(engine.plan(request(i, "w3", 1)))
        steps = 0
        while run.busy:
            run.step()
            steps += 1
        assert steps <= 21


class TestSharedBeginnings:
    @pytest.mark.parametrize("chunk", [7, 512])
    def test_a_shared_prompt_is_read_once(
        self, pair: LocalEngine, reads: Reads, monkeypatch: pytest.MonkeyPatch, chunk: int
    ) -> None:
        """Four prompts of 40 shared words and 1, 2, 3, 4 own ones; two streams, three tokens each.

        Together they read 40 + 1 + 2 + 3 + 4 words of prompts, and 2 of every 3 tokens.
        """
        monkeypatch.setattr(batch, "CHUNK", chunk)
        shared = words(3, 40)
        requests = [request(i, f"{shared} w{i}" + " w7" * i, 3, i % 2) for i in range(4)]
        answers = pair.generate(requests, batch_size=4)
        assert reads.of(pair) == 2 * (40 + 1 + 2 + 3 + 4 + 4 * 2)
        assert tokens(answers) == [specified(pair, r) for r in requests]

    def test_each_stream_shares_its_own_prompt(self, engine: LocalEngine, reads: Reads) -> None:
        """The LoRA's template puts five more words in front: 45 shared words for it."""
        requests = [request(i, f"{words(3, 40)} w{i}", 3) for i in range(3)]
        engine.generate(requests, batch_size=3)
        assert reads.of(engine) == (40 + 3 + 3 * 2) + (45 + 3 + 3 * 2)
        assert reads.of(engine, 1) == 40 + 3 + 3 * 2

    def test_what_a_finished_request_has_read(self, pair: LocalEngine, reads: Reads) -> None:
        """A second turn in the one slot: 6 words, 4 tokens and 2 words more, of which the slot has
        read the 6 words and 3 tokens; so 3 are new, and 1 of the 2 tokens that follow."""
        [first] = pair.generate([request(1, words(2, 6), 4)])
        assert reads.of(pair) == 2 * (6 + 3)
        said = " ".join(f"w{i}" for i in first.token_ids)
        turns = [request(1, words(2, 6), 4), request(2, f"{words(2, 6)} {said} w1 w2", 2)]
        before = reads.of(pair)
        answers = pair.generate(turns, batch_size=1)
        assert reads.of(pair) - before == 2 * (6 + 3 + 3 + 1)
        assert tokens(answers) == [specified(pair, r) for r in turns]

    @pytest.mark.parametrize("length", [3, 1])
    def test_the_same_prompt(self, pair: LocalEngine, reads: Reads, length: int) -> None:
        """All but the last word is shared; that is read again, for its successor. With one token
        each, the first request has left before the others take over what it read."""
        requests = [request(i, words(4, 36), length) for i in range(3)]
        pair.generate(requests, batch_size=3)
        assert reads.of(pair) == 2 * (36 + 1 + 1 + 3 * (length - 1))

    def test_waiting_ends_when_the_prompt_is_read(self) -> None:
        """The base's template is long and the ARM reads three words: it never comes to the 40 that
        the base shares, and the second request must not wait for the first one's end."""
        base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
        engine = LocalEngine(templated(base, words(3, 40)), [arm])
        run = engine.scheduler(2, 100)
        keys = [run.add(engine.plan(request(i, f"w{i} w7 w8", 30))) for i in range(2)]
        seen: set[int] = set()
        for _ in range(5):
            seen |= {key for key, _ in run.step()}
        assert seen == set(keys)

    def test_others_come_and_go(self, pair: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Twelve requests on three shared beginnings in four slots, in pieces of seven words."""
        monkeypatch.setattr(batch, "CHUNK", 7)
        requests = [
            request(i, f"{words(i % 3, 34)} w{i}" + " w2" * (i % 4), 1 + 5 * i % 7, i % 2)
            for i in range(12)
        ]
        answers = pair.generate(requests, batch_size=4)
        assert tokens(answers) == [specified(pair, r) for r in requests]


class TestCancel:
    @pytest.mark.parametrize("speculate", ["off", "on"])
    def test_running_and_waiting(self, engine: LocalEngine, speculate: Any) -> None:
        """Of five requests in two slots the second (running) and the fourth (waiting) go."""
        requests = [request(i, words(i, 4 + i), 8, 0) for i in range(5)]
        run = engine.scheduler(2, 30, speculate=speculate)
        keys = [run.add(engine.plan(r)) for r in requests]
        done: dict[int, Completion] = {}
        for _ in range(2):
            done |= {key: c.completion for key, c in run.step() if c.completion}
        assert not done
        run.cancel(keys[1])
        run.cancel(keys[3])
        assert keys[2] in {key for key, _ in run.step()}  # in the slot that has become free
        while run.busy:
            done |= {key: c.completion for key, c in run.step() if c.completion}
        assert set(done) == {keys[0], keys[2], keys[4]}
        for i in (0, 2, 4):
            assert list(done[keys[i]].token_ids) == specified(engine, requests[i])

    def test_one_that_another_waits_for(self, pair: LocalEngine) -> None:
        """The first request is gone before the second has taken over what it read."""
        requests = [request(i, f"{words(3, 40)} w{i}", 4) for i in range(2)]
        run = pair.scheduler(2, 60)
        keys = [run.add(pair.plan(r)) for r in requests]
        run.step()
        run.cancel(keys[0])
        done = [c.completion for _ in range(20) for _, c in run.step() if c.completion]
        assert tokens(done) == [specified(pair, requests[1])]


def test_too_long_for_a_slot(engine: LocalEngine, reads: Reads) -> None:
    """Ten words for the LoRA and 6 tokens are 16: one more than a slot of 15 holds."""
    run = engine.scheduler(1, 15)
    plan = engine.plan(request(0, words(0, 5), 6))
    with pytest.raises(ConfigError, match="16 tokens, but a slot holds 15"):
        run.add(plan)
    assert not run.busy
    assert reads.calls == 0


class TestOutOfMemory:
    @pytest.mark.parametrize("most", [1, 2, 5])
    def test_goes_on_with_fewer_slots(
        self, engine: LocalEngine, expected: list[list[int]], reads: Reads, most: int
    ) -> None:
        reads.fails = lambda slots: slots > most
        assert tokens(engine.generate(mixed(), batch_size=8)) == expected

    @pytest.mark.parametrize("call", [3, 4, 8, 11])
    def test_in_the_middle(
        self, engine: LocalEngine, expected: list[list[int]], reads: Reads, call: int
    ) -> None:
        """One read fails, the base's or an ARM's; nothing is said twice and nothing is lost."""
        reads.fails = lambda slots: reads.calls == call
        answers = engine.generate(mixed(), batch_size=4, report=True)
        assert tokens(answers) == expected
        assert [len(a.tokens) for a in answers] == [len(a.token_ids) for a in answers]

    @pytest.mark.parametrize("draft", ["model", "ngram"])
    def test_speculating_rows_go_on_as_if_nothing_had_happened(
        self, reads: Reads, draft: str
    ) -> None:
        """Drawn rows, whose random numbers depend on where their rounds of drafts begin. Every read
        of the run fails once: the drafter's, the base's and the ARM's, of prompts and of rounds."""
        base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
        drafter: Any = (
            replace(stream("draft", 3, SIZE), name="draft") if draft == "model" else draft
        )
        engine = LocalEngine(base, [arm], draft=drafter)
        requests = [request(i, words(i, 3 + 2 * i), 7, 1.0) for i in range(4)]
        expected = engine.generate(requests, batch_size=4, report=True, speculate="on")
        assert sum(answer.drafted for answer in expected) > 3
        for call in range(1, reads.calls + 1):
            reads.calls, reads.fails = 0, lambda slots, call=call: reads.calls == call
            answers = engine.generate(requests, batch_size=4, report=True, speculate="on")
            assert tokens(answers) == tokens(expected)
            assert [a.drafted for a in answers] == [a.drafted for a in expected]
            assert [a.accepted for a in answers] == [a.accepted for a in expected]

    def test_a_single_request(self, engine: LocalEngine, reads: Reads) -> None:
        reads.fails = lambda slots: True
        with pytest.raises(ConfigError, match="out of memory on a single request"):
            engine.generate(mixed(3), batch_size=3)


class TestOneStreamForTwoNames:
    def test_the_same_model_object(self) -> None:
        base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
        engine = LocalEngine(
            base, [arm, replace(arm, name="b", scale=0.5), replace(base, name="c")]
        )
        assert [len(group.streams) for group in engine.groups] == [1, 1]
        requests = [replace(r, preference={"a": 1, "b": 2, "c": 3}) for r in mixed(4)]
        answers = engine.generate(requests, report=True)
        assert tokens(answers) == [specified(engine, r) for r in requests]
        for token in answers[1].tokens:
            assert token.rewards["a"] == token.rewards["b"]
            assert token.rewards["c"] == token.logp_base

    def test_the_same_folder(self, base_dir: Path, arm_dir: Path) -> None:
        """Two objectives with one ARM, and the base as an ARM of itself."""
        arms = {"a": str(arm_dir), "b": str(arm_dir), "c": str(base_dir)}
        engine = trimtab.load(str(base_dir), arms)
        assert [len(group.streams) for group in engine.groups] == [1, 1]
        question = Request("the cat", {"a": 1, "b": 2, "c": 3}, sampling=GREEDY)
        assert tokens(engine.generate([question])) == [specified(engine, question)]
