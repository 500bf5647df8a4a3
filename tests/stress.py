"""Requests of every kind, callers that go away, and what goes wrong in an engine's forwards."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.local.scheduler import Scheduler
from trimtab.engines.local.shelves import CacheFullError
from trimtab.engines.local.stream_rows import StreamRow
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Completion, Event, Request, TokenReport
from trimtab.errors import BusyError, ConfigError

SIZE = 24
"""Words that the models know."""
GUILTY, GUILTY_LENGTH = SIZE - 1, 12
"""The word that begins the prompts of requests that raise, and no others; their length."""
BEFORE = 3
"""Words that the template of the ARM `a` puts before a prompt."""
LONGEST = 150 + 12
"""Tokens that a request may come to, without those."""
FAULT, NO_MEMORY = "no such word", "DefaultCPUAllocator: can't allocate memory"
SHORTAGE = 0.004
"""Of the forwards, those at which memory runs out."""


# --- requests ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A request, and what is to become of it.

    Attributes:
        number: of it.
        request: what is asked.
        fails_after: tokens after which it raises in every forward; None for never.
        leaves_after: events after which its caller goes away; None for never.
        drops: the caller drops the stream and does not cancel it.
    """

    number: int
    request: Request
    fails_after: int | None
    leaves_after: int | None
    drops: bool


def asked(number: int) -> Asked:
    """Everything about it follows from the number."""
    chance = random.Random(number)
    fails_after = chance.choice([0, 1, 3]) if chance.random() < 0.06 else None
    request = Request(
        _prompt(chance, fails_after),
        chance.choice([None, {"a": 1, "b": 0}, {"a": 0.3, "b": 0.7}, {"a": 0, "b": 1}]),
        chance.choice([0.0, 0.5, 1.0, 1.0, 2.0]),
        _sampling(chance),
        kl_budget=chance.choice([None, None, None, 0.05, 0.5]),
        gate=chance.choice([None, None, None, 0.3, 0.6]),
        report=chance.random() < 0.25,
        speculate=chance.choice(["off", "off", "on", "auto"]),
        n=chance.choice([1] * 11 + [3]),
    )
    leaves_after = chance.choice([0, 0, 1, 2, 4]) if chance.random() < 0.25 else None
    return Asked(number, request, fails_after, leaves_after, chance.random() < 0.4)


def _words(chance: random.Random, count: int) -> str:
    return " ".join(f"w{chance.randrange(GUILTY)}" for _ in range(count))


_BEGINNINGS = [_words(random.Random(i), 40) for i in range(4)]


def _prompt(chance: random.Random, fails_after: int | None) -> str:
    """A fault is told by its beginning: the guilty word, and after how many tokens."""
    if fails_after is not None:
        return f"w{GUILTY} w{fails_after} {_words(chance, GUILTY_LENGTH - 2)}"
    kind = chance.random()
    if kind < 0.5:
        return f"{chance.choice(_BEGINNINGS)} {_words(chance, chance.randint(1, 12))}"
    return _words(chance, chance.randint(1, 30) if kind < 0.97 else chance.randint(90, 150))


def _sampling(chance: random.Random) -> Sampling:
    return Sampling(
        max_new_tokens=chance.choice([1, 2, 3, 4, 5, 6, 12]),
        temperature=chance.choice([0.0, 0.0, 0.7, 1.0, 1.5]),
        top_k=chance.choice([0, 0, 5]),
        top_p=chance.choice([1.0, 1.0, 0.8]),
        min_p=chance.choice([0.0, 0.0, 0.05]),
        seed=chance.getrandbits(40),
        stop=chance.choice([(), (), (), (" w3",), ("w1 w", "w4 w2 w8")]),
        ignore_eos=chance.random() < 0.7,
    )


# --- callers -------------------------------------------------------------------------------------


@dataclass
class Heard:
    """What a caller hears of one answer.

    Attributes:
        completion: at its end, if that was waited for.
        failed: the call raised.
    """

    ids: list[int] = field(default_factory=list)
    tokens: list[TokenReport] = field(default_factory=list)
    text: str = ""
    completion: Completion | None = None
    failed: bool = False

    def take(self, event: Event) -> None:
        """Nothing comes after the completion, which is what came before."""
        assert self.completion is None
        self.ids += event.token_ids
        self.tokens += event.tokens
        self.text += event.text
        self.completion = event.completion
        if (whole := self.completion) is not None:
            found = self.ids, self.tokens, self.text
            assert found == (list(whole.token_ids), list(whole.tokens), whole.text)


Answers = list[Heard]
"""To one request."""


def _nothing_yet(asked: Asked) -> Answers:
    return [Heard() for _ in range(asked.request.n)]


def by_generate(engine: LocalEngine, visit: Sequence[Asked]) -> list[Answers]:
    """Nobody can go away."""
    found = [_nothing_yet(asked) for asked in visit]
    requests = [asked.request for asked in visit]
    try:
        completions = iter(engine.generate(requests, batch_size=1 + len(visit) % 3))
    except ConfigError as error:
        assert FAULT in str(error)
        return [[Heard(failed=True) for _ in answers] for answers in found]
    for answers in found:
        for heard in answers:
            whole = next(completions)
            heard.take(Event(whole.text, whole.token_ids, whole.tokens, whole))
    return found


