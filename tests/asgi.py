"""The server's app, asked in this process."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

from trimtab.engines.local import LocalEngine


def ask(app: Any, method: str, path: str, *, root_path: str = "", **request: Any) -> httpx.Response:
    """One request, to its end."""

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, **request)

    return asyncio.run(go())


def idle(engine: LocalEngine) -> None:
    """Wait until nothing runs; a request that went on for long would be seen to."""
    until = time.monotonic() + 60
    while engine.worker.busy:
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.01)
