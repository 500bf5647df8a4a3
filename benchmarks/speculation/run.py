"""Speculation with a trained pair of very different size: guided faster than unguided?

    python benchmarks/speculation/run.py --models ../shared/models --data ../shared/data/hh-rlhf

The base has 59 M parameters (`grow.py` makes it), the ARM is tiny-5m with a LoRA, trained here on
HH-RLHF `harmless` pairs, 10 times smaller. The ARM and its backbone draft in one forward, one pass
of the base verifies. Prompts are single user turns of the test split, answered one at a time. Rows
are interleaved; what has been trained is kept in `work/`. Writes `results.json` and the table in
`README.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trimtab
from trimtab.bench.machine import conditions
from trimtab.bench.speed.contenders import Generate
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import split_of
from trimtab.engines.local import LocalEngine
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Completion, Request
from trimtab.models.load import load_model

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"
HARMLESS = ["harmless-base.test.jsonl.gz", "harmless-base.train5000.lastturn.json.xz"]
BASE, GUIDED = "base alone", "guided, no speculation"
ROWS: dict[str, tuple[str, str]] = {  # name -> (engine, speculate)
    BASE: ("base", "off"),
    GUIDED: ("arm", "off"),
    "guided, the ARM drafts (on)": ("arm", "on"),
    "guided, the ARM drafts (auto)": ("arm", "auto"),
    "guided, drafts from the text (auto)": ("ngram", "auto"),
    "base alone, tiny-5m drafts (auto)": ("draft", "auto"),
}


def prepare(models: Path, data: Path, work: Path, minutes: float) -> tuple[Path, Path]:
    """The base and the ARM, made where they are not there yet."""
    base, arm = work / "base-59m", work / "arm-5m"
    if not (base / "config.json").exists():
        grow = [sys.executable, str(HERE / "grow.py"), "--model", str(models / "tiny-5m")]
        grow += ["--data", str(data), "--minutes", str(minutes), "--output-dir", str(base)]
        subprocess.run(grow, check=True)
    if not (arm / "adapter_config.json").exists():
        trimtab.train(
            model=str(models / "tiny-5m"),
            data=[str(data / name) for name in HARMLESS],
            objectives=["harmless"],
            output_dir=str(arm),
            bf16=True,
            max_length=256,
            per_device_train_batch_size=16,
            learning_rate=2e-3,
            length_normalize=True,
            beta=1.0,
            lora_r=16,
            lora_alpha=32,
            lora_target_modules=["all-linear"],
        )
    return base, arm


def test_prompts(data: Path, count: int) -> list[str]:
    """Single user turns of the test split, of 5 to 40 words."""
    pairs, _ = read_pairs([str(data / HARMLESS[0])], "harmless")
    prompts = []
    for pair in pairs:
        turns = pair.prompt
        alone = isinstance(turns, list) and len(turns) == 1 and split_of(turns) == "test"
        if alone and 5 <= len(turns[0]["content"].split()) <= 40:
            prompts.append(turns[0]["content"])
    return list(dict.fromkeys(prompts))[:count]


def answer(
    engine: LocalEngine, prompts: Sequence[str], new: int, temperature: float, speculate: Any
) -> tuple[float, list[Completion]]:
    """Milliseconds per token, one request after the other, and the answers."""
    seconds, answers = 0.0, []
    for i, prompt in enumerate(prompts):
        sampling = Sampling(new, temperature=temperature, seed=i, ignore_eos=True)
        plan = engine.plan(Request(prompt, sampling=sampling, speculate=speculate))
        start = time.perf_counter()
        [completion] = engine.answers([plan], batch_size=1)
        seconds += time.perf_counter() - start
        answers.append(completion)
    return 1e3 * seconds / (new * len(prompts)), answers


def measure(
    engines: dict[str, LocalEngine], prompts: list[str], options: argparse.Namespace, t: float
) -> dict[str, Any]:
    """Interleaved repeats of all rows at one temperature."""
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    kept: dict[str, float | None] = {}
    tokens: dict[str, list[list[int]]] = {}
    for repeat in range(options.repeats + 1):
        for name, (engine, speculate) in ROWS.items():
            ms, answers = answer(engines[engine], prompts, options.new_tokens, t, speculate)
            if repeat:  # the first warms up
                times[name].append(ms)
            drafted = sum(a.drafted for a in answers)
            kept[name] = sum(a.accepted for a in answers) / drafted if drafted else None
            tokens[name] = [list(a.token_ids) for a in answers]
        print(f"temperature {t}, repeat {repeat}", flush=True)

    def ratio(name: str, other: str) -> dict[str, float]:
        found = [a / b for a, b in zip(times[other], times[name], strict=True)]
        return {"median": statistics.median(found), "low": min(found), "high": max(found)}

    return {
        name: {
            "ms_per_token": statistics.median(times[name]),
            "kept": kept[name],
            "times_faster_than_guided": ratio(name, GUIDED),
            "times_faster_than_base": ratio(name, BASE),
            "same_tokens": tokens[name] == tokens[BASE if name.startswith(BASE) else GUIDED],
        }
        for name in ROWS
    }


def table(results: dict[str, dict[str, Any]], n: int) -> str:
    """Markdown, a table per temperature."""
    parts = []
    for temperature, rows in results.items():
        lines = [
            f"temperature {temperature}, {n} interleaved repeats [lowest, highest]",
            "",
            "| | ms/token | drafts kept | faster than guided without | faster than the base |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, row in rows.items():
            cells = [name, f"{row['ms_per_token']:.1f}"]
            cells.append("–" if row["kept"] is None else f"{row['kept']:.2f}")
            for key in ("times_faster_than_guided", "times_faster_than_base"):
                r = row[key]
                cells.append(f"{r['median']:.2f}x [{r['low']:.2f}, {r['high']:.2f}]")
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Prepare, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--minutes", type=float, default=20, help="training of the base")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    base, arm = prepare(options.models, options.data, options.work, options.minutes)
    arms, dtype = {"harmless": str(arm)}, options.dtype
    small = str(options.models / "tiny-5m")
    engines = {
        "base": trimtab.load(str(base), dtype=dtype),
        "arm": trimtab.load(str(base), arms, dtype=dtype),
        "ngram": trimtab.load(str(base), arms, dtype=dtype, draft="ngram"),
        "draft": trimtab.load(str(base), dtype=dtype, draft=small),
    }
    prompts = test_prompts(options.data, options.prompts)
    results = {str(t): measure(engines, prompts, options, t) for t in (0.0, 1.0)}
    for temperature, rows in results.items():
        for name, row in rows.items():
            assert row["same_tokens"], f"speculation changed tokens at {temperature}: {name}"
    generate = Generate(load_model(str(base), dtype=dtype))
    ids = [engines["base"].plan(Request(prompt)).prompts["base"] for prompt in prompts]
    runs = [generate.run([own], options.new_tokens) for own in ids]
    seconds = sum(run.first + (options.new_tokens - 1) * run.per_token for run in runs)
    report = {
        "conditions": conditions("cpu"),
        "settings": {k: str(v) for k, v in vars(options).items() if k not in ("work",)},
        "base": json.loads((base / "training.json").read_text()),
        "transformers_generate_base_ms_per_token": 1e3 * seconds / len(ids) / options.new_tokens,
        "results": results,
    }
    (HERE / "results.json").write_text(json.dumps(report, indent=2) + "\n")
    text = table(results, options.repeats)
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    print(text)


if __name__ == "__main__":
    main()
