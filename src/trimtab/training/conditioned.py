"""Training one ARM for every preference (PARM, UniARM). B pairs, K objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trimtab.arms.adapter import WEIGHTS
from trimtab.arms.conditioned_files import load_adapter_tensors, save_adapter
from trimtab.arms.rewards import Batch
from trimtab.data.tokenize import TokenPair
from trimtab.stats import ranked_right
from trimtab.training.losses import ObjectiveLosses, objectives_loss
from trimtab.training.trainer import PreferenceTrainer, pair_metrics


@dataclass(frozen=True)
class PreferenceDraws:
    """Preferences `α ~ Dirichlet(a, …, a)` for training; pure functions of seed and place.

    Attributes:
        objectives: K.
        alpha: a; small values draw corners, large ones the middle.
        per_row: one for each pair instead of one for each forward pass.
        seed: of the draws.
    """

    objectives: int
    alpha: float
    per_row: bool
    seed: int

    def draw(self, step: int, micro: int, identity_B: Sequence[int]) -> Tensor:
        """Preferences of one forward pass, the same on every process: [B, K], or [1, K] for all.

        A row's draw depends on its pair and the step alone, whatever else is in the batch.
        """
        keys = [(step, 1, i) for i in identity_B] if self.per_row else [(step, 0, micro)]
        draws = [
            np.random.default_rng((self.seed, *key)).dirichlet([self.alpha] * self.objectives)
            for key in keys
        ]
        return torch.tensor(np.array(draws), dtype=torch.float32)


def asked_of(pairs: Sequence[TokenPair], objectives: Sequence[str]) -> list[TokenPair]:
    """Each pair once per objective that it was judged on, with that verdict alone.

    Such pairs are evaluated with all of the preference on their objective.
    """
    return [
        replace(pair, verdicts={name: pair.verdicts[name]})
        for name in objectives
        for pair in pairs
        if name in pair.verdicts
    ]


class ConditionedTrainer(PreferenceTrainer):
    """Minimises `objectives_loss` over batches of `ComparisonCollator`, under drawn preferences.

    Evaluation takes pairs of `asked_of` and logs `eval_accuracy`, and that of each objective.
    """

    def __init__(
        self,
        *,
        objectives: Sequence[str],
        losses: ObjectiveLosses,
        draws: PreferenceDraws,
        **arguments: Any,
    ) -> None:
        super().__init__(loss=losses.options[0], compute_metrics=self._by_objective, **arguments)
        self._objectives, self._losses, self._draws = list(objectives), losses, draws
        self._step = self._micro = -1

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Mean loss over the batch's pairs."""
        rows = {name: column for name, column in inputs.items() if name not in _JUDGEMENT}
        verdict_BK = inputs["verdicts"]
        preference = self._preferences(model, inputs).to(verdict_BK.device)
        both = preference if len(preference) == 1 else preference.repeat(2, 1)
        rewards = self.rewards(model, {**rows, "preference": both})
        first, second = rewards.chunk(2)
        loss = objectives_loss(first, second, verdict_BK, preference, self._losses).mean()
        if model.training:
            side_BK = (2 * verdict_BK - 1).nan_to_num(0.0) * preference
            side_B = side_BK.sum(-1).sign()  # 0: judged on nothing that is wanted, or undecided
            self.note(((first - second) * side_B)[side_B != 0])
        return (loss, rewards) if return_outputs else loss

    def _preferences(self, model: nn.Module, inputs: Batch) -> Tensor:
        """Drawn ones in training; in evaluation each pair's own objective."""
        if not model.training:
            return (~inputs["verdicts"].isnan()).float()
        step = self.state.global_step
        self._step, self._micro = step, self._micro + 1 if step == self._step else 0
        return self._draws.draw(step, self._micro, inputs["identity"].tolist())

    def prediction_step(
        self, model: nn.Module, inputs: Batch, *rest: Any, **options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, the rewards of the better and of the worse side [B, 2], and the objective [B]."""
        loss, pairs_B2, _ = super().prediction_step(model, inputs, *rest, **options)
        verdict_BK = inputs["verdicts"].to(pairs_B2.device)
        first_better_B = verdict_BK.nan_to_num(0.0).sum(-1) > 0
        ordered_B2 = torch.where(first_better_B[:, None], pairs_B2, pairs_B2.flip(-1))
        return loss, ordered_B2, (~verdict_BK.isnan()).int().argmax(-1)

    def _by_objective(self, prediction: Any) -> dict[str, float]:
        margins = prediction.predictions[:, 0] - prediction.predictions[:, 1]
        asked = np.asarray(prediction.label_ids).reshape(-1)
        metrics = pair_metrics(prediction.predictions)
        for i, name in enumerate(self._objectives):
            if (asked == i).any():
                theirs = margins[asked == i].tolist()
                metrics[f"accuracy_{name}"] = ranked_right(theirs) / len(theirs)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A checkpoint holds the adapter, not the frozen backbone."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(self.accelerator.unwrap_model(self.model), folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put a checkpoint's adapter back."""
        tensors = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        load_adapter_tensors(self.accelerator.unwrap_model(model or self.model), tensors)


_JUDGEMENT = ("verdicts", "identity")
