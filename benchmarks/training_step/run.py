"""One optimisation step of GenARM training beside TRL's RewardTrainer and DPOTrainer.

    python benchmarks/training_step/run.py --trl-python TRL_ENVIRONMENT/bin/python \\
        --data ../shared/data/hh-rlhf/harmless-base.train5000.lastturn.json.xz \\
        --model ../shared/models/tiny-5m [--shape 512x12x32000] [--grouped]

Every trainer runs in a process of its own (`worker.py`), round after round, never two at once.
Adds its results to `results.json` and the table in `README.md` beside this file; working files go
to `work/`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from trimtab.training.config import TrainConfig
from trimtab.training.inputs import prepare_inputs
from trimtab.training.trainer import LengthGrouped

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"
NAMES = {"genarm": "GenARM (Trimtab)", "reward": "TRL RewardTrainer", "dpo": "TRL DPOTrainer"}
TARGETS = {"reward": {"time": 1.02, "memory": 1.0}, "dpo": {"time": 0.6, "memory": 1.0}}
LORA: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,  # TRL switches dropout off unless told otherwise
    "target_modules": ["q_proj", "k_proj", "v_proj"],
}
COMMON: dict[str, Any] = {
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.05,
    "max_grad_norm": 1.0,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_steps": 1_000_000,  # only what is logged at the end
}


def random_model(shape: str, tokenizer_of: str, folder: Path, seed: int) -> Path:
    """A Llama with random weights, `HIDDENxLAYERSxVOCABULARY`, and the tokenizer of a model."""
    hidden, layers, vocabulary = (int(number) for number in shape.split("x"))
    tokenizer = tokenizer_of(tokenizer_of)
    if vocabulary < len(tokenizer):
        raise SystemExit(f"--shape {shape}: the tokenizer has {len(tokenizer)} tokens")
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        hidden_size=hidden,
        intermediate_size=-(-hidden * 8 // 3 // 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=max(hidden // 64, 1),
        vocab_size=vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=True,  # as models of this size do
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def token_pairs(options: argparse.Namespace, number: int) -> list[list[list[int]]]:
    """(prompt, chosen, rejected) token ids of pairs drawn by the seed, tokenised once for all."""
    config = TrainConfig(
        model=options.model,
        data=[str(options.data)],
        output_dir="unused",
        split="none",
        max_length=options.max_length,
        skip_bad_rows=True,
    )
    pairs = prepare_inputs(config, "").splits["train"]
    pool = max(number, 32 * options.batch) if options.grouped else number
    if len(pairs) < pool:
        raise SystemExit(f"{options.data} has {len(pairs)} pairs that fit, {pool} are needed")
    drawn = random.Random(options.seed).sample(pairs, pool)
    if options.grouped:
        order = LengthGrouped([len(pair) for pair in drawn], options.batch, options.seed)
        drawn = [drawn[i] for i in order][:number]
    return [[p.prompt_ids, p.chosen_ids, p.rejected_ids] for p in drawn]


def work(kind: str, python: str, settings: Path, threads: int) -> dict[str, Any]:
    """Run one worker to its end and read what it found."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {
        **os.environ,
        **dict.fromkeys(names, str(threads)),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
    }
    command = [python, str(HERE / "worker.py"), kind, str(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{kind} failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_alike(rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Refuse to compare what was not the same work."""
    first = rounds[0]["genarm"]
    for found in rounds:
        for kind, report in found.items():
            for what in ("digests", "shapes", "ran"):
                if report[what] != first[what]:
                    raise SystemExit(f"{kind}: other {what}: {report[what]} not {first[what]}")


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(rounds: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Per trainer: a step's seconds and the peak; per other trainer: GenARM's ratio to it.

    A round's time ratio is the median over its steps, each the same batch for both.
    """
    found: dict[str, Any] = {}
    for kind in NAMES:
        reports = [r[kind] for r in rounds]
        found[kind] = {
            "step_seconds": spread([statistics.median(r["seconds"]) for r in reports]),
            "peak_mib": spread([r["peak_mib"] for r in reports]),
        }
    for kind in TARGETS:
        for what, seconds in (("time", "seconds"), ("time_end_to_end", "seconds_end_to_end")):
            ratios = [
                statistics.median(
                    a / b for a, b in zip(r["genarm"][seconds], r[kind][seconds], strict=True)
                )
                for r in rounds
            ]
            found[kind][f"{what}_ratio"] = {**spread(ratios), "rounds": ratios}
        memory = [r["genarm"]["peak_mib"] / r[kind]["peak_mib"] for r in rounds]
        found[kind]["memory_ratio"] = {**spread(memory), "rounds": memory}
    return found


def processor() -> str:
    """The CPU's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""

    def show(value: dict[str, float], digits: int) -> str:
        return f"{value['median']:.{digits}f} [{value['min']:.{digits}f}–{value['max']:.{digits}f}]"

    def against(value: dict[str, float], target: float) -> str:
        met = "met" if value["median"] <= target else "missed"
        return f"{show(value, 2)}, ≤ {target:g} {met}"

    lines = [
        "| model | trainer | seconds per step | GenARM's time to it | peak, MiB "
        "| GenARM's peak to it |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in results.items():
        for kind, label in NAMES.items():
            row = result["summary"][kind]
            time, memory = "", ""
            if kind in TARGETS:
                time = against(row["time_ratio"], TARGETS[kind]["time"])
                memory = against(row["memory_ratio"], TARGETS[kind]["memory"])
            lines.append(
                f"| {name} | {label} | {show(row['step_seconds'], 3)} | {time} "
                f"| {show(row['peak_mib'], 0)} | {memory} |"
            )
    for name, result in results.items():
        c = result["conditions"]
        v = result["versions"]
        lines += [
            "",
            f"{name}: {c['parameters'] / 1e6:.1f} M parameters, {c['rounds']} rounds of "
            f"{c['steps']} steps after {c['warm_up']}, batches of {c['batch_pairs']} pairs "
            f"({c['rows_by_tokens']}; of the positions {c['share_not_padding']:.0%} are no "
            f"padding and {c['share_response']:.0%} responses), "
            f"{'bfloat16 autocast' if c['bf16'] else 'float32'}, {c['threads']} threads of "
            f"{c['cores']} cores ({c['cpu']}), {c['date']}; Trimtab {v['genarm']['trimtab']}, "
            f"TRL {v['reward']['trl']}, transformers {v['genarm']['transformers']} and "
            f"{v['reward']['transformers']}, torch {v['genarm']['torch']} and "
            f"{v['reward']['torch']} (Trimtab's and TRL's environment).",
        ]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--trl-python", required=True, help="python of TRL's environment")
    arguments.add_argument("--data", type=Path, required=True, help="preference pairs")
    arguments.add_argument("--model", required=True, help="model (its tokenizer, with --shape)")
    arguments.add_argument("--shape", help="a random Llama instead, HIDDENxLAYERSxVOCABULARY")
    arguments.add_argument("--grouped", action="store_true", help="batches of similar lengths")
    arguments.add_argument("--bf16", action="store_true", help="bfloat16 weights and autocast")
    arguments.add_argument("--batch", type=int, default=8, help="pairs per step")
    arguments.add_argument("--max-length", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=8, help="measured steps per round")
    arguments.add_argument("--warm-up", type=int, default=2, help="steps before them")
    arguments.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--work", type=Path, default=HERE / "work")
    arguments.add_argument("--dry", action="store_true", help="print, write no results")
    return arguments.parse_args()


def main() -> None:
    options = parse()
    options.work.mkdir(parents=True, exist_ok=True)
    steps = options.warm_up + options.steps
    pairs = options.work / "pairs.json"
    rows = token_pairs(options, steps * options.batch)
    pairs.write_text(json.dumps(rows))
    name = Path(options.model).resolve().name
    if options.shape:
        name = f"llama-{options.shape}"
        options.model = random_model(
            options.shape, options.model, options.work / name, options.seed
        )
    name += ", grouped by length" if options.grouped else ", shuffled"
    name += ", bf16" if options.bf16 else ""
    settings = options.work / "settings.json"
    scratch = options.work / "scratch"
    given = {
        "model": str(options.model),
        "pairs": str(pairs),
        "scratch": str(scratch),
        "max_length": options.max_length,
        "threads": options.threads,
        "warm_up": options.warm_up,
        "lora": LORA,
        "common": {
            **COMMON,
            "bf16": options.bf16,
            "seed": options.seed,
            "max_steps": steps,
            "per_device_train_batch_size": options.batch,
        },
    }
    settings.write_text(json.dumps(given, indent=1))
    rounds: list[dict[str, dict[str, Any]]] = []
    kinds = list(NAMES)
    for number in range(options.rounds):
        turn = number % len(kinds)
        found: dict[str, dict[str, Any]] = {}
        for kind in kinds[turn:] + kinds[:turn]:  # another goes first in every round
            shutil.rmtree(scratch, ignore_errors=True)
            python = sys.executable if kind == "genarm" else options.trl_python
            found[kind] = report = work(kind, python, settings, options.threads)
            seconds = statistics.median(report["seconds"])
            print(f"round {number + 1}, {kind}: {seconds:.3f} s, {report['peak_mib']:.0f} MiB")
        rounds.append(found)
    check_alike(rounds)
    first = rounds[0]
    shapes = first["genarm"]["shapes"][options.warm_up :]
    widths = [width for _, width in shapes]
    measured = rows[options.warm_up * options.batch :]
    responses = sum(len(chosen) + len(rejected) for _, chosen, rejected in measured)
    tokens = responses + sum(2 * len(prompt) for prompt, _, _ in measured)
    positions = sum(height * width for height, width in shapes)
    result = {
        "summary": summary(rounds),
        "conditions": {
            "date": datetime.date.today().isoformat(),
            "cpu": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": options.threads,
            "seed": options.seed,
            "shape": options.shape,
            "parameters": first["genarm"]["parameters"],
            "trainable": {kind: report["trainable"] for kind, report in first.items()},
            "bf16": options.bf16,
            "order": "grouped by length" if options.grouped else "shuffled",
            "batch_pairs": options.batch,
            "rows_by_tokens": f"{shapes[0][0]} rows by {min(widths)}–{max(widths)} tokens",
            "positions": positions,
            "share_not_padding": tokens / positions,
            "share_response": responses / positions,
            "max_length": options.max_length,
            "rounds": options.rounds,
            "steps": options.steps,
            "warm_up": options.warm_up,
            "data": options.data.name,
            "options": {**given["common"], "lora": LORA},
            "ran": first["genarm"]["ran"],
        },
        "versions": {kind: report["versions"] for kind, report in first.items()},
        "rounds": [
            {
                kind: {
                    key: report[key]
                    for key in (
                        "seconds",
                        "seconds_end_to_end",
                        "peak_mib",
                        "before_first_step_mib",
                        "imports_mib",
                    )
                }
                for kind, report in found.items()
            }
            for found in rounds
        ],
    }
    print(table({name: result}))
    if options.dry:
        return
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[name] = result
    path.write_text(json.dumps(results, indent=1) + "\n")
    page = HERE / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
