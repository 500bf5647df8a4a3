"""One engine and several threads, or several streams that take turns in one thread."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from oracle import GREEDY, specified, stream, templated, with_lora
from test_scheduler import Reads

from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Event, Request
from trimtab.errors import BusyError, ClosedError

SIZE = 12
WAIT = 120.0  # seconds after which a test says that threads wait for each other


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    """A LoRA on the base and an ARM of its own: layers that know the rows of one forward."""
    base = stream("base", 1, SIZE)
    return LocalEngine(base, [templated(with_lora(base, "a", 3), "w5 w6 w7"), stream("b", 2, SIZE)])


def request(i: int, temperature: float = 1.0) -> Request:
    prompt = " ".join(f"w{(i + 7 * j + j * j) % SIZE}" for j in range(1 + 5 * i % 13))
    weights = {"a": 1.0 + i % 3, "b": 1.0}
    return Request(
        prompt, weights, 1.0, GREEDY.but(max_new_tokens=16, temperature=temperature, seed=i)
    )


@pytest.fixture(scope="module")
def expected(engine: LocalEngine) -> list[list[int]]:
    return [specified(engine, request(i)) for i in range(8)]


def together(*jobs: Callable[[], Any]) -> list[Any]:
    """What jobs return that start at once, each in a thread of its own."""
    found: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def run(i: int) -> None:
        start.wait()
        try:
            found[i] = jobs[i]()
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert not any(thread.is_alive() for thread in threads)
    return found


def read_all(events: Iterator[Event]) -> list[int]:
    last = None
    for event in events:
        last = event.completion or last
    assert last is not None
    return list(last.token_ids)


def test_generate_from_several_threads(engine: LocalEngine, expected: list[list[int]]) -> None:
    def job(numbers: list[int], slots: int) -> Callable[[], Any]:
        return lambda: [
            list(answer.token_ids)
            for _ in range(3)
            for answer in engine.generate([request(i) for i in numbers], batch_size=slots)
        ]

    found = together(job([0, 1, 2], 2), job([3, 4], 2), job([5], 1), job([6, 7, 0], 3))
    for numbers, answers in zip(([0, 1, 2], [3, 4], [5], [6, 7, 0]), found, strict=True):
        assert answers == [expected[i] for i in numbers] * 3


def test_streams_beside_generate(engine: LocalEngine, expected: list[list[int]]) -> None:
    found = together(
        lambda: [read_all(engine.stream(request(1))) for _ in range(4)],
        lambda: [read_all(engine.stream(request(2))) for _ in range(4)],
        lambda: [list(a.token_ids) for a in engine.generate([request(i) for i in (3, 4, 5)])],
    )
    assert found == [[expected[1]] * 4, [expected[2]] * 4, expected[3:6]]


def test_two_streams_by_turns_in_one_thread(engine: LocalEngine, expected: list[list[int]]) -> None:
    """Another call in between does not matter either."""
    one, two = engine.stream(request(1)), engine.stream(request(2))
    seen: dict[int, list[int]] = {}
    for a, b in zip(one, two, strict=False):
        for i, chunk in ((1, a), (2, b)):
            if chunk.completion:
                seen[i] = list(chunk.completion.token_ids)
        engine.generate([request(3)])
    for i, rest in ((1, one), (2, two)):
        if i not in seen:
            seen[i] = read_all(rest)
    assert seen == {1: expected[1], 2: expected[2]}


def test_a_stream_that_is_left_halfway_holds_nobody_up(
    engine: LocalEngine, expected: list[list[int]]
) -> None:
    """It is still there, held by this thread, while another one works; and goes on after that."""
    left = engine.stream(request(1))
    next(left)
    [answers] = together(lambda: [list(a.token_ids) for a in engine.generate([request(2)])])
    assert answers == [expected[2]]
    assert read_all(left) == expected[1]


def test_several_threads_that_add_and_cancel(
    engine: LocalEngine, expected: list[list[int]]
) -> None:
    """As a server does. What is cancelled ends at once, with the tokens that it had."""

    def job(numbers: list[int]) -> Callable[[], Any]:
        def work() -> dict[int, Any]:
            streams = {i: engine.stream(request(i)) for i in numbers}
            for i in numbers:
                if i % 4 == 3:
                    next(streams[i])
                    streams[i].cancel()
            return {i: [e.completion for e in s if e.completion] for i, s in streams.items()}

        return work

    found = together(job([0, 3, 4]), job([1, 7]), job([2, 5, 6]))
    for answers in found:
        for i, [answer] in answers.items():
            ids = list(answer.token_ids)
            if answer.finish_reason == "cancelled":
                assert i % 4 == 3 and ids == expected[i][: len(ids)]
            else:
                assert ids == expected[i]


class TestCancelled:
    def test_it_wakes_its_reader_at_once(self, engine: LocalEngine) -> None:
        """With the tokens that it had."""
        events = engine.stream(replace(request(1), sampling=GREEDY.but(max_new_tokens=200)))
        next(events)
        began = time.monotonic()
        events.cancel()
        last = [event.completion for event in events if event.completion][-1]
        assert last is not None and last.finish_reason == "cancelled"
        assert time.monotonic() - began < 5
        assert len(last.token_ids) < 200

    def test_who_drops_the_stream_cancels(self, engine: LocalEngine) -> None:
        """The worker has nothing left to do soon after."""
        events = engine.stream(replace(request(1), sampling=GREEDY.but(max_new_tokens=230)))
        next(events)
        del events
        gc.collect()
        deadline = time.monotonic() + WAIT
        while engine.worker.busy:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_an_engine_that_nobody_holds_ends_its_threads(self) -> None:
        other = LocalEngine(stream("base", 1, SIZE))
        other.generate(["w1"], max_new_tokens=2)
        threads = other.worker.threads
        assert all(thread.is_alive() for thread in threads)
        del other
        gc.collect()
        for thread in threads:
            thread.join(WAIT)
        assert not any(thread.is_alive() for thread in threads)

    def test_a_stream_keeps_its_engine(self, expected: list[list[int]]) -> None:
        base = stream("base", 1, SIZE)
        events = LocalEngine(base).stream("w1 w2", max_new_tokens=5, temperature=0)
        gc.collect()
        assert len(read_all(events)) == 5

    def test_a_closed_engine_refuses(self) -> None:
        other = LocalEngine(stream("base", 1, SIZE))
        events = other.stream("w1", max_new_tokens=200)
        next(events)
        other.close()
        assert [e.completion.finish_reason for e in events if e.completion] == ["cancelled"]
        with pytest.raises(ClosedError, match="the engine is closed"):
            other.stream("w1")


class TestQueue:
    def test_one_too_many_is_refused(self) -> None:
        """One runs, two wait, the fourth is refused; once they are gone another is taken."""
        engine = LocalEngine(stream("base", 1, SIZE), max_running=1, max_waiting=2)
        held = [engine.stream("w1", max_new_tokens=200)]
        next(held[0])
        held += [engine.stream("w1", max_new_tokens=3) for _ in range(2)]
        with pytest.raises(BusyError, match="2 requests wait already; try again a little later"):
            engine.stream("w1", max_new_tokens=3)
        held[0].cancel()
        assert [len(read_all(events)) for events in held[1:]] == [3, 3]
        assert len(read_all(engine.stream("w1", max_new_tokens=3))) == 3

    def test_a_long_list_waits_beside_the_queue(self) -> None:
        engine = LocalEngine(stream("base", 1, SIZE), max_running=2, max_waiting=1)
        answers = engine.generate(["w1 w2"] * 20, max_new_tokens=3, batch_size=4)
        assert [len(answer.token_ids) for answer in answers] == [3] * 20


class TestEventLoop:
    def test_several_at_once(self, engine: LocalEngine, expected: list[list[int]]) -> None:
        async def one(i: int) -> list[int]:
            ids: list[int] = []
            async for event in engine.astream(request(i)):
                ids += event.token_ids
                if event.completion:
                    assert list(event.completion.token_ids) == ids
            return ids

        async def several() -> list[list[int]]:
            return list(await asyncio.gather(*(one(i) for i in range(8))))

        assert asyncio.run(several()) == expected

    def test_who_leaves_the_loop_cancels(self, engine: LocalEngine) -> None:
        async def leave() -> None:
            asked = replace(request(1), sampling=GREEDY.but(max_new_tokens=230))
            events = engine.astream(asked)
            async for _ in events:
                break
            await events.aclose()  # type: ignore[attr-defined]

        asyncio.run(leave())
        deadline = time.monotonic() + WAIT
        while engine.worker.busy:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class TestEvents:
    def test_they_add_up(self, engine: LocalEngine) -> None:
        """Text, ids and reports of the events are those of the completion."""
        events = list(engine.stream(replace(request(2), report=True)))
        last = events[-1].completion
        assert last is not None and not any(event.completion for event in events[:-1])
        assert "".join(event.text for event in events) == last.text
        assert [i for event in events for i in event.token_ids] == list(last.token_ids)
        assert [t for event in events for t in event.tokens] == list(last.tokens)
        assert [t.token_id for t in last.tokens] == list(last.token_ids)

    def test_several_answers_share_the_reading(
        self, engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three answers to 40 words: seeds of their own, each as if asked by itself."""
        reads = Reads(monkeypatch)
        other = LocalEngine(engine.base)
        prompt = " ".join(f"w{i % SIZE}" for i in range(40))
        sampling = GREEDY.but(max_new_tokens=6, temperature=1.0, seed=5)
        asked = Request(prompt, sampling=sampling, n=3)
        answers = other.generate([asked])
        assert reads.of(other) == 40 + 1 + 1 + 3 * 5
        assert len({answer.seed for answer in answers}) == 3 and answers[0].seed == 5
        for answer in answers:
            alone = replace(asked, n=1, sampling=sampling.but(seed=answer.seed))
            assert list(answer.token_ids) == specified(other, alone)
        indexes = {event.index for event in other.stream(asked)}
        assert indexes == {0, 1, 2}

    def test_no_seed_draws_one(self, engine: LocalEngine) -> None:
        """It is told, and gives the same answer again."""
        first, second = engine.generate(["w1 w2"] * 2, max_new_tokens=12, seed=None)
        assert first.seed != second.seed
        [again] = engine.generate(["w1 w2"], max_new_tokens=12, seed=first.seed)
        assert again.token_ids == first.token_ids
