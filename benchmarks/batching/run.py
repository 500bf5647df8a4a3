"""Continuous batching against static batches: 64 requests of unequal length, one ARM.

    python benchmarks/batching/run.py

Random weights of 336 M parameters; prompts of 8 to 64 tokens, responses of 4 to 128 tokens (both
log-uniform, seeded), greedy. Static batches of 8 are what a loop over `generate` does: the next
eight start when the longest of these eight is done. Both run through the same engine, interleaved;
`transformers` generates the base alone in padded batches of 8, for comparison. Writes
`results.json` and the table in `README.md` beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from trimtab.bench.machine import conditions
from trimtab.bench.speed.contenders import Engine
from trimtab.bench.speed.models import SHAPES, random_model
from trimtab.bench.speed.rows import RandomModels
from trimtab.engines.local.rows import RowPlan

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"


def log_uniform(low: int, high: int, n: int, seed: int) -> list[int]:
    """n whole numbers between two bounds, small ones as often as large ones."""
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return [round(math.exp(math.log(low) + u * math.log(high / low))) for u in uniform]


def run_engine(engine: Any, plans: list[RowPlan], slots: int, *, static: bool) -> float:
    """Seconds for all requests."""
    start = time.perf_counter()
    batches = [plans[i : i + slots] for i in range(0, len(plans), slots)] if static else [plans]
    for batch in batches:
        assert sum(1 for _ in engine.answers(batch, batch_size=slots)) == len(batch)
    return time.perf_counter() - start


def run_generate(model: Any, requests: list[tuple[list[int], int]], slots: int) -> float:
    """Seconds for the base alone through transformers, in left-padded batches."""
    start = time.perf_counter()
    for i in range(0, len(requests), slots):
        batch = requests[i : i + slots]
        width = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([[0] * (width - len(ids)) + ids for ids, _ in batch])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in batch])
        longest = max(new for _, new in batch)
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=longest,
                min_new_tokens=longest,
                do_sample=False,
                pad_token_id=0,
            )
    return time.perf_counter() - start


def over(slow: list[float], fast: list[float]) -> list[float]:
    """How many times faster, repeat by repeat."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def spread(ratios: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(ratios):.2f}x [{min(ratios):.2f}, {max(ratios):.2f}]"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="350m", choices=SHAPES)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    n = options.requests
    prompts, news = log_uniform(8, 64, n, seed=1), log_uniform(4, 128, n, seed=2)
    tokens = torch.randint(1, 4000, (n, 64), generator=torch.Generator().manual_seed(0)).tolist()
    requests = [(ids[:p], new) for ids, p, new in zip(tokens, prompts, news, strict=True)]
    models = RandomModels(options.shape, options.dtype, "cpu")
    contender, alone = Engine(models.engine(fused=1)), Engine(models.engine())
    plans = [contender.plan(ids, new) for ids, new in requests]
    bare = [alone.plan(ids, new) for ids, new in requests]
    model = random_model(options.shape, getattr(torch, options.dtype), "cpu")
    total = sum(news)
    seconds: dict[str, list[float]] = {
        name: [] for name in ("continuous", "static", "base_continuous", "generate")
    }
    for repeat in range(options.repeats):
        for static in (False, True):
            name = "static" if static else "continuous"
            taken = run_engine(contender.engine, plans, options.slots, static=static)
            seconds[name].append(taken)
        taken = run_engine(alone.engine, bare, options.slots, static=False)
        seconds["base_continuous"].append(taken)
        seconds["generate"].append(run_generate(model, requests, options.slots))
        print(repeat, {name: round(values[-1], 1) for name, values in seconds.items()}, flush=True)
    ratios = over(seconds["static"], seconds["continuous"])
    base_ratios = over(seconds["generate"], seconds["base_continuous"])
    report = {
        "conditions": conditions("cpu"),
        "settings": vars(options) | {"tokens": total},
        "seconds": seconds,
        "continuous_over_static": ratios,
        "base_continuous_over_generate": base_ratios,
    }
    (HERE / "results.json").write_text(json.dumps(report, indent=2) + "\n")
    names = {
        "continuous": "one ARM, 8 slots that are refilled",
        "static": "one ARM, static batches of 8",
        "base_continuous": "base alone, 8 slots that are refilled",
        "generate": "base alone, transformers generate, static batches of 8",
    }
    rows = [
        f"| {names[key]} | {statistics.median(values):.1f} | "
        f"{total / statistics.median(values):.1f} |"
        for key, values in seconds.items()
    ]
    table = "| | seconds | tokens/s |\n| --- | --- | --- |\n" + "\n".join(rows)
    table += f"\n\nOne ARM, refilled over static: {spread(ratios)}; base alone, refilled over "
    table += f"transformers' static batches: {spread(base_ratios)} ({len(ratios)} interleaved "
    table += f"repeats, lowest and highest in brackets); {n} requests, {total} tokens."
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}")
    print(table)


if __name__ == "__main__":
    main()
