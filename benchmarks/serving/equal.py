"""Many streams at once, a quarter of which hang up: each is what it is alone."""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from typing import Any

import httpx
from clients import Answer, asked, facts_of, load_of, new_client, seconds_until_idle, streamed
from servers import trimtab_server

from trimtab.demo import WARM, fetch_smollm2

CLOSE = 1e-4
"""Log-prob between the two best tokens below which either may come first: sums of other shapes are
rounded otherwise."""
LEAVE, LONG = 5, 1000
"""Who hangs up does so after this many tokens, and had asked for so many."""
SOON = 5.0
"""Seconds within which nothing runs any more when the last client has what it wanted."""
KILLED = 8


def equal(options: argparse.Namespace) -> dict[str, Any]:
    """Together and alone, then killed and started again."""
    until = time.monotonic() + 60 * options.minutes
    guides = ["--arm", f"warm={WARM}", "--instruct", "plain=Use short words."]
    command = [fetch_smollm2(), *guides, "--dtype", "float32"]
    with trimtab_server(*command) as server:
        found = asyncio.run(_compared(server.url, options.streams, options.stream_tokens, until))
        broken = asyncio.run(_killed(server.url, lambda: server.stop(signal.SIGKILL)))
    start = time.perf_counter()
    with trimtab_server(*command) as server:
        back = time.perf_counter() - start
        again = asyncio.run(_alone(server.url, [0], options.stream_tokens))[0]
    found |= {
        "killed_streams": KILLED,
        "killed_streams_seen_as_cut": broken,
        "killed_and_back_s": back,
        "same_after_restart": again.whole and again.ids == found.pop("first"),
    }
    return {**found, "checks": _checks(found)}


def _checks(found: dict[str, Any]) -> dict[str, bool]:
    return {
        "some were compared": found["compared"] > 0,
        "none is different": not found["different"],
        "none was cut": not found["cut"],
        "those who hung up are forgotten": found["idle_after_s"] is not None,
        "a killed server's streams are seen as cut": found["killed_streams_seen_as_cut"] == KILLED,
        "the same after a restart": found["same_after_restart"],
    }


def _leave(number: int) -> int | None:
    """Tokens after which a client goes; None if it stays."""
    return LEAVE if number % 4 == 3 else None


def _cut(number: int, answer: Answer) -> bool:
    """Whether a stream whose client stayed ended before its end."""
    return _leave(number) is None and not answer.whole


async def _ask(
    client: httpx.AsyncClient, facts: tuple[str, list[str]], number: int, tokens: int
) -> Answer:
    leave = _leave(number)
    body = asked(number, *facts, tokens if leave is None else LONG)
    return await streamed(client, {**body, "logprobs": True, "top_logprobs": 2}, leave)


async def _compared(url: str, streams: int, tokens: int, until: float) -> dict[str, Any]:
    async with new_client(url) as client:
        facts = await facts_of(client)
        start = time.perf_counter()
        together = await asyncio.gather(
            *(_ask(client, facts, number, tokens) for number in range(streams))
        )
        seconds = time.perf_counter() - start
        idle = await seconds_until_idle(client, SOON)
    alone = await _alone(url, range(streams), tokens, until)
    late = range(len(alone), streams)
    verdicts = [verdict(together[n], one, _leave(n)) for n, one in alone.items()]
    return {
        "streams": streams,
        "hung_up": sum(_leave(number) is not None for number in range(streams)),
        "together_s": seconds,
        "idle_after_s": idle,
        "compared": len(alone),
        "same": verdicts.count("same"),
        "parted_where_two_are_close": verdicts.count("close"),
        "different": verdicts.count("different"),
        "cut": verdicts.count("cut") + sum(_cut(n, together[n]) for n in late),
        "first": alone[0].ids,
    }


async def _alone(
    url: str, numbers: Any, tokens: int, until: float = float("inf")
) -> dict[int, Answer]:
    """One after the other, while there is time; at least one."""
    found: dict[int, Answer] = {}
    async with new_client(url) as client:
        facts = await facts_of(client)
        for number in numbers:
            if found and time.monotonic() > until:
                break
            found[number] = await _ask(client, facts, number, tokens)
    return found


def verdict(found: Answer, alone: Answer, leave: int | None) -> str:
    """Whether an answer, as far as its client stayed, is the one that came alone.

    `close` where it parts from it at two tokens of which either may come first; `cut` where it is
    shorter than its client wanted.
    """
    if leave is None and not (found.whole and alone.whole):
        return "cut"
    for one, token, other in zip(found.ids, alone.tokens, alone.ids, strict=False):
        if one != other:
            best, second = (t["logprob"] for t in token["top_logprobs"][:2])
            return "close" if best - second < CLOSE else "different"
    if leave is not None:
        return "same" if len(found.ids) >= min(leave, len(alone.ids)) else "cut"
    return "same" if (found.ids, found.reason) == (alone.ids, alone.reason) else "different"


async def _killed(url: str, kill: Any) -> int:
    """Streams that know that they were cut when their server is killed."""
    async with new_client(url) as client:
        facts = await facts_of(client)
        bodies = [asked(number, *facts, LONG) for number in range(KILLED)]
        streams = [asyncio.ensure_future(streamed(client, body)) for body in bodies]
        until = time.monotonic() + 60
        while (await load_of(client))[0] < KILLED and time.monotonic() < until:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(kill)
        ended = await asyncio.gather(*streams, return_exceptions=True)
    return sum(isinstance(one, httpx.HTTPError) for one in ended)
