"""One engine and several threads, or several streams that take turns in one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oracle import GREEDY, specified, stream, templated, with_lora

from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Chunk, Request

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


def read_all(chunks: Iterator[Chunk]) -> list[int]:
    last = None
    for chunk in chunks:
        last = chunk.completion or last
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


def test_a_scheduler_that_others_add_to_and_cancel_in(
    engine: LocalEngine, expected: list[list[int]]
) -> None:
    """As a server does: one thread steps, others bring requests and take some back."""
    run = engine.scheduler(3, 40)
    keys: dict[int, int] = {}
    done: dict[int, list[int]] = {}
    brought = threading.Event()

    def bring() -> None:
        for i in range(8):
            key = run.add(engine.plan(request(i)))
            keys[key] = i
            if i % 4 == 3:
                run.cancel(key)
        brought.set()

    def work() -> None:
        while run.busy or not brought.is_set():
            for key, chunk in run.step():
                if chunk.completion:
                    done[key] = list(chunk.completion.token_ids)

    assert together(bring, work) == [None, None]
    assert {keys[key]: ids for key, ids in done.items()} == {
        i: expected[i] for i in range(8) if i % 4 != 3 or i in {keys[k] for k in done}
    }
    assert len(done) >= 6
