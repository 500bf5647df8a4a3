"""What every request passes before the app, and what is counted and written of it afterwards."""

from __future__ import annotations

import asyncio
import hmac

from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from trimtab.models.memory import available_bytes
from trimtab.serving.config import ServeConfig
from trimtab.serving.errors import NOBODY, message_of, respond
from trimtab.serving.log import Note
from trimtab.serving.metrics import Metrics

OPEN = ("/health", "/version", "/metrics", "/openapi.json")
"""What is to be had without a key."""


class Gate:
    """Keys, sizes, time and memory, before a request is read any further; pure ASGI.

    Args:
        app: what is behind it.
        config: the server's options.
        metrics: of the server.
    """

    def __init__(self, app: FastAPI, config: ServeConfig, metrics: Metrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics
        self._paths = {route.path for route in app.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it pass, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        note = Note.of(scope)
        sending = _noting(note, send)
        try:
            found = self._refusal(scope) or await self._body(receive)
            if isinstance(found, bytes):
                await self._app(scope, _replayed(found, receive), sending)
            else:
                note.told["error"] = message_of(found)
                found.headers["Connection"] = "close"  # its body is not read to its end
                await found(scope, receive, sending)
        except asyncio.CancelledError:
            note.status = 503  # the server ends without waiting for it
            raise
        finally:
            path = getattr(scope.get("route"), "path", _path(scope))  # not what its places hold
            known = path if path in self._paths else "other"
            self._metrics.requests.labels(known, str(note.status)).inc()
            note.write(scope, with_texts=self._config.log_prompts)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is clear from the head of a request."""
        config = self._config
        headers = {name.lower(): value for name, value in scope["headers"]}
        guarded = _path(scope) not in OPEN and scope["method"] != "OPTIONS"
        if guarded and config.key:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            right = hmac.compare_digest(given.strip(), config.key.encode())
            if not right or scheme.lower() != b"bearer":
                return respond(
                    401,
                    "the API key is missing or wrong; send Authorization: Bearer KEY",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > config.max_body_bytes:
            return self._too_large()
        if guarded and scope["method"] == "POST" and self._is_full():
            return respond(
                429,
                "the memory here is nearly full; try again a little later",
                headers={"Retry-After": str(config.retry_after)},
            )
        return None

    def _is_full(self) -> bool:
        return available_bytes() < self._config.min_free_memory

    def _too_large(self) -> Response:
        return respond(
            413, f"the body is larger than {self._config.max_body_bytes} bytes; send less at once"
        )

    async def _body(self, receive: Receive) -> bytes | Response:
        """The whole body, or the response that refuses it."""
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._config.body_timeout):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return respond(NOBODY, "the client went before the body's end")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._config.max_body_bytes:
                        return self._too_large()
        except TimeoutError:
            return respond(408, "the body did not come in time")
        return bytes(body)


def _path(scope: Scope) -> str:
    """Below the place that the app was put at, if any."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _noting(note: Note, send: Send) -> Send:
    """To the client; its status is noted."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            note.status = message["status"]
            own = (b"x-request-id", note.request_id.encode())
            message["headers"] = [*message.get("headers", []), own]
        await send(message)

    return sending


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that has been read, for who reads it again; after it, what really comes."""
    read = False

    async def again() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
