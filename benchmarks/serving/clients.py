"""What asks: requests of their own preference each, and what came of them."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

PAGE = "/v1/chat/completions"
QUESTIONS = [
    "How can I sleep better?", "Why is the sky blue?", "Tell me about bread.", "What is a river?",
    "How do birds fly?", "Give me a name for a cat.", "What should I cook today?",
    "How do I learn to swim?",
]  # fmt: skip


@dataclass
class Answer:
    """A stream, as far as it came.

    Attributes:
        tokens: with their log-probs, where those were asked for.
        reason: why it ended; empty while it has not.
        done: whether `[DONE]` came.
        written: tokens, as the server counts them, or pieces where it does not.
    """

    tokens: list[Any] = field(default_factory=list)
    reason: str = ""
    done: bool = False
    written: int = 0

    def take(self, piece: Any) -> None:
        """A piece of the stream."""
        if "error" in piece:
            raise RuntimeError(str(piece["error"]))
        for choice in piece["choices"]:
            self.tokens += (choice.get("logprobs") or {}).get("content", [])
            self.reason = choice.get("finish_reason") or self.reason
            self.written += bool(choice["delta"].get("content"))
        self.written = (piece.get("usage") or {}).get("completion_tokens", self.written)

    @property
    def whole(self) -> bool:
        """Whether it came to its end, and said so."""
        return self.done and self.reason in ("stop", "length")

    @property
    def ids(self) -> list[int]:
        """Of its tokens."""
        return [token["trimtab"]["token_id"] for token in self.tokens]


def new_client(url: str) -> httpx.AsyncClient:
    """With as many connections as are wanted."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=3600, limits=limits)


def asked(number: int, model: str, objectives: Sequence[str], tokens: int) -> dict[str, Any]:
    """A request of its own preference, strength and question."""
    draw = random.Random(number)
    first = draw.random()
    question = f"{draw.choice(QUESTIONS)} ({number})"
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "preference": dict(zip(objectives, (first, 1 - first), strict=True)),
        "strength": draw.choice([0, 0.5, 1, 1.5]),
        "temperature": 0,
        "max_tokens": tokens,
    }


async def streamed(
    client: httpx.AsyncClient, body: dict[str, Any], leave: int | None = None
) -> Answer:
    """An answer piece by piece; hang up after so many tokens."""
    answer = Answer()
    async with client.stream("POST", PAGE, json={**body, "stream": True}) as reply:
        if reply.status_code != 200:
            raise RuntimeError((await reply.aread()).decode())
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                answer.done = True
            elif line:
                answer.take(json.loads(line.removeprefix("data: ")))
            if leave is not None and len(answer.tokens) >= leave:
                break
    return answer


async def facts_of(client: httpx.AsyncClient) -> tuple[str, list[str]]:
    """The model's name, and its objectives."""
    [model] = (await client.get("/v1/models")).json()["data"]
    return model["id"], model["trimtab"]["objectives"]


async def load_of(client: httpx.AsyncClient) -> tuple[int, int]:
    """Answers that run and that wait, as /metrics has them."""
    page = (await client.get("/metrics")).text
    names = ("batch_size", "requests_waiting")
    running, waiting = (re.search(rf"^trimtab_{name} (\S+)", page, re.M) for name in names)
    assert running and waiting, page
    return int(float(running[1])), int(float(waiting[1]))


async def seconds_until_idle(client: httpx.AsyncClient, most: float) -> float | None:
    """Until nothing runs and nothing waits; None if that takes longer than it may."""
    start = time.perf_counter()
    while (await load_of(client)) != (0, 0):
        if time.perf_counter() - start > most:
            return None
        await asyncio.sleep(0.02)
    return time.perf_counter() - start
