"""Training a value model (VAS, arXiv 2405.06639). N responses, M tokens of all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.arms.values import Batch, token_values
from trimtab.training.losses import LossOptions, value_loss
from trimtab.training.trainer import PreferenceTrainer


class ValueTrainer(PreferenceTrainer):
    """Regresses the value after every token on TD(λ) returns, over batches of `SampleCollator`.

    Evaluation compares with the scores themselves: `eval_loss` is the mean squared distance of all
    tokens' values (each response counts alike), `eval_explained` the share of the scores' variance
    that this leaves explained, `eval_explained_last` the same of the values after the last token.

    Args:
        decay: λ.
        **arguments: of `PreferenceTrainer`, but `rewards` and `loss`.
    """

    def __init__(self, *, decay: float, **arguments: Any) -> None:
        super().__init__(
            rewards=token_values, loss=LossOptions(), compute_metrics=_explained, **arguments
        )
        self._decay = decay

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Mean loss over the batch's responses."""
        value_M = self.rewards(model, inputs)
        loss = self._losses(value_M, inputs, self._decay).mean()
        return (loss, value_M) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: Batch, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss against the scores; each response's, with its last value [N, 2]; the scores [N]."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            value_M = self.rewards(model, inputs)
            loss_N = self._losses(value_M, inputs, 1.0)
        last_N = value_M[inputs["response_mask"].sum(-1).cumsum(0) - 1]
        return loss_N.mean(), torch.stack([loss_N, last_N], dim=-1), inputs["score"]

    def _losses(self, value_M: Tensor, inputs: Batch, decay: float) -> Tensor:
        lengths = inputs["response_mask"].sum(-1).tolist()
        return value_loss(value_M, lengths, inputs["score"].tolist(), decay)


def _explained(prediction: Any) -> dict[str, float]:
    """Shares of the scores' variance, which is NaN where all scores are one."""
    loss_N, last_N = prediction.predictions.T
    scores_N = np.asarray(prediction.label_ids).reshape(-1)
    variance = float(scores_N.var()) or float("nan")
    error = float(np.square(last_N - scores_N).mean())
    return {
        "explained": 1 - float(loss_N.mean()) / variance,
        "explained_last": 1 - error / variance,
    }
