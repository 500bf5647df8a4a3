"""`trimtab bench speed`: the price of guidance, measured on this machine.

All rows decode the same prompts greedily for the same number of tokens. Repeats are interleaved
(every row once, then every row again), so a machine that slows down for a while slows all rows;
medians and ratios to the base of the same repeat are reported.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from trimtab.bench.speed.contenders import Contender, Run
from trimtab.bench.speed.rows import BASE_ROW, Models
from trimtab.jobs import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One row of the table at one point.

    Attributes:
        name: of the way to decode.
        batch: requests together.
        prompt: tokens of each prompt.
        ms_per_token: median over the repeats, per token of each request.
        ratio: to the base alone; median over the repeats.
        ratio_low: smallest ratio of any repeat.
        ratio_high: largest ratio of any repeat.
        tokens_per_second: over all requests, while decoding.
        first_token_ms: until every request has its first token; median.
        accepted: share of the drafted tokens that were kept.
        repeats: n.
    """

    name: str
    batch: int
    prompt: int
    ms_per_token: float
    ratio: float
    ratio_low: float
    ratio_high: float
    tokens_per_second: float
    first_token_ms: float
    accepted: float | None
    repeats: int


def measure(
    makers: dict[str, Callable[[], Contender]],
    prompts: Callable[[int, int], list[list[int]]],
    points: Sequence[tuple[int, int]],
    *,
    new_tokens: int,
    repeats: int,
    progress: Progress,
) -> list[Row]:
    """Time all rows at all points (batch, prompt length); the base alone is among them."""
    contenders = {name: make() for name, make in makers.items()}
    total = len(points) * (repeats + 1) * len(contenders)
    rows, done = [], 0
    for batch, length in points:
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        for repeat in range(repeats + 1):
            for name, contender in contenders.items():
                run = contender.run(prompts(batch, length), new_tokens)
                if repeat:  # the first warms up
                    runs[name].append(run)
                done += 1
                progress("measuring", done, total)
        rows += [_row(name, batch, length, timed, runs[BASE_ROW]) for name, timed in runs.items()]
    return rows


def _row(name: str, batch: int, prompt: int, runs: Sequence[Run], base: Sequence[Run]) -> Row:
    per_token = statistics.median(run.per_token for run in runs)
    ratios = [guided.per_token / other.per_token for guided, other in zip(runs, base, strict=True)]
    shares = [run.accepted for run in runs if run.accepted is not None]
    return Row(
        name,
        batch,
        prompt,
        ms_per_token=1e3 * per_token,
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        tokens_per_second=batch / per_token,
        first_token_ms=1e3 * statistics.median(run.first for run in runs),
        accepted=statistics.mean(shares) if shares else None,
        repeats=len(runs),
    )


def peak_memory(
    models: Models, name: str, batch: int, prompt: int, new_tokens: int
) -> float | None:
    """Peak bytes of one row beyond the interpreter, in a process of its own; None if it failed."""
    job = {
        "models": type(models).__name__,
        "settings": asdict(models),
        "row": name,
        "batch": batch,
        "prompt": prompt,
        "new_tokens": new_tokens,
    }
    done = subprocess.run(
        [sys.executable, "-m", "trimtab.bench.speed.memory", json.dumps(job)],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        logger.warning("the memory of %r could not be measured", name)
        return None
    return float(done.stdout.splitlines()[-1])
