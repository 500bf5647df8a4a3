"""Connections that hold a server up: a request's head that never ends, an answer never taken."""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle, Transport
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from trimtab.engines.local import LocalEngine

_Uvicorns: Any = AutoHTTPProtocol


class Connection(_Uvicorns):
    """Uvicorn's, which waits for its client no longer than `patience` seconds.

    The app cannot see to this: it is not called before a head is whole, and has long ended when the
    last of a large answer is still to be taken.
    """

    patience: ClassVar[float]

    def connection_made(self, transport: Transport) -> None:
        """A client has come, and must ask."""
        self._head: TimerHandle | None = None
        self._taken: TimerHandle | None = None
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Of a request, perhaps the end of its head."""
        super().data_received(data)
        self._wait_for_head()

    def pause_writing(self) -> None:
        """The client does not keep up."""
        super().pause_writing()
        self._wait_for_taking(self._left())

    def resume_writing(self) -> None:
        """It has caught up."""
        _cancel(self._taken)
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        _cancel(self._head)
        _cancel(self._taken)
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            _cancel(self._head)
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(self.patience, self.transport.abort)

    def _wait_for_taking(self, left: int) -> None:
        self._taken = self.loop.call_later(self.patience, self._require_taken, left)

    def _require_taken(self, before: int) -> None:
        """Whoever took something may go on."""
        if self._left() < before:
            self._wait_for_taking(self._left())
        else:
            self.transport.abort()

    def _left(self) -> int:
        return int(self.transport.get_write_buffer_size())


def _cancel(timer: TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """Uvicorn's, which ends the answers that still run when its time to drain is over.

    Args:
        config: uvicorn's options.
        engine: whose answers they are.
        seconds: to drain.
    """

    def __init__(self, config: uvicorn.Config, engine: LocalEngine, seconds: float) -> None:
        super().__init__(config)
        self._engine, self._seconds = engine, seconds

    async def shutdown(self, sockets: Any = None) -> None:
        """Take no more requests, and wait for those that there are."""
        loop = asyncio.get_running_loop()
        ends = loop.call_later(self._seconds, loop.run_in_executor, None, self._engine.close)
        try:
            await super().shutdown(sockets)
        finally:
            ends.cancel()
