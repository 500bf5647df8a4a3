"""What the pairs' rewards are under the model that training starts from, measured once before it.

A fresh LoRA changes nothing, and a model that is to be trained whole is still itself; so whatever
is about to be trained *is* the start. It is asked before the first step of every run, a resumed one
before its checkpoint is read. Evaluation then subtracts the same numbers as training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object

from trimtab.data.tokenize import TokenPair
from trimtab.errors import ConfigError
from trimtab.jobs import Progress
from trimtab.training.processes import processes
from trimtab.training.trainer import PreferenceTrainer


def measure_start(trainer: PreferenceTrainer, progress: Progress | None) -> None:
    """Give the trainer's pairs their rewards under the model as it is now.

    Raises:
        ConfigError: a training whose weights are sharded over processes.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError(
            "rewards against the start cannot be trained sharded", "use one process, or DDP"
        )
    for name in ("train_dataset", "eval_dataset"):
        if pairs := getattr(trainer, name):
            setattr(trainer, name, _measured(trainer, pairs, progress))


def _measured(
    trainer: PreferenceTrainer, pairs: Sequence[TokenPair], progress: Progress | None
) -> list[TokenPair]:
    """The pairs, in their order, with the rewards; every process measures its share."""
    state, size = processes(), trainer.args.per_device_eval_batch_size
    by_length = sorted(range(len(pairs)), key=lambda i: len(pairs[i]))
    mine = by_length[state.process_index :: state.num_processes]
    found: list[tuple[int, tuple[float, float]]] = []
    for begin in range(0, len(mine), size):
        group = mine[begin : begin + size]
        rewards_2B = _rewards(trainer, [pairs[i] for i in group])
        chosen_B, rejected_B = (part.tolist() for part in rewards_2B.chunk(2))
        found += zip(group, zip(chosen_B, rejected_B, strict=True), strict=True)
        if progress is not None:
            progress("measuring the start", len(found), len(mine))
    everything: Any = gather_object(found) if state.num_processes > 1 else found
    reference = dict(everything)
    return [replace(pair, reference=reference[i]) for i, pair in enumerate(pairs)]


@torch.no_grad()
def _rewards(trainer: PreferenceTrainer, pairs: Sequence[TokenPair]) -> torch.Tensor:
    """As in an evaluation: no dropout, and the type of the training."""
    model: Any = trainer.model
    was_training = model.training
    model.eval()
    batch = trainer._prepare_inputs(trainer.data_collator(pairs))
    rewards_2B = trainer.rewards(model, batch)
    model.train(was_training)
    return rewards_2B
