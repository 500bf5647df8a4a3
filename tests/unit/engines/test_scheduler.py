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
from trimtab.engines.local.group_cache import Entry
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.local.rows import Row
from trimtab.engines.local.scheduler import Scheduler
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


@pytest.fixture
def pair() -> LocalEngine:
    """A base with one LoRA: one group of two streams that read the same prompts, and that have
    read nothing yet."""
    base = stream("base", 1, SIZE)
    engine = LocalEngine(base, [with_lora(base, "a", 3)])
    engine.scheduler()  # measures what a token takes, by reading one
    return engine


def request(i: int, prompt: str, tokens: int, temperature: float = 0.0) -> Request:
    sampling = GREEDY.but(max_new_tokens=tokens, temperature=temperature, seed=i)
    return Request(prompt, None, [1.0, 0.5, 0.0, 2.0][i % 4], sampling)


def guided(i: int, prompt: str, tokens: int, temperature: float = 0.0) -> Request:
    """One that runs all streams."""
    return replace(request(i, prompt, tokens, temperature), strength=1.0)


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
    """Counts what every group reads while a test runs; fails a forward when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens: dict[int, int] = {}
        self.rows: dict[int, int] = {}
        self.calls = 0
        self.fails: Callable[[Sequence[Entry]], bool] = lambda entries: False
        self.error: Callable[[], Exception] = lambda: RuntimeError(NO_MEMORY)
        forward = PackedRows.forward

        def counted(rows: PackedRows, entries: Sequence[Entry], positions: int = 1) -> Any:
            self.calls += 1
            if self.fails(entries):
                raise self.error()
            own = id(rows.group)
            self.tokens[own] = self.tokens.get(own, 0) + sum(len(e.ids) for e in entries)
            self.rows[own] = self.rows.get(own, 0) + len(entries)
            return forward(rows, entries, positions)

        monkeypatch.setattr(PackedRows, "forward", counted)

    def of(self, engine: LocalEngine, group: int = 0) -> int:
        """Tokens."""
        return self.tokens.get(id(engine.groups[group]), 0)

    def rows_of(self, engine: LocalEngine, group: int = 0) -> int:
        """Rows of all forwards."""
        return self.rows.get(id(engine.groups[group]), 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def run_all(run: Scheduler, *rows: Row) -> list[list[int]]:
    """Step until nothing is left; the rows' tokens."""
    while run.busy:
        run.step()
    return [row.ids for row in rows]


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
        run = engine.scheduler(most=2)
        run.add(0, engine.plan(request(0, "w1 w2", 20)))
        for i in range(1, 20):
            run.add(i, engine.plan(request(i, "w3", 1)))
        steps = 0
        while run.busy:
            run.step()
            steps += 1
        assert steps <= 21


class TestGuides:
    """A request runs the streams that it uses, and no others."""

    @pytest.mark.parametrize(
        ("settings", "base_group", "arm_group"),
        [
            ({}, 2 * 5, 5),  # the base, its LoRA and the ARM: 5 tokens of each
            ({"strength": 0.0}, 5, 0),
            ({"preference": {"a": 1, "b": 0}}, 2 * 5, 0),
            ({"preference": {"a": 0, "b": 1}}, 5, 5),
            ({"strength": 0.0, "report": True}, 2 * 5, 5),  # a report asks everybody
        ],
    )
    def test_rows(
        self, engine: LocalEngine, reads: Reads, settings: Any, base_group: int, arm_group: int
    ) -> None:
        """One prompt in one piece, and four tokens after the first."""
        asked = replace(request(0, "w1 w2 w3", 5), **settings)
        [answer] = engine.generate([asked])
        assert (reads.rows_of(engine), reads.rows_of(engine, 1)) == (base_group, arm_group)
        assert list(answer.token_ids) == specified(engine, asked)

    def test_mixed_in_one_batch(self, engine: LocalEngine, reads: Reads) -> None:
        """Four requests at once, three tokens each: every guide is read for those that use it."""
        weights = ({"a": 1, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 1})
        requests = [replace(request(i, f"w{i} w2", 3), strength=1.0, preference=w)
                    for i, w in enumerate(weights)]  # fmt: skip
        requests.append(replace(request(3, "w3 w4", 3), strength=0.0))
        answers = engine.generate(requests, batch_size=4)
        assert reads.rows_of(engine) == 3 * (4 + 2)  # four base rows, and two of the LoRA
        assert reads.rows_of(engine, 1) == 3 * 2
        assert tokens(answers) == [specified(engine, r) for r in requests]


