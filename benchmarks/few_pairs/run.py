"""Rewards against the start or not, with few pairs: accuracy against the number of pairs.

    python benchmarks/few_pairs/run.py --data HH_RLHF_FOLDER --model TINY_5M_FOLDER

HH-RLHF's harmless pairs of at most so many tokens, split by prompt hash. For each seed the training
pairs are shuffled and the first 128 and 512 taken, the same for every way of training. All
ARMs are measured on the same test pairs. Everything is resumable: run it again to go on. Writes
`results.json` and the table in `README.md` beside this file; working files go to `work/`.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trimtab
from trimtab.arms.load import tokenizer_of
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import Pair, split_of
from trimtab.data.tokenize import tokenize_pair
from trimtab.evaluation.accuracy import accuracy
from trimtab.stats import share

HERE = Path(__file__).parent
FILES = ("harmless-base.test.jsonl.gz", "harmless-base.train5000.lastturn.json.xz")
SIZES, SEEDS = (128, 512), (0, 1, 2)
WAYS: dict[str, dict[str, Any]] = {
    "none": {},
    "start": {"reference": "start"},
    "none, per token": {"length_normalize": True},
}
COMMON: dict[str, Any] = {
    "split": "none",
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_target_modules": ["all-linear"],
    "lora_dropout": 0.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "resume_from_checkpoint": "auto",
}
BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"


def as_row(pair: Pair) -> dict[str, Any]:
    """A pair as TRL writes it; its answers are chat turns."""
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    return {"prompt": pair.prompt} | {
        side: [{"role": "assistant", "content": text}] for side, text in sides.items()
    }


def prepare(data: Path, model: str, work: Path, longest: int, tests: int) -> dict[str, int]:
    """Writes each seed's training pairs and the common test pairs; returns their numbers."""
    tokenizer = tokenizer_of(model)
    pairs, _ = read_pairs([str(data / name) for name in FILES], "harmless")
    parts: dict[str, list[Pair]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        if len(tokenize_pair(tokenizer, pair)) <= longest:
            parts[split_of(pair.prompt)].append(pair)
    test = random.Random(0).sample(parts["test"], min(tests, len(parts["test"])))
    groups = {"test": test}
    for seed in SEEDS:
        order = random.Random(seed).sample(parts["train"], max(SIZES))
        groups |= {f"{seed}-{size}": order[:size] for size in SIZES}
    for name, group in groups.items():
        text = "".join(json.dumps(as_row(pair)) + "\n" for pair in group)
        (work / f"{name}.jsonl").write_text(text)
    return {name: len(group) for name, group in parts.items()} | {"measured": len(test)}


def ranked(folder: Path, work: Path) -> float:
    """Share of the test pairs ranked right; kept beside the ARM."""
    kept = folder / "measured.json"
    if not kept.exists():
        report = accuracy(str(folder), [str(work / "test.jsonl")], split="all", batch_size=32)
        kept.write_text(json.dumps(report.arm.value))
    return float(json.loads(kept.read_text()))


def one(model: str, work: Path, way: str, seed: int, size: int, options: Any) -> dict[str, Any]:
    """Train one ARM and measure it."""
    folder = work / f"{way.replace(', ', '-').replace(' ', '-')}-{seed}-{size}"
    [result] = trimtab.train(
        model=model,
        data=str(work / f"{seed}-{size}.jsonl"),
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        max_length=options.longest,
        **{**COMMON, **WAYS[way]},
    )
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    found = {
        "way": way,
        "seed": seed,
        "pairs": size,
        "accuracy": ranked(folder, work),
        "first_loss": first,
        "train_loss": result.metrics["train_loss"],
        "seconds": result.metrics["train_seconds"],
    }
    print(found, flush=True)
    return found


def table(results: dict[str, Any]) -> str:
    """Mean accuracy of the seeds, with the Wilson interval of one seed's n, and each seed's."""
    n = results["counts"]["measured"]
    lines = ["| trained with | " + " | ".join(f"{size} pairs" for size in SIZES) + " |"]
    lines.append("| --- " * (len(SIZES) + 1) + "|")
    for way in WAYS:
        cells = []
        for size in SIZES:
            runs = [r for r in results["runs"] if r["way"] == way and r["pairs"] == size]
            values = [run["accuracy"] for run in runs]
            if not values:
                cells.append("–")
                continue
            e = share(float(np.mean(values)) * n, n)
            seeds = ", ".join(f"{v:.3f}" for v in values)
            cells.append(f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}] ({seeds})")
        lines.append(f"| `{way}` | " + " | ".join(cells) + " |")
    floors = results["floors"]
    row = [
        " ".join([f"{f['value']:.3f}", f"[{f['low']:.3f}, {f['high']:.3f}]"])
        for f in (floors[f"bag_of_words_{size}"] for size in SIZES)
    ]
    lines.append("| bag of words (seed 0's pairs) | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True, help="folder of the HH-RLHF files")
    arguments.add_argument("--model", required=True, help="the tiny chat model")
    arguments.add_argument("--work", type=Path, default=HERE / "work")
    arguments.add_argument("--longest", type=int, default=80, help="tokens of a pair at most")
    arguments.add_argument("--tests", type=int, default=300, help="test pairs")
    arguments.add_argument("--epochs", type=float, default=2)
    arguments.add_argument("--learning-rate", type=float, default=2e-3)
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    started = time.time()
    counts = prepare(options.data, options.model, options.work, options.longest, options.tests)
    print(counts, flush=True)
    runs = [
        one(options.model, options.work, way, seed, size, options)
        for size in SIZES
        for seed in SEEDS
        for way in WAYS
    ]
    floors: dict[str, Any] = {}
    for size in SIZES:
        arm = options.work / f"none-0-{size}"
        train, test = (str(options.work / f"{n}.jsonl") for n in (f"0-{size}", "test"))
        report = accuracy(str(arm), [test], split="all", train_data=[train], batch_size=32)
        assert report.bag_of_words is not None
        floors[f"bag_of_words_{size}"] = asdict(report.bag_of_words)
        floors["longer"] = asdict(report.longer)
    results: dict[str, Any] = {
        "counts": counts,
        "runs": runs,
        "floors": floors,
        "paired": {str(size): paired(runs, size) for size in SIZES},
        "settings": {
            **COMMON,
            "ways": WAYS,
            "epochs": options.epochs,
            "learning_rate": options.learning_rate,
            "longest": options.longest,
        },
        "seconds_this_run": time.time() - started,
        "versions": {
            "trimtab": trimtab.__version__,
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        },
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    page = HERE / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}")
    print(table(results))


def paired(runs: list[dict[str, Any]], size: int) -> dict[str, float]:
    """Mean gain of `start` over `none` on the same pairs, and of each seed."""
    at = {(r["way"], r["seed"]): r["accuracy"] for r in runs if r["pairs"] == size}
    gains = [at["start", seed] - at["none", seed] for seed in SEEDS]
    by_seed = {f"seed {seed}": gain for seed, gain in zip(SEEDS, gains, strict=True)}
    return {"mean": float(np.mean(gains)), **by_seed}


if __name__ == "__main__":
    main()
