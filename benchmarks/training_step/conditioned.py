"""What a training step of a conditioned ARM costs beside GenARM's: same backbone, rank and pairs.

    python benchmarks/training_step/conditioned.py

Random weights of 336 M parameters, LoRA rank 8 on q, k and v, bfloat16. Every repeat takes one
forward and backward pass of each method, one after the other; the ratio is the median of the
repeats' ratios. Writes `conditioned.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from trimtab.arms.conditioned import ConditionedConfig, condition_model
from trimtab.arms.logprobs import response_logp
from trimtab.arms.rewards import response_rewards
from trimtab.bench.machine import conditions
from trimtab.bench.speed.models import SHAPES, random_model
from trimtab.training.losses import LossOptions, ObjectiveLosses, objectives_loss, preference_loss

RANK, TARGETS = 8, ("q_proj", "k_proj", "v_proj")
LOSS = LossOptions(beta=0.05)


def genarm(shape: str) -> Callable[[dict[str, Tensor]], Tensor]:
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    model = get_peft_model(random_model(shape, torch.bfloat16, "cpu"), config).train()

    def step(batch: dict[str, Tensor]) -> Tensor:
        first, second = rewards(model, batch)
        return preference_loss(first, second, LOSS).mean()

    return step


def conditioned(shape: str, core: Any, per_row: bool) -> Callable[[dict[str, Tensor]], Tensor]:
    config = ConditionedConfig(
        core, ("one", "two"), RANK, 2 * RANK, 0.0, TARGETS, preference_r=4, condition_dim=3
    )
    model = condition_model(
        random_model(shape, torch.bfloat16, "cpu"), config, torch.randn(2, 3), None
    ).train()
    losses = ObjectiveLosses([LOSS, LOSS], [1.0, 1.0], global_weight=float(core == "affine"))

    def step(batch: dict[str, Tensor]) -> Tensor:
        pairs = len(batch["input_ids"]) // 2
        preference = torch.full((pairs if per_row else 1, 2), 0.5)
        both = preference.repeat(2, 1) if per_row else preference
        first, second = rewards(model, {**batch, "preference": both})
        verdicts = torch.tensor([[1.0, 0.0]]).repeat(pairs, 1)
        return objectives_loss(first, second, verdicts, preference, losses).mean()

    return step


def rewards(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp, row = response_logp(model, batch)
    first, second = response_rewards(logp, row, len(batch["input_ids"])).chunk(2)
    return first, second


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--shape", default="350m", choices=list(SHAPES))
    arguments.add_argument("--pairs", type=int, default=4)
    arguments.add_argument("--tokens", type=int, default=96)
    arguments.add_argument("--repeats", type=int, default=7)
    options = arguments.parse_args()
    torch.manual_seed(0)
    shape = (2 * options.pairs, options.tokens)
    batch = {
        "input_ids": torch.randint(1, SHAPES[options.shape]["vocab_size"], shape),
        "attention_mask": torch.ones(shape, dtype=torch.int64),
        "response_mask": (torch.arange(options.tokens) >= options.tokens // 4).long().expand(shape),
    }
    steps = {
        "GenARM": genarm(options.shape),
        "PARM, one preference a batch": conditioned(options.shape, "bilinear", False),
        "PARM, one a row": conditioned(options.shape, "bilinear", True),
        "UniARM, one preference a batch": conditioned(options.shape, "affine", False),
        "UniARM, one a row": conditioned(options.shape, "affine", True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step(batch).backward()
            if repeat:  # the first warms up
                seconds[name].append(time.perf_counter() - start)
    ratios = {
        name: [own / base for own, base in zip(values, seconds["GenARM"], strict=True)]
        for name, values in seconds.items()
    }
    report = {
        "settings": vars(options),
        "conditions": conditions("cpu"),
        "seconds": seconds,
        "ratio_to_genarm": {
            name: {"median": statistics.median(r), "low": min(r), "high": max(r), "n": len(r)}
            for name, r in ratios.items()
        },
    }
    path = Path(__file__).parent / "conditioned.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    for name, found in report["ratio_to_genarm"].items():
        print(f"{name}: {found['median']:.3f} [{found['low']:.3f}, {found['high']:.3f}]")


if __name__ == "__main__":
    main()
