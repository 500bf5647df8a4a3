"""From the engine to the client: whole, or as server-sent events; ended when the client goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from trimtab.engines.local.clients import AsyncEventStream
from trimtab.engines.types import Completion, Event
from trimtab.errors import BusyError, TrimtabError
from trimtab.serving.answers import Pieces, whole
from trimtab.serving.asking import Asked, Served
from trimtab.serving.errors import NOBODY, LateError, content, status_of
from trimtab.serving.log import Note
from trimtab.serving.metrics import Metrics, Timing

T = TypeVar("T")


async def answer(
    prepare: Callable[[], Asked], request: Request, served: Served, metrics: Metrics
) -> Response:
    """Have the engine answer.

    Args:
        prepare: reads and plans the request; in a thread, as long prompts take a while.
        request: of the client.
        served: the engine and its options.
        metrics: take it in.

    Raises:
        TrimtabError: nothing has been sent then.
    """
    note = Note.of(request.scope)
    require_place(served, 1)
    asked = await asyncio.to_thread(prepare)
    require_place(served, len(asked.plans))
    events = served.engine.events(asked.plans)
    metrics.prompt_tokens.inc(asked.prompt_tokens)
    reading = _Reading(events, Timing(metrics, note.arrived), note.arrived + served.config.timeout)
    note.told |= {"id": asked.id, "model": asked.model, "prompt_tokens": asked.prompt_tokens}
    if asked.stream:
        return _Events(asked, reading, note)
    try:
        answers = await unless_gone(request, reading.all())
    finally:
        reading.close(note)
    if answers is None:
        return Response(status_code=NOBODY)
    _tell(note, asked, answers)
    return await asyncio.to_thread(lambda: JSONResponse(whole(asked, answers)))


def require_place(served: Served, answers: int) -> None:
    """Send requests away for which there is no room among those that wait.

    Raises:
        BusyError: too many wait.
    """
    waiting = served.engine.worker.waiting
    if waiting and waiting + answers > served.config.max_waiting:
        raise BusyError(f"{waiting} answers wait already", "try again a little later")


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What comes of some work, which is cancelled if the client goes before: None then."""
    worker, watcher = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        return await worker if worker.done() else None
    finally:
        for task in (worker, watcher):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def in_time(work: Coroutine[Any, Any, T], until: float) -> T:
    """What comes of some work, if it comes before `time.monotonic()` is so much.

    Raises:
        LateError: it does not.
    """
    try:
        async with asyncio.timeout(until - time.monotonic()):
            return await work
    except TimeoutError:
        raise LateError(
            "the request took longer than it may", "ask for less, or raise --timeout"
        ) from None


class _Reading:
    """The events of one request, until its time is over.

    Args:
        events: of the engine.
        timing: takes them in.
        until: `time.monotonic()` at which it is over.
    """

    def __init__(self, events: AsyncEventStream, timing: Timing, until: float) -> None:
        self._events, self._timing, self._until = events, timing, until
        self._answers: dict[int, Completion] = {}
        self._tokens = 0

    async def each(self) -> AsyncIterator[Event]:
        """As they come.

        Raises:
            LateError: its time is over.
        """
        while True:
            try:
                event = await in_time(self._next(), self._until)
            except StopAsyncIteration:
                return
            yield event

    async def _next(self) -> Event:
        event = await anext(self._events)
        self._timing.take(event)
        self._tokens += len(event.token_ids)
        if event.completion:
            self._answers[event.index] = event.completion
        return event

    async def all(self) -> list[Completion]:
        """The answers, once they are whole."""
        async for _ in self.each():
            pass
        return self.answers

    @property
    def answers(self) -> list[Completion]:
        """Those that are whole, in order."""
        return [self._answers[number] for number in sorted(self._answers)]

    def close(self, note: Note) -> None:
        """End what still runs."""
        self._events.close()
        note.told["completion_tokens"] = self._tokens


class _Events(StreamingResponse):
    """Answers as server-sent events; what still runs ends when the client goes.

    Args:
        asked: whose answers.
        reading: their events.
        note: of the request.
    """

    def __init__(self, asked: Asked, reading: _Reading, note: Note) -> None:
        self._asked, self._reading, self._note = asked, reading, note
        self._whole = False
        super().__init__(
            self._pieces(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
            if not self._whole:
                self._note.status = NOBODY
        except Exception:
            self._note.status = 500
            raise
        finally:
            self._reading.close(self._note)

    async def _pieces(self) -> AsyncIterator[bytes]:
        pieces = Pieces(self._asked)
        try:
            async for event in self._reading.each():
                for piece in pieces.of(event):
                    yield _line(piece)
            for piece in pieces.last(self._reading.answers):
                yield _line(piece)
            _tell(self._note, self._asked, self._reading.answers)
        except TrimtabError as error:
            self._note.told["error"], self._note.status = str(error), status_of(error)
            yield _line(content(status_of(error), str(error)))
        yield b"data: [DONE]\n\n"
        self._whole = True


def _line(piece: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(piece, ensure_ascii=False).encode() + b"\n\n"


def _tell(note: Note, asked: Asked, answers: list[Completion]) -> None:
    """What the log tells of answers that are whole."""
    note.told["finish_reason"] = [answer.finish_reason for answer in answers]
    note.told |= {"preference": dict(answers[0].preference), "strength": answers[0].strength}
    prompts = [plan.request.prompt for plan in asked.plans]
    note.texts = prompts, [answer.text for answer in answers]
