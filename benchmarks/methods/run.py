"""Every search method on a real model: what it does, what it takes, and how near its floor that is.

    make models
    trimtab train --model SMOLLM2 --data src/trimtab/demo/smollm2/pairs.jsonl --objectives plain \\
        --method trajectory --split none --eval-strategy no --learning-rate 3e-4 \\
        --num-train-epochs 3 --output-dir judge
    python benchmarks/methods/run.py --reward-model judge

SmolLM2-135M-Instruct answers some of the demo's held-out questions, one at a time. Scores are the
reward model's, the reading grade (which it was trained on: lower is plainer) and the base's nats
per token. The floor of a method is what bare passes of the weights take for the same tokens: both
models are timed with 1 to 64 rows of one token in the same run, passes + tokens are fitted
(T = a · passes + b · tokens), and what the method counts is put in. Writes `results.json` and the
table in `README.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trimtab
from trimtab.arms.reward_model import RewardModel
from trimtab.bench.machine import conditions
from trimtab.demo.smollm2.material import SMOLLM2
from trimtab.demo.smollm2.scorers import grade
from trimtab.engines.local import LocalEngine
from trimtab.engines.local.group_cache import Entry
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.local.shelves import CacheMemory
from trimtab.engines.local.stream_rows import StreamRow
from trimtab.engines.types import Completion
from trimtab.methods.registry import METHODS
from trimtab.methods.search import Searcher

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"
ROWS = (1, 2, 4, 8, 16, 32, 64)
CONTEXT = 64
"""Tokens that every row has read when passes are timed."""


def pass_times(cache: PackedRows) -> tuple[float, float]:
    """Seconds of a pass, and of each token in it: least squares over medians of five."""
    group = cache.group
    coefficients = tuple(group.coefficients()[0].tolist())
    vocabulary = group.streams[0].vocabulary
    rows = [StreamRow(0, [5] * (CONTEXT + 1), vocabulary, coefficients) for _ in range(max(ROWS))]
    medians = []
    with torch.inference_mode():
        cache.forward([Entry(row, row.sequence[:-1], 0) for row in rows])
        for count in ROWS:
            seconds = []
            for _ in range(6):
                entries = [Entry(row, [5], 1) for row in rows[:count]]
                start = time.perf_counter()
                cache.forward(entries)
                seconds.append(time.perf_counter() - start)
                for row in rows[:count]:
                    cache.rewind(row, CONTEXT)
            medians.append(statistics.median(seconds[1:]))
    slope, first = np.polyfit(ROWS, medians, 1)
    return float(first), float(slope)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reward-model", required=True)
    parser.add_argument("--questions", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    engine = trimtab.load(SMOLLM2.model())
    prompts = list(SMOLLM2.held_out)[: options.questions]
    judge = RewardModel(options.reward_model)
    spread = judge.score(prompts, [a.text for a in engine.generate(prompts, max_new_tokens=40)])
    rewards = [scored.reward for scored in spread]
    reachable = statistics.mean(rewards) + statistics.stdev(rewards)
    own = {
        "cards": {"threshold": reachable, "beta": statistics.stdev(rewards) / 2},
        "rejection": {"threshold": reachable, "beta": statistics.stdev(rewards) / 2},
    }
    searchers: dict[str, Searcher | LocalEngine] = {"the base alone": engine}
    for name in options.methods:
        searchers[name] = trimtab.search(
            engine, name, reward_model=options.reward_model, options=own.get(name, {})
        )
    base_first, base_each = pass_times(PackedRows(engine.groups[0], CacheMemory()))
    first = next(one for one in searchers.values() if isinstance(one, Searcher))
    cache = first._judges["reward"]._cache
    assert cache is not None
    rm_first, rm_each = pass_times(cache)
    rows: dict[str, dict[str, Any]] = {}
    if options.methods != list(METHODS):  # some are measured anew, the others stay
        rows = json.loads((HERE / "results.json").read_text())["rows"]
    for name, searcher in searchers.items():
        options_of = {} if isinstance(searcher, Searcher) else {"temperature": 1.0}
        answer: Callable[[str, int], Completion] = lambda prompt, seed, s=searcher, o=options_of: (  # noqa: E731
            s.generate([prompt], max_new_tokens=options.tokens, seed=seed, **o)[0]
        )
        answers, seconds = [], []
        for seed, prompt in enumerate(prompts):
            start = time.perf_counter()
            answers.append(answer(prompt, seed))
            seconds.append(time.perf_counter() - start)
        scored = [s.reward for s in judge.score(prompts, [a.text for a in answers])]
        likely = engine.log_likelihoods(prompts, [answer.token_ids for answer in answers])
        costs = [a.cost for a in answers if a.cost]
        row: dict[str, Any] = {
            "n": len(prompts),
            "reward": statistics.mean(scored),
            "grade": statistics.mean(map(grade, [a.text for a in answers])),
            "base_nll": statistics.mean(one.base_nll for one in likely),
            "seconds": statistics.median(seconds),
        }
        if costs:
            mean = {
                key: statistics.mean(getattr(cost, key) for cost in costs)
                for key in ("base_tokens", "base_passes", "reward_tokens", "reward_passes")
            }
            floors = [
                base_first * c.base_passes + base_each * c.base_tokens
                + rm_first * c.reward_passes + rm_each * c.reward_tokens
                for c in costs
            ]  # fmt: skip
            times = [s / f for s, f in zip(seconds, floors, strict=True)]
            row |= mean | {"of_the_floor": statistics.median(times)}
        rows[name] = row
        print(name, json.dumps(row), flush=True)
    results = {
        "conditions": conditions("cpu"),
        "settings": {"questions": options.questions, "tokens": options.tokens, "own": own},
        "passes": {"base": [base_first, base_each], "reward_model": [rm_first, rm_each]},
        "rows": rows,
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| | reward | grade | base NLL | base: tokens, passes | reward model: tokens, passes "
        "| seconds | of the floor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        cells = [f"{row['reward']:.2f}", f"{row['grade']:.1f}", f"{row['base_nll']:.2f}"]
        for model in ("base", "reward"):
            known = f"{model}_tokens" in row
            cells.append(
                f"{row[f'{model}_tokens']:.0f}, {row[f'{model}_passes']:.0f}" if known else ""
            )
        cells.append(f"{row['seconds']:.1f}")
        cells.append(f"{row['of_the_floor']:.2f}" if "of_the_floor" in row else "")
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
