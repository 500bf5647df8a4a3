"""Threads, cancels, faults, memory that runs out: every answer is what it would be alone."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
from hypothesis import settings
from oracle import is_specified, stream, templated, with_lora

from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.group_cache import Entry
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.types import Completion, Request, Sampling

SIZE, THREADS, WAIT = 12, 16, 300.0
COUNT = max(500, 5 * settings().max_examples)  # 10,000 in `make nightly`
GUILTY = "w11 w11 w11"
"""Requests that begin so raise whenever they are in a forward."""
BEGINNINGS = [" ".join(f"w{(7 * i + s) % SIZE}" for i in range(40)) for s in range(3)]


def engine_of(memory: int | None = None) -> LocalEngine:
    """A base, a LoRA that reads three words more, and an ARM of its own."""
    base = stream("base", 1, SIZE)
    arms = [templated(with_lora(base, "a", 3), "w5 w6 w7"), stream("b", 2, SIZE)]
    return LocalEngine(base, arms, cache_memory=memory, max_running=12)


def requests(count: int, seed: int) -> list[Request]:
    """Prompts short, long and of a shared beginning; every setting that a request has."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        words = " ".join(f"w{rng.randrange(SIZE - 1)}" for _ in range(rng.randint(1, 12)))
        start = rng.choice([GUILTY if rng.random() < 0.3 else "w1", "w2 w3", *BEGINNINGS])
        sampling = Sampling(
            max_new_tokens=rng.randint(1, 24),
            temperature=rng.choice([0.0, 0.7, 1.0]),
            top_k=rng.choice([0, 0, 4]),
            seed=i,
            stop=rng.choice([(), (), ("w3",), ("w4w4",)]),
            ignore_eos=True,
        )
        made.append(
            Request(
                f"{start} {words}",
                rng.choice([None, {"a": 1, "b": 0}, {"a": 0.2, "b": 0.8}]),
                rng.choice([0.0, 0.5, 1.0, 2.0]),
                sampling,
                rng.choice([None, None, 0.3]),
                rng.choice([None, None, 0.6]),
                report=rng.random() < 0.2,
                speculate=rng.choice(["off", "off", "on", "auto"]),
            )
        )
    return made


@dataclass
class Faults:
    """What goes wrong in forwards: some requests always, memory now and then."""

    memory: float = 0.01
    rng: random.Random = field(default_factory=lambda: random.Random(5))
    calls: int = 0

    def check(self, entries: Sequence[Entry]) -> None:
        self.calls += 1
        if any(entry.row.sequence[:3] == [11, 11, 11] for entry in entries):
            raise ValueError("not this one")
        if self.rng.random() < self.memory:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def ask(engine: LocalEngine, mine: list[tuple[int, Request]], seed: int) -> dict[int, Completion]:
    """One thread's requests: in lists, as streams (some left or cancelled), in an event loop."""
    rng, found = random.Random(seed), {}
    while mine:
        many = rng.randint(1, 5)
        now, mine = mine[:many], mine[many:]
        how = rng.choice(["list", "stream", "loop"])
        if how == "list":
            plans = [engine.plan(request) for _, request in now]
            found |= {i: c for (i, _), c in zip(now, in_order(engine, plans), strict=True)}
        elif how == "loop":
            found |= asyncio.run(in_a_loop(engine, now))
        else:
            for i, request in now:
                events = engine.stream(request)
                leave = rng.choice([None, None, 0, 2])
                for n, event in enumerate(events):
                    if event.completion:
                        found[i] = event.completion
                    elif n == leave:
                        events.cancel()
                if leave == 0 and rng.random() < 0.5:
                    engine.stream(request)  # and nobody reads it
    return found


def in_order(engine: LocalEngine, plans: Any) -> list[Completion]:
    from trimtab.engines.local.engine import _in_order

    return list(_in_order(engine, plans, 3))


async def in_a_loop(engine: LocalEngine, now: list[tuple[int, Request]]) -> dict[int, Completion]:
    async def one(i: int, request: Request) -> tuple[int, Completion]:
        last = None
        async for event in engine.astream(request):
            last = event.completion or last
        assert last is not None
        return i, last

    return dict(await asyncio.gather(*(one(i, request) for i, request in now)))


def together(engine: LocalEngine, asked: list[Request]) -> dict[int, Completion]:
    """All requests from 16 threads."""
    found: dict[int, Completion] = {}
    errors: list[BaseException] = []

    def work(t: int) -> None:
        try:
            found.update(ask(engine, [*enumerate(asked)][t::THREADS], t))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(t,), daemon=True) for t in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors, errors[0]
    return found


def test_everybody_gets_what_they_would_get_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a budget for some six requests, with one forward in a hundred out of memory."""
    asked = requests(COUNT, seed=1)
    alone = engine_of()
    honest = [r for r in asked if not str(r.prompt).startswith(GUILTY)]
    expected = iter(alone.generate(honest, batch_size=1))
    faults, forward = Faults(), PackedRows.forward

    def checked(rows: PackedRows, entries: Sequence[Entry], positions: int = 1) -> Any:
        faults.check(entries)
        return forward(rows, entries, positions)

    before = threading.active_count()
    memory = 3 * 6 * 128 * alone.groups[0].position_size * 4
    engine = engine_of(memory)
    monkeypatch.setattr(PackedRows, "forward", checked)
    found = together(engine, asked)
    cancelled = 0
    for i, request in enumerate(asked):
        answer = found[i]
        if str(request.prompt).startswith(GUILTY):
            assert answer.finish_reason in ("error", "cancelled"), i
            assert answer.finish_reason == "cancelled" or answer.error == "not this one"
            continue
        wanted = next(expected)
        ids = list(answer.token_ids)
        if answer.finish_reason == "cancelled":
            cancelled += 1
        same = ids == list(wanted.token_ids)[: len(ids)]
        assert same or is_specified(alone, request, ids), i  # two tokens within rounding
        if answer.finish_reason != "cancelled" and same:
            assert (answer.text, answer.finish_reason) == (wanted.text, wanted.finish_reason)
            assert len(answer.tokens) == (len(ids) if request.report else 0)
    assert 0 < cancelled < COUNT / 2 and faults.calls > COUNT
    nothing_is_left(engine, memory)
    grown = psutil.Process().memory_info().rss
    together(engine, asked)
    assert psutil.Process().memory_info().rss - grown < 60e6
    nothing_is_left(engine, memory)
    engine.close()
    assert threading.active_count() <= before


def nothing_is_left(engine: LocalEngine, memory: int) -> None:
    """No request, no slot that is held, and no more memory than was allowed."""
    gc.collect()
    deadline = time.monotonic() + WAIT
    while engine.worker.busy:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    scheduler = engine.worker.scheduler
    assert scheduler is not None
    assert not scheduler.waiting and not scheduler.running
    assert scheduler.memory.used <= memory
    for cache in scheduler.caches:
        assert isinstance(cache, PackedRows)
        for shelf in cache.shelves.by_length.values():
            assert None not in shelf.ended  # each slot is empty, or its row has ended
