"""AlpacaEval's outputs as short pairs: `python benchmarks/tables/alpaca_pairs.py DATA OUT`.

DATA holds prompts.jsonl.xz (`id`, `instruction`) and outputs.jsonl.xz (`id`, `model`, `output`,
`pref_vs_text_davinci_003`: 2 where GPT-4 preferred this output to text_davinci_003's, 1 where it
did not). OUT/pairs.jsonl gets pairs of TRL's columns, of the objective `preferred`:

- an output against text_davinci_003's, as GPT-4 judged them, and where a prompt has fewer than
  --per-prompt of those, one that beat text_davinci_003's against one that lost to it;
- both answers, and the prompt, have at most --characters, and their lengths differ by at most
  --within of the longer: "longer is better" is right for .81 of all outputs, and what learned only
  that must not look as if it knew better.

Nobody's labels but GPT-4's are in them: measure a judge on human ones, too (--judge-data).
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimtab.bench.tables.material import parts_of
from trimtab.data.pairs import Pair
from trimtab.evaluation.floors import longer_is_better
from trimtab.stats import share

BASELINE, VERDICT = "text_davinci_003", "pref_vs_text_davinci_003"
WON, LOST = 2.0, 1.0


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def pairs_of(
    prompt: str, outputs: list[dict[str, Any]], options: argparse.Namespace
) -> Iterator[Pair]:
    """All short pairs of a prompt, judged ones first, in an order drawn for the prompt."""
    short = [row for row in outputs if 0 < len(row["output"].strip()) <= options.characters]
    won, lost = (
        [row["output"] for row in short if row.get(VERDICT) == verdict] for verdict in (WON, LOST)
    )
    baseline = [row["output"] for row in short if row["model"] == BASELINE]
    judged = [(text, b) for b in baseline for text in won]
    judged += [(b, text) for b in baseline for text in lost]
    inferred = [(better, worse) for better in won for worse in lost]
    for found in (judged, inferred):
        random.Random(f"{options.seed} {prompt}").shuffle(found)
        for chosen, rejected in found:
            longer = max(len(chosen), len(rejected))
            if abs(len(chosen) - len(rejected)) <= options.within * longer and chosen != rejected:
                source = "judged" if found is judged else "inferred"
                yield Pair(prompt, chosen, rejected, options.objective, source)


def drawn(options: argparse.Namespace) -> list[Pair]:
    prompts = {row["id"]: row["instruction"] for row in rows_of(options.data / "prompts.jsonl.xz")}
    outputs: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows_of(options.data / "outputs.jsonl.xz"):
        outputs[row["id"]].append(row)
    found = []
    for key, prompt in prompts.items():
        if len(prompt) <= options.characters:
            of_prompt = list(dict.fromkeys(pairs_of(prompt, outputs[key], options)))
            found += of_prompt[: options.per_prompt]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--objective", default="preferred")
    parser.add_argument("--characters", type=int, default=400)
    parser.add_argument("--within", type=float, default=0.1)
    parser.add_argument("--per-prompt", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pairs = drawn(options)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected, "objective": p.objective}
        for p in pairs
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (options.out / "pairs.jsonl").write_text(text, encoding="utf-8")
    parts = Counter(parts_of(pair.prompt, judged=True)[0] for pair in pairs)
    told = ", ".join(f"{count} {part}" for part, count in sorted(parts.items()))
    sources = Counter(pair.source for pair in pairs)
    print(f"{len(pairs)} pairs in {options.out / 'pairs.jsonl'}: {told}")
    print(f"{sources['judged']} judged by GPT-4, {sources['inferred']} inferred")
    print(f"longer is better: {share(longer_is_better(pairs), len(pairs))}")


if __name__ == "__main__":
    main()
