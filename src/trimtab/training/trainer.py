"""A small trainer over `transformers.Trainer`: it adds the rewards and the preference loss."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import Sampler

from trimtab.arms.rewards import Batch
from trimtab.stats import ranked_right
from trimtab.training.callbacks import LossSum
from trimtab.training.losses import LossOptions, preference_loss
from trimtab.training.stopping import Diverged, Divergence

Rewards = Callable[[Any, Batch], Tensor]
"""(model, batch of 2B rows) -> rewards [2B], the chosen rows first."""


class LengthGrouped(Sampler[int]):
    """A shuffled order in which neighbours have similar lengths.

    The pairs are shuffled, cut into pools of 32 batches, sorted by length within a pool, and the
    batches of a pool shuffled. A pure function of seed and epoch, so a resumed run sees the same.

    Args:
        lengths: tokens of each pair.
        batch_size: pairs per optimiser step and device.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch (called by the data loader)."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        pool = 32 * self._batch_size
        for start in range(0, len(order), pool):
            ranked = sorted(order[start : start + pool], key=self._lengths.__getitem__)
            batches = [
                ranked[i : i + self._batch_size] for i in range(0, len(ranked), self._batch_size)
            ]
            for i in torch.randperm(len(batches), generator=generator).tolist():
                yield from batches[i]


class PreferenceTrainer(transformers.Trainer):
    """Minimises the preference loss over batches of `PairCollator`.

    Logs `accuracy` (share of pairs ranked right) and `margin` (mean reward difference, nats), in
    evaluation as `eval_accuracy` and `eval_margin`, with `eval_reward_chosen`.
    """

    def __init__(
        self,
        *,
        rewards: Rewards,
        loss: LossOptions,
        group_by_length: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(**{"compute_metrics": _metrics, **arguments})
        self._rewards = rewards
        self._loss = loss
        self._group_by_length = group_by_length
        self._window: dict[str, list[float]] = defaultdict(list)
        self.loss_sum = LossSum()
        self.divergence = Divergence()
        self.add_callback(self.divergence)
        self.add_callback(self.loss_sum)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs: Trainer averages it

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self._group_by_length:
            return super()._get_train_sampler(train_dataset)
        pairs = train_dataset if train_dataset is not None else self.train_dataset
        step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return LengthGrouped([len(pair) for pair in pairs], step, self.args.seed)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Mean loss over the batch's pairs."""
        rewards = self.rewards(model, inputs)
        chosen, rejected = rewards.chunk(2)
        loss = preference_loss(chosen, rejected, self._loss).mean()
        if model.training:
            self.note(chosen - rejected)
        return (loss, rewards) if return_outputs else loss

    def rewards(self, model: nn.Module, batch: Batch) -> Tensor:
        """Rewards of a batch's rows, [2B]."""
        with self.accelerator.autocast():  # accelerate's own is in the forward that is replaced
            return through(model, self.accelerator.unwrap_model(model), self._rewards, batch)

    def note(self, margin_B: Tensor) -> None:
        """Keep what will be logged about some pairs: by how much the better side is ahead."""
        if len(margin_B):
            self._window["accuracy"].append(ranked_right(margin_B.tolist()) / len(margin_B))
            self._window["margin"].append(margin_B.mean().item())

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """Train an epoch; one resumed after the last step would else take a step too many."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*arguments, **options)

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """One forward and backward pass; its share of the step's loss is added up."""
        loss: Tensor = super().training_step(*arguments, **options)
        self.loss_sum.total += (value := loss.item())
        self.divergence.note(value)
        return loss

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Evaluate without touching the random state: its data loader draws a number.

        Raises:
            Diverged: the loss of the evaluation is no number.
        """
        with torch.random.fork_rng(devices=[]):
            metrics: dict[str, float] = super().evaluate(*arguments, **options)
        if not math.isfinite(loss := metrics["eval_loss"]):  # of all processes
            raise Diverged(self.state.global_step, f"the evaluation's loss is {loss}")
        return metrics

    def prediction_step(
        self, model: nn.Module, inputs: Batch, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and the pairs' rewards [B, 2]; the labels are a placeholder."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, rewards = self.compute_loss(model, inputs, return_outputs=True)
        pairs = torch.stack(rewards.chunk(2), dim=-1)
        return loss.detach(), pairs.detach(), torch.zeros(len(pairs), device=pairs.device)

    def log(self, logs: dict[str, float], *arguments: Any) -> None:
        """Add the window's training metrics to what Trainer logs."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._window.items()}
            self._window.clear()
        super().log(logs, *arguments)


def _metrics(prediction: Any) -> dict[str, float]:
    return pair_metrics(prediction.predictions)


def pair_metrics(rewards_B2: Any) -> dict[str, float]:
    """Accuracy (see `ranked_right`), mean margin, and the mean reward of the better side.

    Of an ARM the last is a log-likelihood: where it falls far below its start, the ARM ranks pairs
    by leaving the language, and so will what it guides.
    """
    chosen_B, rejected_B = rewards_B2[:, 0], rewards_B2[:, 1]
    return {
        "accuracy": ranked_right((chosen_B - rejected_B).tolist()) / len(chosen_B),
        "margin": float((chosen_B - rejected_B).mean()),
        "reward_chosen": float(chosen_B.mean()),
    }


def through(wrapper: nn.Module, inner: nn.Module, function: Rewards, batch: Batch) -> Tensor:
    """Run `function(inner, batch)` inside the wrapper's forward.

    DDP and FSDP gather weights and synchronise gradients in the hooks of their own forward; a
    function that calls the model's parts must run in there.
    """
    if wrapper is inner:
        return function(inner, batch)
    original = inner.forward

    def redirected(**inputs: Tensor) -> Tensor:
        inner.forward = original
        return function(inner, inputs)

    inner.forward = redirected
    try:
        rewards: Tensor = wrapper(**batch)
    finally:
        inner.forward = original
    return rewards
