"""From the engine to the client: whole, or as server-sent events; ended when the client goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from trimtab.engines.local.clients import AsyncEventStream
from trimtab.engines.types import Completion, Event
from trimtab.errors import TrimtabError
from trimtab.serving.answers import Pieces, whole
from trimtab.serving.asking import Asked, Served
from trimtab.serving.errors import LateError, content, status_of
from trimtab.serving.metrics import Metrics, Timing

NOBODY = 499
"""Status in logs and metrics of a request whose client has gone."""


async def answer(asked: Asked, request: Request, served: Served, metrics: Metrics) -> Response:
    """Have the engine answer.

    Raises:
        BusyError, LateError, AnswerError: nothing has been sent then.
    """
    events = served.engine.events(asked.plans)
    metrics.prompt_tokens.inc(asked.prompt_tokens)
    reading = _Reading(events, Timing(metrics), time.monotonic() + served.config.timeout)
    note = request.scope["state"]
    if asked.stream:
        return StreamingResponse(
            _sent(asked, reading, note),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
    answers = await _unless_gone(request, reading)
    if answers is None:
        return Response(status_code=NOBODY)
    _note(note, asked, answers)
    return JSONResponse(whole(asked, answers))


class _Reading:
    """The events of one request, until its time is over.

    Args:
        events: of the engine.
        timing: takes them in.
        until: `time.monotonic()` at which it is over.
    """

    def __init__(self, events: AsyncEventStream, timing: Timing, until: float) -> None:
        self._events, self._timing, self._until = events, timing, until
        self.answers: dict[int, Completion] = {}

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._read()

    async def _read(self) -> AsyncIterator[Event]:
        try:
            while True:
                try:
                    async with asyncio.timeout(self._until - time.monotonic()):
                        event = await anext(self._events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise LateError(
                        "the request took longer than it may", "ask for less, or raise --timeout"
                    ) from None
                self._timing.take(event)
                if event.completion:
                    self.answers[event.index] = event.completion
                yield event
        finally:
            self._events.close()

    def close(self) -> None:
        """End what still runs."""
        self._events.close()

    def in_order(self) -> list[Completion]:
        """The answers."""
        return [self.answers[number] for number in sorted(self.answers)]


async def _unless_gone(request: Request, reading: _Reading) -> list[Completion] | None:
    """All answers; None if the client goes before."""

    async def read() -> list[Completion]:
        async for _ in reading:
            pass
        return reading.in_order()

    reader = asyncio.ensure_future(read())
    watcher = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({reader, watcher}, return_when=asyncio.FIRST_COMPLETED)
        return await reader if reader.done() else None
    finally:
        reading.close()
        for task in (reader, watcher):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _sent(asked: Asked, reading: _Reading, note: dict[str, Any]) -> AsyncIterator[bytes]:
    pieces = Pieces(asked)
    try:
        async for event in reading:
            for piece in pieces.of(event):
                yield _line(piece)
        answers = reading.in_order()
        for piece in pieces.last(answers):
            yield _line(piece)
        _note(note, asked, answers)
    except TrimtabError as error:
        note["error"] = str(error)
        yield _line(content(status_of(error), str(error)))
    finally:
        reading.close()
    yield b"data: [DONE]\n\n"


def _line(piece: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(piece, ensure_ascii=False).encode() + b"\n\n"


def _note(note: dict[str, Any], asked: Asked, answers: list[Completion]) -> None:
    """What the log tells of a request."""
    note["id"], note["model"] = asked.id, asked.model
    note["prompt_tokens"] = asked.prompt_tokens
    note["completion_tokens"] = sum(len(answer.token_ids) for answer in answers)
    note["finish_reason"] = [answer.finish_reason for answer in answers]
    note["preference"], note["strength"] = dict(answers[0].preference), answers[0].strength
    note["texts"] = (
        [plan.request.prompt for plan in asked.plans],
        [answer.text for answer in answers],
    )
