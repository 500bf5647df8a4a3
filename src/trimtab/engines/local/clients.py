"""How callers in any thread, or in an event loop, read what the worker delivers."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace

from trimtab.engines.local.drawing import Drawn
from trimtab.engines.local.rows import RowPlan
from trimtab.engines.local.worker import Worker
from trimtab.engines.types import Completion, Event
from trimtab.errors import ConfigError


class EventStream:
    """The events of some answers, as they come. Whoever drops it cancels them.

    Args:
        engine: stays alive as long as this does.
        worker: the engine's.
        plans: one per answer; `Event.index` counts them.
        most: of a long list, answers that run at once; they may wait beside the engine's queue.
    """

    def __init__(
        self, engine: object, worker: Worker, plans: Sequence[RowPlan], most: int | None = None
    ) -> None:
        self._running: dict[int, int] = {}
        self._engine, self._worker = engine, worker
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        events = self._events  # the worker must not hold this stream: it could not be dropped
        keys = worker.add(plans, lambda i, event: events.put(replace(event, index=i)), most)
        self._running = dict(enumerate(keys))

    def __iter__(self) -> EventStream:
        return self

    def __next__(self) -> Event:
        if not self._running:
            raise StopIteration
        event = self._events.get()
        if event.completion:
            self._running.pop(event.index, None)  # another thread may have closed this
        return event

    def cancel(self) -> None:
        """End what still runs: the reader gets its last events at once, `cancelled`."""
        for key in [*self._running.values()]:
            self._worker.cancel(key)

    def close(self) -> None:
        """Cancel, and read no more."""
        self.cancel()
        self._running.clear()

    def __del__(self) -> None:
        self.close()


class AsyncEventStream:
    """The same in an event loop, from when it is made. Whoever drops it cancels the answers.

    Raises:
        BusyError: too many wait already.
    """

    def __init__(self, engine: object, worker: Worker, plans: Sequence[RowPlan]) -> None:
        self._running: dict[int, int] = {}
        self._engine, self._worker = engine, worker
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        loop, events = asyncio.get_running_loop(), self._events

        def put(index: int, event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads
                loop.call_soon_threadsafe(events.put_nowait, replace(event, index=index))

        self._running = dict(enumerate(worker.add(plans, put)))

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> Event:
        if not self._running:
            raise StopAsyncIteration
        event = await self._events.get()
        if event.completion:
            self._running.pop(event.index, None)
        return event

    def close(self) -> None:
        """End what still runs, and read no more."""
        for key in self._running.values():
            self._worker.cancel(key)
        self._running.clear()

    def __del__(self) -> None:
        self.close()


async def read_events(
    engine: object, worker: Worker, plans: Sequence[RowPlan]
) -> AsyncIterator[Event]:
    """The same as an iteration: cancelled when it is left."""
    events = AsyncEventStream(engine, worker, plans)
    try:
        async for event in events:
            yield event
    finally:
        events.close()


async def drawn_by(worker: Worker, plans: Sequence[RowPlan]) -> list[Drawn]:
    """Draw continuations together, in an event loop; cancelled if nobody waits any more.

    Raises:
        BusyError, ClosedError: before anything is drawn.
        ConfigError, AnswerError: one of them went wrong.
    """
    loop = asyncio.get_running_loop()
    done: list[asyncio.Future[Drawn]] = [loop.create_future() for _ in plans]

    def put(number: int, drawn: Drawn) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_fulfil, done[number], drawn)

    keys = worker.add(plans, put)
    try:
        found = await asyncio.gather(*done)
    finally:
        for key, one in zip(keys, done, strict=True):
            if not one.done() or one.cancelled():
                worker.cancel(key)
    for drawn in found:
        drawn.require_right()
    return found


def _fulfil(waiting: asyncio.Future[Drawn], drawn: Drawn) -> None:
    if not waiting.done():
        waiting.set_result(drawn)


def draw_all(worker: Worker, plans: Sequence[RowPlan], most: int) -> list[Drawn]:
    """Draw continuations together, and wait for all.

    Args:
        worker: of an engine.
        plans: each with its `watch`.
        most: that run at once.

    Raises:
        ConfigError, AnswerError: one of them went wrong.
    """
    if not plans:
        return []
    done: queue.SimpleQueue[tuple[int, Drawn]] = queue.SimpleQueue()
    worker.add(plans, lambda number, drawn: done.put((number, drawn)), most)
    drawn = dict(done.get() for _ in plans)
    for one in drawn.values():
        one.require_right()
    return [drawn[number] for number in range(len(plans))]


def in_order(
    engine: object, worker: Worker, plans: Sequence[RowPlan], most: int
) -> Iterator[Completion]:
    """Keep so many requests running; completions in the order of the requests."""
    done: dict[int, Completion] = {}
    events = EventStream(engine, worker, plans, most)
    for number in range(len(plans)):
        while number not in done:
            event = next(events)
            if event.completion:
                done[event.index] = event.completion
        yield done.pop(number)


def at_once(batch_size: int) -> int:
    """How many run at once.

    Raises:
        ConfigError: fewer than one.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}", "it must be 1 or more")
    return batch_size