class TestFairness:
    def test_decoding_goes_on_while_a_long_prompt_is_read(
        self, pair: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A row that is ready gets a token in every step, whatever is read beside it."""
        monkeypatch.setattr(batch, "CHUNK", 16)
        run = pair.scheduler()
        ready = run.add(0, pair.plan(request(1, "w1", 40)))
        run.step()
        long = run.add(1, pair.plan(request(2, words(2, 150), 2)))
        for n in range(2, 12):
            run.step()
            assert len(ready.ids) == n
        assert long.base.computed > 20 and not long.ids
        assert run_all(run, ready, long) == [
            specified(pair, request(1, "w1", 40)), specified(pair, request(2, words(2, 150), 2))
        ]  # fmt: skip

    def test_a_short_prompt_does_not_wait_for_a_long_one(
        self, pair: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of 16 tokens a step the old long one has 8; the short one's 2 streams of 6 need two."""
        monkeypatch.setattr(batch, "CHUNK", 16)
        run = pair.scheduler()
        long = run.add(0, pair.plan(request(2, words(2, 100), 2)))
        short = run.add(1, pair.plan(request(1, words(5, 6), 2)))
        run.step()
        run.step()
        assert len(short.ids) == 1 and not long.ids

    def test_a_long_prompt_does_not_wait_for_ever(
        self, pair: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Short ones keep coming; 100 words in two streams, half of 16 tokens a step: 25 steps."""
        monkeypatch.setattr(batch, "CHUNK", 16)
        run = pair.scheduler()
        long = run.add(0, pair.plan(request(2, words(2, 100), 2)))
        steps = 0
        while not long.ids:
            run.add(1 + steps, pair.plan(request(1, words(steps, 4), 1)))
            run.step()
            steps += 1
        assert steps <= 2 * 100 // (16 // 2) + 1


class TestMemory:
    def test_a_long_request_sizes_nobody_elses_slot(self, pair: LocalEngine) -> None:
        """Nine short requests and one of 200 words: bytes for 9 · 64 and 256 tokens of 2 streams,
        and no more than twice that, as shelves grow by doubling."""
        run = pair.scheduler()
        rows = [run.add(i, pair.plan(guided(i, words(i, 8), 8))) for i in range(9)]
        rows.append(run.add(9, pair.plan(guided(9, words(9, 200), 8))))
        run_all(run, *rows)
        each = 2 * pair.groups[0].position_size * 4
        assert (9 * 64 + 256) * each <= run.memory.used <= 2 * (9 * 64 + 256) * each + 128 * each

    def test_within_a_budget(self, pair: LocalEngine) -> None:
        """Room for three requests' two streams of 64 tokens: ten go through, three at a time."""
        each = 2 * 64 * pair.groups[0].position_size * 4
        small = LocalEngine(pair.base, pair.arms, cache_memory=3 * each)
        requests = [guided(i, words(i, 9), 12, i % 2) for i in range(10)]
        run, most = small.scheduler(), 0
        rows = [run.add(i, small.plan(r)) for i, r in enumerate(requests)]
        while run.busy:
            most = max(most, len(run.step()))
            assert run.memory.used <= 3 * each
        assert most == 3
        assert [row.ids for row in rows] == [specified(pair, r) for r in requests]

    def test_one_that_can_never_fit(self, pair: LocalEngine) -> None:
        each = 2 * 64 * pair.groups[0].position_size * 4
        small = LocalEngine(pair.base, pair.arms, cache_memory=each)
        with pytest.raises(ConfigError, match="70 tokens, whose keys and values take"):
            small.generate([guided(0, words(0, 60), 10)])
        assert len(small.generate([guided(0, words(0, 50), 10)])[0].token_ids) == 10

    @pytest.mark.parametrize(("slots", "fits"), [(1, 14), (2, 78), (3, 78), (4, None)])
    def test_room_is_what_can_be_planned(
        self, pair: LocalEngine, slots: int, fits: int | None
    ) -> None:
        """50 words and the answer, in two streams of 64 or 128 tokens; or up to the models' limit,
        where the cache has as much."""
        each = 2 * 64 * pair.groups[0].position_size * 4
        small = LocalEngine(pair.base, pair.arms, cache_memory=slots * each)
        asked = guided(0, words(0, 50), 10)
        room = small.room(asked)
        assert room == (pair.room(asked) if fits is None else fits)
        small.plan(guided(0, words(0, 50), room))
        with pytest.raises(ConfigError):
            small.plan(guided(0, words(0, 50), room + 1))


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
        requests = [guided(i, f"{shared} w{i}" + " w7" * i, 3, i % 2) for i in range(4)]
        answers = pair.generate(requests, batch_size=4)
        assert reads.of(pair) == 2 * (40 + 1 + 2 + 3 + 4 + 4 * 2)
        assert tokens(answers) == [specified(pair, r) for r in requests]

    def test_each_stream_shares_its_own_prompt(self, engine: LocalEngine, reads: Reads) -> None:
        """The LoRA's template puts five more words in front: 45 shared words for it."""
        requests = [guided(i, f"{words(3, 40)} w{i}", 3) for i in range(3)]
        engine.generate(requests, batch_size=3)
        assert reads.of(engine) == (40 + 3 + 3 * 2) + (45 + 3 + 3 * 2)
        assert reads.of(engine, 1) == 40 + 3 + 3 * 2

    def test_what_a_finished_request_has_read(self, pair: LocalEngine, reads: Reads) -> None:
        """A second turn: 16 words, 4 tokens and 2 words more, of which 16 words and 3 tokens have
        been read; so 3 are new, and 1 of the 2 tokens that follow."""
        [first] = pair.generate([request(1, words(1, 16), 4)])
        assert reads.of(pair) == 2 * (16 + 3)
        said = " ".join(f"w{i}" for i in first.token_ids)
        second = guided(2, f"{words(1, 16)} {said} w1 w2", 2)
        before = reads.of(pair)
        answers = pair.generate([second])
        assert reads.of(pair) - before == 2 * (3 + 1)
        assert tokens(answers) == [specified(pair, second)]

    @pytest.mark.parametrize("length", [3, 1])
    def test_the_same_prompt(self, pair: LocalEngine, reads: Reads, length: int) -> None:
        """All but the last word is shared; that is read again, for its successor. With one token
        each, the first request has left before the others take over what it read."""
        requests = [guided(i, words(4, 36), length) for i in range(3)]
        pair.generate(requests, batch_size=3)
        assert reads.of(pair) == 2 * (36 + 1 + 1 + 3 * (length - 1))

    def test_waiting_ends_when_the_prompt_is_read(self) -> None:
        """The base's template is long and the ARM reads three words: it never comes to the 40 that
        the base shares, and the second request must not wait for the first one's end."""
        base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
        engine = LocalEngine(templated(base, words(3, 40)), [arm])
        run = engine.scheduler()
        rows = [run.add(i, engine.plan(guided(i, f"w{i} w7 w8", 30))) for i in range(2)]
        for _ in range(5):
            run.step()
        assert all(row.ids for row in rows)

    def test_others_come_and_go(self, pair: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        """Twelve requests on three shared beginnings in four slots, in pieces of seven words."""
        monkeypatch.setattr(batch, "CHUNK", 7)
        requests = [
            guided(i, f"{words(i % 3, 34)} w{i}" + " w2" * (i % 4), 1 + 5 * i % 7, i % 2)
            for i in range(12)
        ]
        answers = pair.generate(requests, batch_size=4)
        assert tokens(answers) == [specified(pair, r) for r in requests]


class TestEnd:
    @pytest.mark.parametrize("speculate", ["off", "on"])
    def test_running_and_waiting(self, engine: LocalEngine, speculate: Any) -> None:
        """Of five requests, two at a time, the second (running) and the fourth (waiting) go."""
        requests = [
            replace(guided(i, words(i, 4 + i), 8, 0), speculate=speculate) for i in range(5)
        ]
        run = engine.scheduler(most=2)
        rows = [run.add(i, engine.plan(r)) for i, r in enumerate(requests)]
        for _ in range(2):
            run.step()
        assert not any(row.finish_reason for row in rows)
        run.end(1)
        run.end(3)
        run.step()
        assert rows[2].ids  # at once
        run_all(run)
        for i in (0, 2, 4):
            assert rows[i].ids == specified(engine, requests[i])
        assert len(rows[1].ids) < 8 and not rows[3].ids

    def test_one_that_another_waits_for(self, pair: LocalEngine) -> None:
        """The first request is gone before the second has taken over what it read."""
        requests = [guided(i, f"{words(3, 40)} w{i}", 4) for i in range(2)]
        run = pair.scheduler()
        _, second = [run.add(i, pair.plan(r)) for i, r in enumerate(requests)]
        run.step()
        run.end(0)
        assert run_all(run, second) == [specified(pair, requests[1])]


class TestOutOfMemory:
    @pytest.mark.parametrize("most", [1, 2, 5])
    def test_goes_on_with_fewer(
        self, engine: LocalEngine, expected: list[list[int]], reads: Reads, most: int
    ) -> None:
        """No forward of rows of more than so many requests goes through."""
        run = engine.scheduler(most=8)
        reads.fails = lambda entries: len([e for e in entries if e.row.stream == 0]) > most
        rows = [run.add(i, engine.plan(r)) for i, r in enumerate(mixed())]
        assert run_all(run, *rows) == expected

    def test_room_comes_back(self, engine: LocalEngine, reads: Reads) -> None:
        """After one failure of four requests three run, and 32 steps later four again."""
        run = engine.scheduler(most=4)
        reads.fails = lambda entries: reads.calls in (3, 4)  # what can be given up is, first
        for i in range(4):
            run.add(i, engine.plan(request(i, "w1", 60)))
        counts = []
        for _ in range(50):
            run.step()
            counts.append(len(run.running))
        assert counts[0] == 4 and 3 in counts and counts[-1] == 4

    @pytest.mark.parametrize("call", [3, 4, 8, 11])
    def test_in_the_middle(
        self, engine: LocalEngine, expected: list[list[int]], reads: Reads, call: int
    ) -> None:
        """One read fails, the base's or an ARM's; nothing is said twice and nothing is lost."""
        reads.fails = lambda entries: reads.calls == call
        answers = engine.generate(mixed(), batch_size=4, report=True)
        assert tokens(answers) == expected
        assert [len(a.tokens) for a in answers] == [len(a.token_ids) for a in answers]

    @pytest.mark.parametrize("draft", ["model", "ngram"])
    def test_speculating_rows_go_on_as_if_nothing_had_happened(
        self, reads: Reads, draft: str
    ) -> None:
        """Every forward of the run fails once: the drafter's, the base's and the ARM's, of prompts
        and of rounds."""
        base, arm = stream("base", 1, SIZE), stream("a", 2, SIZE)
        drafter: Any = (
            replace(stream("draft", 3, SIZE), name="draft") if draft == "model" else draft
        )
        engine = LocalEngine(base, [arm], draft=drafter)
        requests = [request(i, words(i, 3 + 2 * i), 7, 1.0) for i in range(4)]
        expected = engine.generate(requests, batch_size=4, report=True, speculate="on")
        assert tokens(expected) == [specified(engine, r) for r in requests]
        assert sum(answer.drafted for answer in expected) > 3
        for call in range(1, reads.calls + 1):
            reads.calls, reads.fails = 0, lambda entries, call=call: reads.calls == call
            answers = engine.generate(requests, batch_size=4, report=True, speculate="on")
            assert tokens(answers) == tokens(expected)

    def test_a_single_request(self, engine: LocalEngine, reads: Reads) -> None:
        reads.fails = lambda entries: True
        with pytest.raises(ConfigError, match="out of memory on a single request"):
            engine.generate(mixed(3), batch_size=3)


class TestIsolation:
    @pytest.mark.parametrize("speculate", ["off", "on"])
    def test_a_row_that_fails_ends_alone(
        self, engine: LocalEngine, expected: list[list[int]], reads: Reads, speculate: Any
    ) -> None:
        """The request that has read 9 words or more of its own (numbers 5 and 7) raises."""
        guilty = [engine.plan(r).prompts["base"] for i, r in enumerate(mixed()) if i in (5, 7)]
        reads.error = lambda: ValueError("no such word")
        reads.fails = lambda entries: any(
            e.row.stream == 0 and e.row.sequence[: len(ids)] == ids
            for e in entries for ids in guilty
        )  # fmt: skip
        answers = engine.generate(mixed(), batch_size=9, speculate=speculate)
        for i, answer in enumerate(answers):
            if i in (5, 7):
                assert (answer.finish_reason, answer.error) == ("error", "no such word")
            else:
                assert list(answer.token_ids) == expected[i] and not answer.error

    def test_what_fails_only_together_goes_on_alone(
        self, engine: LocalEngine, expected: list[list[int]], reads: Reads
    ) -> None:
        reads.error = lambda: ValueError("too many at once")
        reads.fails = lambda entries: len([e for e in entries if e.row.stream == 0]) > 1
        assert tokens(engine.generate(mixed(), batch_size=9)) == expected

    def test_all_that_fail_are_an_error(self, engine: LocalEngine, reads: Reads) -> None:
        reads.error, reads.fails = lambda: ValueError("never"), lambda entries: True
        with pytest.raises(ConfigError, match="never"):
            engine.generate(mixed(2))


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
