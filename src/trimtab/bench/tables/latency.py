"""GenARM's table 2 in kind: seconds for an answer of so many tokens, every method in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.bench.tables import ways
from trimtab.bench.tables.answering import Spread, decoding, load, loading
from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.jobs import Job, Work
from trimtab.bench.tables.rates import Rates
from trimtab.bench.tables.report import Report, cell, verdict
from trimtab.bench.tables.training import Train
from trimtab.engines.types import Completion
from trimtab.methods.registry import METHODS
from trimtab.methods.search import search
from trimtab.models.messages import Prompt
from trimtab.stats import Estimate

WAYS = (ways.BASE, ways.GENARM, ways.DPO, *METHODS)


def jobs(config: TableConfig) -> list[Job]:
    """Train what answers, then time everything together."""
    trained: list[Job] = [
        Train(f"{method}-0", method) for method in ("genarm", "dpo", "trajectory")
    ]
    return [*trained, Spread(), Timed("timed")]


@dataclass(frozen=True)
class Timed:
    """All methods on the same prompts, one prompt at a time, interleaved.

    Attributes:
        name: of the job.
    """

    name: str

    def seconds(self, work: Work, rates: Rates) -> float:
        """One prompt at a time, as often as it is repeated."""
        tokens = work.config.max_new_tokens
        each = [
            decoding(way, rates, 1, tokens) * _repeats(work.config, way)
            for way in _rows(work.config)
        ]
        return 60 + sum(each)

    def run(self, work: Work) -> dict[str, Any]:
        """Seconds of every answer and what it took, by method."""
        config, rows = work.config, _rows(work.config)
        answer = _contenders(work, rows)
        seconds: dict[str, list[float]] = {way: [] for way in rows}
        costs: dict[str, dict[str, int]] = {}
        for way in rows:  # libraries and caches warm up
            answer[way](work.material.prompts[0], 4)
        for repeat in range(config.repeats):
            for way in rows:
                if repeat < _repeats(config, way):
                    prompt = work.material.prompts[repeat % len(work.material.prompts)]
                    start = time.perf_counter()
                    found = answer[way](prompt, config.max_new_tokens)
                    seconds[way].append(time.perf_counter() - start)
                    if found.cost:
                        costs[way] = asdict(found.cost)
        return {"timed": seconds, "costs": costs}


def _rows(config: TableConfig) -> list[str]:
    """The base and GenARM, beside which all are seen, always are there."""
    return config.rows(WAYS, ways.BASE, ways.GENARM)


def _repeats(config: TableConfig, way: str) -> int:
    return 1 if way in config.costly else config.repeats


Answerer = Callable[[Prompt, int], Completion]


def _contenders(work: Work, rows: list[str]) -> dict[str, Answerer]:
    """Way -> what answers a prompt; searches share the base's engine."""
    found: dict[str, Answerer] = {}
    bare = load(work, ways.Asked())
    for way in rows:
        how = ways.asked(way, work, 0, {})
        if how.method:
            place = work.model("trajectory-0")  # a value model has the same passes
            searcher = search(bare, how.method, reward_model=place, **loading(work))
            found[way] = _one(searcher.generate, {})
        else:
            found[way] = _one((load(work, how) if how.load else bare).generate, how.ask)
    return found


def _one(generate: Callable[..., list[Completion]], ask: Any) -> Answerer:
    def answer(prompt: Prompt, tokens: int) -> Completion:
        [found] = generate([prompt], max_new_tokens=tokens, ignore_eos=True, seed=0, **ask)
        return found

    return answer


def report(work: Work) -> Report:
    """Seconds, ratios to the base alone of the same repeat, and counts."""
    timed, costs = work.rows["timed"]["timed"], work.rows["timed"]["costs"]
    base, arm = timed[ways.BASE], statistics.median(timed[ways.GENARM])
    lines, claims = [], []
    for way, seconds in timed.items():
        ratios = [one / other for one, other in zip(seconds, base, strict=False)]
        cost = costs.get(way, {})
        counts = [
            f"{cost['base_tokens']}, {cost['base_passes']}" if cost else "",
            f"{cost['reward_tokens']}, {cost['reward_passes']}" if cost else "",
        ]
        spread = f"{statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}]"
        median = statistics.median(seconds)
        lines.append(
            [way, f"{median:.1f}", spread, f"{median / arm:.1f}", *counts, str(len(seconds))]
        )
    for way, least in (("args", 1.0), ("cards", 10.0), ("transfer-q", 10.0)):
        if way in timed:
            arms = timed[ways.GENARM]
            times = [one / other for one, other in zip(timed[way], arms, strict=False)]
            found = Estimate(statistics.median(times), min(times), max(times), len(times))
            told = verdict(found, above=least)
            text = f"{way} takes {least:g} times GenARM's time or more"
            claims.append([text, f"{cell(found, 1)} (n={found.n})", told])
    columns = ["", "seconds", "x base alone", "x GenARM", "base: tokens, passes"]
    columns += ["reward model: tokens, passes", "repeats"]
    notes = [
        f"{work.config.max_new_tokens} tokens, one prompt at a time; medians, and the smallest and "
        "largest ratio of any repeat. All methods answered in turns in one run, with the same base "
        "and reward model.",
    ]
    return Report("latency", columns, lines, notes, claims)
