"""A small trainer over `transformers.Trainer`: it adds the rewards and the preference loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from trimtab.training.logprobs import response_logp
from trimtab.training.losses import LossOptions, preference_loss, response_rewards

Batch = dict[str, Tensor]
Rewards = Callable[[Any, Batch], Tensor]
"""(model, batch of 2B rows) -> rewards [2B], the chosen rows first."""


@dataclass(frozen=True)
class ArmRewards:
    """Reward of an ARM: the response's log-prob under it."""

    chunk: int = 1024
    length_normalize: bool = False

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """Rewards of the batch's rows in nats, [2B]."""
        logp, row = response_logp(model, batch, chunk=self.chunk)
        rows = batch["input_ids"].shape[0]
        return response_rewards(logp, row, rows, length_normalize=self.length_normalize)


def trajectory_rewards(model: Any, batch: Batch) -> Tensor:
    """Reward of a trajectory-level model: its scalar head on the last token, [2B]."""
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    rewards: Tensor = output.logits.float().squeeze(-1)
    return rewards


class PreferenceTrainer(transformers.Trainer):
    """Minimises the preference loss over batches of `PairCollator`.

    Logs `accuracy` (share of pairs ranked right) and `margin` (mean reward difference, nats), in
    evaluation as `eval_accuracy` and `eval_margin`.
    """

    def __init__(self, *, rewards: Rewards, loss: LossOptions, **arguments: Any) -> None:
        super().__init__(compute_metrics=_metrics, **arguments)
        self._rewards = rewards
        self._loss = loss
        self._window: dict[str, list[float]] = defaultdict(list)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs: Trainer averages it

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Mean loss over the batch's pairs."""
        rewards = through(model, self.accelerator.unwrap_model(model), self._rewards, inputs)
        chosen, rejected = rewards.chunk(2)
        loss = preference_loss(chosen, rejected, self._loss).mean()
        if model.training:
            self._window["accuracy"].append((chosen > rejected).float().mean().item())
            self._window["margin"].append((chosen - rejected).mean().item())
        return (loss, rewards) if return_outputs else loss

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
    chosen, rejected = prediction.predictions[:, 0], prediction.predictions[:, 1]
    return {
        "accuracy": float((chosen > rejected).mean()),
        "margin": float((chosen - rejected).mean()),
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
