"""What every request passes before the app, and what is written of it afterwards."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trimtab.models.memory import available_bytes
from trimtab.serving.config import ServeConfig
from trimtab.serving.errors import respond
from trimtab.serving.metrics import Metrics

logger = logging.getLogger("trimtab.serving")
GUARDED = "/v1/"


class Gate:
    """Keys, sizes, time and memory, before a request is read any further; pure ASGI.

    Args:
        app: what is behind it.
        config: the server's options.
        metrics: of the server.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, metrics: Metrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it pass, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0
        note = scope.setdefault("state", {})
        note["request_id"] = uuid.uuid4().hex

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", note["request_id"].encode()),
                ]
            await send(message)

        try:
            found = self._refusal(scope) or await self._body(receive)
            if isinstance(found, bytes):
                await self._app(scope, _replayed(found, receive), sending)
            else:
                await found(scope, receive, sending)
        finally:
            self._tell(scope, note, status, time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is clear from the head of a request."""
        config = self._config
        headers = {name.lower(): value for name, value in scope["headers"]}
        guarded = scope["path"].startswith(GUARDED) and scope["method"] != "OPTIONS"
        if guarded and config.api_key:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, b"Bearer " + config.api_key.encode()):
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
                        return respond(400, "the body ended before its end")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._config.max_body_bytes:
                        return self._too_large()
        except TimeoutError:
            return respond(408, "the body did not come in time", headers={"Connection": "close"})
        return bytes(body)

    def _tell(self, scope: Scope, note: dict[str, Any], status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "other")  # not what it has in its places
        self._metrics.requests.labels(path, str(status)).inc()
        told: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 4),
        }
        texts = note.pop("texts", None)
        told |= {key: value for key, value in note.items() if _plain(value)}
        if self._config.log_prompts and texts:
            told["prompts"], told["answers"] = texts
        logger.info(json.dumps(told, default=str))


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | list | dict)


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