def by_stream(engine: LocalEngine, visit: Sequence[Asked]) -> list[Answers]:
    """All at once, and read one after the other."""
    streams = [_patiently(engine, asked.request) for asked in visit]
    found = [_nothing_yet(asked) for asked in visit]
    for asked, answers in zip(visit, found, strict=True):
        events, count = streams.pop(0), 0
        while asked.leaves_after is None or count < asked.leaves_after:
            if (event := next(events, None)) is None:
                break
            answers[event.index].take(event)
            count += 1
        if asked.leaves_after is not None and not asked.drops:
            events.cancel()
            for event in events:
                answers[event.index].take(event)
    return found


def _patiently(engine: LocalEngine, request: Request) -> Any:
    """Ask again while too many wait."""
    while True:
        try:
            return engine.stream(request)
        except BusyError:
            time.sleep(0.005)


def by_astream(engine: LocalEngine, visit: Sequence[Asked]) -> list[Answers]:
    """In an event loop of its own; who goes away leaves the loop, or has its task cancelled."""

    async def one(asked: Asked) -> Answers:
        while True:
            answers = _nothing_yet(asked)
            try:
                await _read(engine.astream(asked.request), asked, answers)
            except BusyError:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                return answers
            else:
                return answers

    async def several() -> list[Answers]:
        return list(await asyncio.gather(*map(one, visit)))

    return asyncio.run(several())


async def _read(events: AsyncIterator[Event], asked: Asked, answers: Answers) -> None:
    count = 0
    async for event in events:
        answers[event.index].take(event)
        count += 1
        if asked.leaves_after is not None and count >= asked.leaves_after:
            if asked.drops:
                return
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
    await asyncio.sleep(0)  # takes in a cancellation that came with the last event


Call = Callable[[LocalEngine, Sequence[Asked]], list[Answers]]
CALLS: tuple[Call, ...] = (by_generate, by_stream, by_astream)


def all_at_once(
    engine: LocalEngine, everything: Sequence[Asked], *, threads: int, seed: int, wait: float
) -> dict[int, Answers]:
    """What callers in several threads hear, each of a few requests at a time, by their numbers."""
    found: dict[int, Answers] = {}
    errors: list[BaseException] = []

    def run(number: int) -> None:
        chance, mine = random.Random(f"{seed} {number}"), list(everything[number::threads])
        try:
            while mine:
                visit = [mine.pop() for _ in range(min(len(mine), chance.randint(1, 5)))]
                answers = chance.choice(CALLS)(engine, visit)
                found.update(zip((asked.number for asked in visit), answers, strict=True))
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(threads)]
    for caller in callers:
        caller.start()
    deadline = time.monotonic() + wait
    for caller in callers:
        caller.join(max(deadline - time.monotonic(), 0))
    assert not any(caller.is_alive() for caller in callers), "they wait for ever"
    if errors:
        raise errors[0]
    return found


# --- what goes wrong -----------------------------------------------------------------------------


class Trouble:
    """Makes forwards of one engine fail, and sees its schedulers.

    Attributes:
        seen: times that a request raised, the cache was full, and the machine had no memory.
        schedulers: that its worker has made.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, engine: LocalEngine) -> None:
        self.seen: Counter[str] = Counter(fault=0, cache=0, memory=0)
        self.schedulers: list[Scheduler] = []
        self._chance = random.Random(0)
        groups = [id(group) for group in engine.groups]
        new, forward = engine.worker._new_scheduler, PackedRows.forward

        def made() -> Scheduler:
            self.schedulers.append(new())
            self._count_preempted(self.schedulers[-1])
            return self.schedulers[-1]

        def troubled(rows: PackedRows, *args: Any) -> Any:
            error = self._error(rows, *args) if id(rows.group) in groups else None
            if error is None:
                return forward(rows, *args)
            if self._chance.random() < 0.5:
                forward(rows, *args)  # it fails late: at the LM head
            raise error

        monkeypatch.setattr(engine.worker, "_new_scheduler", made)
        monkeypatch.setattr(PackedRows, "forward", troubled)

    def _count_preempted(self, scheduler: Scheduler) -> None:
        preempt = scheduler._preempt

        def counted(rows: Any, error: BaseException) -> Any:
            self.seen["cache" if isinstance(error, CacheFullError) else "memory"] += 1
            return preempt(rows, error)

        scheduler._preempt = counted  # type: ignore[method-assign]

    def _error(self, rows: PackedRows, entries: Sequence[Any], _: int) -> Exception | None:
        if any(_is_guilty(rows, entry.row) for entry in entries):
            self.seen["fault"] += 1
            return ValueError(FAULT)
        # a request that runs alone and twice in a row finds no memory cannot be answered
        several = len(self.schedulers[-1].running) > 1
        return RuntimeError(NO_MEMORY) if several and self._chance.random() < SHORTAGE else None


def _is_guilty(rows: PackedRows, row: StreamRow) -> bool:
    said = row.sequence[BEFORE if rows.group.index.get("a") == row.stream else 0 :]
    return said[0] == GUILTY and len(said) >= GUILTY_LENGTH + said[1]
