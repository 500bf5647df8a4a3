"""Tokens a second for some clients at once: unguided, guided, and by `transformers serve`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from clients import facts_of, new_client, streamed
from servers import StartError, transformers_server, trimtab_server

from trimtab.demo import WARM, fetch_smollm2

UNGUIDED, GUIDED, OTHER = "trimtab serve, unguided", "trimtab serve, guided", "transformers serve"


@dataclass(frozen=True)
class Contender:
    """Who answers.

    Attributes:
        url: of the server.
        model: as it is called there.
        own: fields of its requests.
        ends: whether its streams end with `[DONE]`.
    """

    url: str
    model: str
    own: dict[str, Any] = field(default_factory=dict)
    ends: bool = True


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Every contender in turn, so many times, while there is time."""
    until = time.monotonic() + 60 * options.minutes
    base, missing = fetch_smollm2(), {}
    with contextlib.ExitStack() as stack:
        contenders = stack.enter_context(_ours(base, options.dtype))
        try:
            contenders[OTHER] = stack.enter_context(_theirs(base, options))
        except (StartError, OSError, httpx.HTTPError, RuntimeError) as error:
            missing[OTHER] = f"{type(error).__name__}: {error}"
        rates, left_out = _measured(contenders, options, until)
    return {
        "tokens_a_second": rates,
        "not_measured": missing | left_out,
        "checks": {
            f"{name} was measured": all(rates[name].values()) for name in (UNGUIDED, GUIDED)
        },
    }


@contextlib.contextmanager
def _ours(base: str, dtype: str) -> Iterator[dict[str, Contender]]:
    with trimtab_server(base, "--arm", f"warm={WARM}", "--dtype", dtype) as server:

        async def name() -> str:
            async with new_client(server.url) as client:
                return (await facts_of(client))[0]

        model, usage = asyncio.run(name()), {"stream_options": {"include_usage": True}}
        found = {
            UNGUIDED: Contender(server.url, model, {"strength": 0, **usage}),
            GUIDED: Contender(server.url, model, {"strength": 1, **usage}),
        }
        for contender in found.values():
            asyncio.run(_rate(contender, 1, 4))  # what is loaded late is loaded
        yield found


@contextlib.contextmanager
def _theirs(base: str, options: argparse.Namespace) -> Iterator[Contender]:
    own = ["--device", "cpu", "--dtype", options.dtype]
    with transformers_server(*own, *["--continuous-batching"] * options.continuous) as server:
        contender = Contender(server.url, base, ends=False)
        asyncio.run(_rate(contender, 1, 4))
        yield contender


def _measured(
    contenders: dict[str, Contender], options: argparse.Namespace, until: float
) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Contender -> clients -> tokens a second of every repeat; and what there was no time for."""
    rates = {name: {str(count): list[float]() for count in options.clients} for name in contenders}
    left_out: dict[str, str] = {}
    for repeat in range(options.repeats):
        for count in options.clients:
            for name, contender in contenders.items():
                what = f"{name}, {count} clients, repeat {repeat + 1}"
                if time.monotonic() > until:
                    left_out[what] = f"{options.minutes:g} minutes were over"
                    continue
                try:
                    rate = asyncio.run(_rate(contender, count, options.tokens))
                except (httpx.HTTPError, RuntimeError) as error:
                    left_out[what] = f"{type(error).__name__}: {error}"
                    continue
                rates[name][str(count)].append(rate)
                print(f"{what}: {rate:.1f} tokens/s", flush=True)
    return rates, left_out


async def _rate(contender: Contender, clients: int, tokens: int) -> float:
    """Tokens a second of all clients together; a few have several answers, one after the other."""
    async with new_client(contender.url) as client:

        async def one(number: int) -> int:
            written = 0
            for turn in range(max(4 // clients, 1)):
                question = f"{number}.{turn}. Tell me a long story."
                body = {
                    "model": contender.model,
                    "messages": [{"role": "user", "content": question}],
                    "max_tokens": tokens,
                    "temperature": 0,
                }
                answer = await streamed(client, body | contender.own)
                if not answer.reason or answer.done != contender.ends:
                    raise RuntimeError("a stream was cut")
                written += answer.written
            return written

        start = time.perf_counter()
        counts = await asyncio.gather(*map(one, range(clients)))
        return sum(counts) / (time.perf_counter() - start)
