"""Thousands of requests of all kinds to one server: what comes back, and its memory."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from clients import PAGE, asked, facts_of, new_client, seconds_until_idle, streamed
from servers import Server, trimtab_server

import trimtab.demo

TINY = str(Path(trimtab.demo.__file__).parent / "tiny" / "model")
AT_ONCE, ROUNDS = 32, 20
FLAT = 0.02
"""Share by which memory may grow from the third quarter of the rounds to the last."""
BIAS = {"logit_bias": {"5": 1}, "presence_penalty": 1, "frequency_penalty": 0.5}
FORM = {"response_format": {"type": "json_object"}}
SAMPLED = {"temperature": 1, "top_p": 0.9, "n": 2, "seed": 1}
KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("whole", {}, "200"),
    ("streamed", {}, "whole stream"),
    ("hung up", {"max_tokens": 500, "logprobs": True}, "hung up"),
    ("unknown objective", {"preference": {"nothing": 1}}, "400"),
    ("JSON", FORM, "200"),
    ("sampled", SAMPLED, "200"),
    ("log-probs", {"logprobs": True, "top_logprobs": 5}, "200"),
    ("penalties", BIAS, "200"),
    ("speculation", {"speculate": "on"}, "200"),
    ("score", {}, "200"),
]
"""What is asked in turn: kind, what its request has of its own, what comes of it."""


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """All kinds in turn, to the tiny model that ships; its guides are itself and an instruction."""
    until = time.monotonic() + 60 * options.minutes
    guides = ["--arm", f"self={TINY}", "--instruct", "plain=Use short words."]
    with trimtab_server(TINY, *guides) as server:
        return asyncio.run(_soak(server, options.requests, until))


async def _soak(server: Server, requests: int, until: float) -> dict[str, Any]:
    came, memory, sent = Counter[str](), list[int](), 0
    async with new_client(server.url) as client:
        facts, gate = await facts_of(client), asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with gate:
                kind, _, wanted = KINDS[number % len(KINDS)]
                found = await _outcome(client, number, facts)
                came[kind if found == wanted else f"{kind}: {found}"] += 1

        step = max(requests // ROUNDS, 1)
        while sent < requests and time.monotonic() < until:
            numbers = range(sent, min(sent + step, requests))
            await asyncio.gather(*map(one, numbers))
            sent = numbers.stop
            memory.append(server.rss)
            print(f"{sent} requests, {memory[-1] / 2**20:.0f} MiB", flush=True)
        idle = await seconds_until_idle(client, 5)
    growth = _growth(memory)
    return {
        "requests": sent,
        "outcomes": dict(came),
        "idle_after_s": idle,
        "rss_mib": [round(rss / 2**20, 1) for rss in memory],
        "growth_from_third_to_last_quarter": growth,
        "checks": {
            "all were sent": sent == requests,
            "each came to what it should": came.keys() <= {kind for kind, _, _ in KINDS},
            "nothing runs after it": idle is not None,
            "memory is flat": growth < FLAT,
        },
    }


def _growth(memory: list[int]) -> float:
    quarter = max(len(memory) // 4, 1)
    return sum(memory[-quarter:]) / sum(memory[-2 * quarter : -quarter] or memory[:1]) - 1


async def _outcome(client: httpx.AsyncClient, number: int, facts: tuple[str, list[str]]) -> str:
    """What came of a request, in a word."""
    kind, own, _ = KINDS[number % len(KINDS)]
    body = {**asked(number, *facts, 2 + number % 3), **own}
    try:
        if kind == "streamed":
            return "whole stream" if (await streamed(client, body)).whole else "cut stream"
        if kind == "hung up":
            answer = await streamed(client, body, 1)
            return "hung up" if len(answer.tokens) == 1 else "no token"
        if kind == "score":
            given = {"messages": body["messages"], "response": "A loaf of bread."}
            body = {key: body[key] for key in ("model", "preference")} | {"input": [given]}
            return str((await client.post("/v1/score", json=body)).status_code)
        return str((await client.post(PAGE, json=body)).status_code)
    except (httpx.HTTPError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
