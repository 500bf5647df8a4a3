"""One trainer, a few timed steps: run by run.py in a process (and an environment) of its own.

    python worker.py genarm|reward|dpo SETTINGS.json

Prints one line of JSON: the seconds of every measured step, memory, what it ran on and what it saw.
Nothing here is shared by the three but the settings, the timer and the token ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers

Settings = dict[str, Any]
PACKAGES = ("trimtab", "trl", "torch", "transformers", "peft", "accelerate", "datasets")


def rss() -> int:
    """Bytes of this process that are in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_rss()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_rss() -> int:
    """Most bytes of this process that were in memory at once.

    On Linux from /proc: there `ru_maxrss` also counts the parent that this process was forked from.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class StepTimer(transformers.TrainerCallback):
    """Seconds of each optimisation step, from its begin to its end, and from end to end."""

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.built = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The batch is made; forward, backward, clipping and the optimiser follow."""
        self.built = self.built or rss()
        self.begins.append(time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The optimiser has stepped."""
        self.ends.append(time.perf_counter())


class Watched:
    """A collator whose batches are remembered by shape and digest: all three must be the same."""

    def __init__(self, collator: Callable[[Any], dict[str, Any]]) -> None:
        self._collator = collator
        self.shapes: list[list[int]] = []
        self.digests: list[str] = []

    def __call__(self, rows: Any) -> dict[str, Any]:
        batch = self._collator(rows)
        ids = batch["input_ids"]
        self.shapes.append(list(ids.shape))
        self.digests.append(hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:16])
        return batch


def genarm(settings: Settings) -> Callable[[], transformers.Trainer]:
    """Trimtab's own trainer, built by its own function from its own options."""
    from trimtab.arms.load import tokenizer_of
    from trimtab.data.tally import RowTally
    from trimtab.data.tokenize import TokenPair
    from trimtab.training.build import build_trainer
    from trimtab.training.config import TrainConfig
    from trimtab.training.inputs import Inputs

    def build() -> transformers.Trainer:
        common, lora = settings["common"], settings["lora"]
        config = TrainConfig(
            model=settings["model"],
            data=[settings["pairs"]],
            output_dir=settings["scratch"],
            split="none",
            max_length=settings["max_length"],
            lora_r=lora["r"],
            lora_alpha=lora["lora_alpha"],
            lora_dropout=lora["lora_dropout"],
            lora_target_modules=lora["target_modules"],
            group_by_length=False,
            **common,
        )
        rows = json.loads(Path(settings["pairs"]).read_text())
        pairs = [TokenPair(*row) for row in rows]
        inputs = Inputs(
            tokenizer_of(config.model), lora["target_modules"], {"train": pairs}, RowTally()
        )
        transformers.set_seed(config.seed)
        trainer, _ = build_trainer(config, inputs, Path(settings["scratch"]), "", None)
        trainer.args.train_sampling_strategy = "sequential"
        return trainer

    return build


def _trl_options(settings: Settings) -> dict[str, Any]:
    """What `trimtab.training.build.training_arguments` sets, for TRL's configurations."""
    common = settings["common"]
    return {
        **common,
        "output_dir": settings["scratch"],
        "max_length": settings["max_length"],
        "model_init_kwargs": {"dtype": "bfloat16" if common["bf16"] else "float32"},
        "disable_dropout": settings["lora"]["lora_dropout"] == 0,
        "data_seed": common["seed"],
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
    }


def reward(settings: Settings) -> Callable[[], transformers.Trainer]:
    """TRL's RewardTrainer in its standard use: a scalar head, trained beside the LoRA."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    def build() -> transformers.Trainer:
        rows = json.loads(Path(settings["pairs"]).read_text())
        data = [{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in rows]
        return RewardTrainer(
            model=settings["model"],
            args=RewardConfig(**_trl_options(settings)),
            train_dataset=Dataset.from_list(data),
            processing_class=AutoTokenizer.from_pretrained(settings["model"]),
            peft_config=LoraConfig(
                task_type="SEQ_CLS", modules_to_save=["score"], **settings["lora"]
            ),
        )

    return build


def dpo(settings: Settings) -> Callable[[], transformers.Trainer]:
    """TRL's DPOTrainer with a LoRA: the model without its adapter is the reference."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):
        """A DPOTrainer that takes token ids."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    def build() -> transformers.Trainer:
        rows = json.loads(Path(settings["pairs"]).read_text())
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        data = [dict(zip(names, row, strict=True)) for row in rows]
        return Tokenised(
            model=settings["model"],
            args=DPOConfig(precompute_ref_log_probs=False, **_trl_options(settings)),
            train_dataset=Dataset.from_list(data),
            processing_class=AutoTokenizer.from_pretrained(settings["model"]),
            peft_config=LoraConfig(task_type="CAUSAL_LM", **settings["lora"]),
        )

    return build


TRAINERS = {"genarm": genarm, "reward": reward, "dpo": dpo}


def versions() -> dict[str, str]:
    """Of the packages that matter, where they are installed."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def measure(kind: str, settings: Settings) -> dict[str, Any]:
    """Build the trainer, run its steps, and say how long they took."""
    torch.set_num_threads(settings["threads"])
    build = TRAINERS[kind](settings)  # imports
    for name in ("AutoModelForCausalLM", "AutoModelForSequenceClassification", "Trainer"):
        getattr(transformers, name)
    transformers.models.llama.modeling_llama.LlamaForCausalLM  # noqa: B018 (lazy: imports it)
    after_imports = rss()
    trainer = build()
    timer, watched = StepTimer(), Watched(trainer.data_collator)
    trainer.data_collator = watched
    trainer.add_callback(timer)
    trainer.train()
    peak = peak_rss()
    warm_up, steps = settings["warm_up"], settings["common"]["max_steps"]
    model = trainer.accelerator.unwrap_model(trainer.model)
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    group = optimizer.param_groups[0]
    return {
        "kind": kind,
        "seconds": [e - b for b, e in zip(timer.begins, timer.ends, strict=True)][warm_up:],
        "seconds_end_to_end": [e - b for b, e in zip(timer.ends[:-1], timer.ends[1:], strict=True)][
            max(warm_up - 1, 0) :
        ],
        "peak_mib": (peak - after_imports) / 2**20,
        "before_first_step_mib": (timer.built - after_imports) / 2**20,
        "imports_mib": after_imports / 2**20,
        "shapes": watched.shapes[:steps],
        "digests": watched.digests[:steps],
        "losses": [e["loss"] for e in trainer.state.log_history if "loss" in e],
        "ran": {
            "optimizer": f"{type(optimizer).__name__}, {trainer.args.optim}",
            "weight_decay": max(g["weight_decay"] for g in optimizer.param_groups),
            "fused": group.get("fused"),
            "threads": torch.get_num_threads(),
            "attention": model.config._attn_implementation,
            "weights": str(next(p for p in model.parameters() if not p.requires_grad).dtype),
            "autocast": trainer.accelerator.mixed_precision,
            "gradient_checkpointing": trainer.args.gradient_checkpointing,
            "dropout": any(m.p > 0 for m in model.modules() if isinstance(m, torch.nn.Dropout)),
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "versions": versions(),
    }


if __name__ == "__main__":
    print("\n" + json.dumps(measure(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))))
