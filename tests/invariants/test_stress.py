"""One engine, sixteen threads, and all that can go wrong, at once.

Hundreds of requests of every kind come by `generate`, `stream` and `astream`. Some callers go away,
some requests raise whenever they are in a forward, and memory runs out: the cache's, which has room
for a few of them, and the machine's, at forwards drawn by chance. Whatever happens to the others,
each answer is the one that its request gets by itself, and nothing is left behind.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psutil
import pytest
from hypothesis import settings
from oracle import is_beginning, stream, templated, with_lora
from rounding import nats
from stress import BEFORE, FAULT, LONGEST, SIZE, Answers, Asked, Heard, Trouble, all_at_once, asked

from trimtab.engines.local import batch
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.packed_rows import PackedRows, row_bytes
from trimtab.engines.types import Completion

THREADS = 16
END = 9
GROWTH = 120e6
"""Bytes that a second round may add to the process: its allocator keeps tens of MB."""


def new_engine(draft: Any = None, **options: Any) -> LocalEngine:
    """A base with a LoRA that reads three words more, an ARM of its own, and one who drafts."""
    base = stream("base", 1, SIZE)
    base.model.generation_config.eos_token_id = END
    lora = templated(with_lora(base, "a", 3), " ".join(["w5"] * BEFORE))
    drafter = stream("draft", 4, SIZE, layers=1) if draft == "model" else draft
    return LocalEngine(
        base, [lora, stream("b", 2, SIZE, padding=4, layers=1)], draft=drafter, **options
    )


def bytes_for(requests: int) -> int:
    """What the keys and values of so many of the longest requests take."""
    engine = new_engine("model", cache_memory=2**40)  # measures what a token takes
    return requests * sum(
        row_bytes(group, LONGEST + BEFORE) * len(group.streams) for group in engine.groups
    )


# --- what must hold ------------------------------------------------------------------------------


def judge(alone: LocalEngine, it: Asked, answers: Answers, expected: Sequence[Completion]) -> str:
    """How a request ended; its answers are the expected ones, or the beginnings of them."""
    how = ""
    for request, heard, whole in zip(it.request.samples(), answers, expected, strict=True):
        how = ended(it, heard)
        tie = heard.ids != list(whole.token_ids[: len(heard.ids)])
        if tie:
            assert is_beginning(alone, request, heard.ids), it
        elif how in ("stop", "length"):
            answer = heard.ids, heard.text, how
            assert answer == (list(whole.token_ids), whole.text, whole.finish_reason), it
        if request.report:
            assert [token.token_id for token in heard.tokens] == heard.ids
        if request.report and request.kl_budget is None and not tie:
            logps = [token.logp_fused for token in whole.tokens[: len(heard.ids)]]
            assert [token.logp_fused for token in heard.tokens] == nats(logps)
    return how


def ended(it: Asked, heard: Heard) -> str:
    """How one answer ended, which is what was to become of it."""
    if heard.failed:
        assert it.fails_after is not None
        return "error"
    if heard.completion is None:
        assert it.leaves_after is not None
        return "dropped"
    how = heard.completion.finish_reason
    if how == "cancelled":
        assert it.leaves_after is not None and not it.drops
    elif how == "error":
        assert heard.completion.error == FAULT and it.fails_after is not None, heard.completion
        assert len(heard.ids) >= it.fails_after
    elif it.fails_after is not None and it.request.speculate == "off":
        assert len(heard.ids) <= it.fails_after  # drafts may jump over it
    return how


def assert_nothing_left(engine: LocalEngine, trouble: Trouble, wait: float) -> None:
    worker, deadline = engine.worker, time.monotonic() + wait
    while worker.busy:
        assert time.monotonic() < deadline, "it never comes to rest"
        time.sleep(0.01)
    with worker._ready:
        assert not worker._answers and not worker._inbox and worker._tokens.empty()
    [scheduler] = trouble.schedulers  # none had to be replaced
    assert not scheduler.waiting and not scheduler.running and not scheduler._later
    assert not scheduler._readers._holders and not scheduler._keys_of
    taken = 0
    for cache in scheduler._caches:
        assert isinstance(cache, PackedRows)
        shelves = [*cache._shelves.by_length.values()]
        assert all(ended is not None for shelf in shelves for ended in shelf.ended)
        assert all(row.place for row in cache._beginnings._holders.values())
        taken += sum(len(s.holders) * s.length for s in shelves) * cache._shelves._position_bytes
    assert taken == scheduler.memory.used <= (engine.cache_memory or 0)


# --- the test ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("draft", "share"), [("model", 3), ("ngram", 2)])
def test_each_as_if_alone(monkeypatch: pytest.MonkeyPatch, draft: str, share: int) -> None:
    """500 requests, and 5000 in `make nightly`. A second round leaves as little behind."""
    count = share * min(settings().max_examples, 1000)
    everything = [asked(number) for number in range(count)]
    wait = 60 + count / 2  # seconds: many times what it takes
    alone = new_engine()
    expected = [
        [alone.generate([replace(one, speculate="off")])[0] for one in it.request.samples()]
        for it in everything
    ]
    monkeypatch.setattr(batch, "CHUNK", 48)  # prompts are read in pieces
    gc.collect()
    before = set(threading.enumerate())
    memory = bytes_for(2)
    engine = new_engine(draft, cache_memory=memory, max_running=16, max_waiting=30)
    trouble = Trouble(monkeypatch, engine)
    sizes = []
    for seed in range(2):
        found = all_at_once(engine, everything, threads=THREADS, seed=seed, wait=wait)
        hows = Counter(
            judge(alone, it, found[it.number], whole)
            for it, whole in zip(everything, expected, strict=True)
        )
        assert hows["error"] and hows["cancelled"] and hows["dropped"]
        assert sum(hows.values()) == count and hows["stop"] + hows["length"] > count / 3
        assert_nothing_left(engine, trouble, wait)
        assert set(threading.enumerate()) - before == set(engine.worker.threads)
        gc.collect()
        sizes.append(psutil.Process().memory_info().rss)
    assert len(engine.worker.threads) == 2
    assert sizes[1] - sizes[0] < GROWTH
    engine.close()
    assert not set(threading.enumerate()) - before
