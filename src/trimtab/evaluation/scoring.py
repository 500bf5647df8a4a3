"""Rewards of given responses, from an ARM (per token) or a trajectory model (per response)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from peft import PeftModel

from trimtab.arms.folder import conditioned_on, fetch, is_adapter
from trimtab.arms.load import (
    DType,
    default_device,
    load_arm,
    load_model,
    load_tokenizer,
    require_base,
    require_device,
)
from trimtab.arms.sidecar import Sidecar
from trimtab.data.collate import pad_rows
from trimtab.data.pairs import Pair, Prompt
from trimtab.data.tokenize import PromptFormat, response_ids
from trimtab.errors import ConfigError, PreferenceError
from trimtab.steering import PreferenceLike, Steering
from trimtab.training.logprobs import response_logp
from trimtab.training.losses import response_rewards
from trimtab.training.trainer import trajectory_rewards


@dataclass(frozen=True)
class Scored:
    """The reward of one response.

    Attributes:
        reward: in nats, summed over the response's tokens, or their mean where the ARM was trained
            so (`length_normalize`); the scalar head's value (trajectory model).
        tokens: text of each response token (ARM only).
        token_rewards: log-prob of each response token (ARM only).
    """

    reward: float
    tokens: Sequence[str] = ()
    token_rewards: Sequence[float] = ()


class RewardModel:
    """A loaded reward model of either kind.

    Args:
        folder: what `trimtab train` wrote, or any causal LM (an ARM *is* one).
        dtype: of the weights.
        device: where to put them; the GPU by default where there is one.
        trust_remote_code: run model code that comes with the checkpoint.
    """

    def __init__(
        self,
        folder: str,
        *,
        dtype: DType = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        device = require_device(device) if device else default_device()
        folder = fetch(folder, what="reward model")
        self.sidecar = Sidecar.load(folder)
        self.objectives = conditioned_on(folder)
        self.tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
        options: dict[str, Any] = {
            "dtype": dtype,
            "device": device,
            "trust_remote_code": trust_remote_code,
        }
        if self.sidecar.method == "trajectory":
            self.model = _load_judge(folder, options)
        else:
            self.model = load_arm(folder, **options)

    @torch.inference_mode()
    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        batch_size: int = 16,
        prompt_format: PromptFormat | Sequence[PromptFormat] | None = None,
        preference: PreferenceLike | None = None,
        places: Sequence[str] = (),
    ) -> list[Scored]:
        """Score each response to its prompt.

        Args:
            prompts: one per response.
            responses: texts.
            batch_size: rows in one forward pass.
            prompt_format: how plain-text prompts are read, all or one for each; by default as in
                training.
            preference: what a conditioned ARM scores for; by default all objectives alike.
            places: what an error calls each row; `row 1`, `row 2`, … by default.

        Raises:
            PreferenceError: a preference that does not fit the model.
            ConfigError: lists of different lengths, or a row longer than the model reads.
        """
        if len(prompts) != len(responses):
            raise ConfigError(f"{len(prompts)} prompts for {len(responses)} responses", "pair them")
        styles = prompt_format or self.sidecar.prompt_format
        if isinstance(styles, str):
            styles = [styles] * len(prompts)
        rows = [
            response_ids(self.tokenizer, prompt, response, style)
            for prompt, response, style in zip(prompts, responses, styles, strict=True)
        ]
        self._check_length(rows, places)
        self._condition(preference)
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
        scored: dict[int, Scored] = {}
        for start in range(0, len(rows), batch_size):
            group = by_length[start : start + batch_size]
            scored |= zip(group, self._score_batch([rows[i] for i in group]), strict=True)
        return [scored[i] for i in range(len(rows))]

    def _condition(self, preference: PreferenceLike | None) -> None:
        if self.objectives:
            weights = Steering.of(self.objectives, preference).preference
            self.model.conditioning.open(torch.tensor([[*weights.values()]]))
        elif preference is not None:
            raise PreferenceError("this reward model takes no preference", "leave --preference out")

    def style_of(self, pair: Pair) -> PromptFormat:
        """How the prompt of a pair is read: as in training."""
        return "raw" if pair.verbatim else self.sidecar.prompt_format

    @property
    def context(self) -> int | None:
        """Tokens the model can read, where it has a limit."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(limit) if limit else None

    def _check_length(
        self, rows: Sequence[tuple[list[int], list[int]]], places: Sequence[str]
    ) -> None:
        lengths = [len(prompt) + len(response) for prompt, response in rows]
        longest = max(range(len(rows)), key=lengths.__getitem__, default=0)
        if self.context and rows and lengths[longest] > self.context:
            place = places[longest] if places else f"row {longest + 1}"
            raise ConfigError(
                f"{place} has {lengths[longest]} tokens with its prompt, the model reads "
                f"{self.context}",
                "shorten it; nothing is cut in silence",
            )

    def _score_batch(self, rows: list[tuple[list[int], list[int]]]) -> list[Scored]:
        pad_id = self.tokenizer.pad_token_id or 0
        batch = {k: v.to(self.model.device) for k, v in pad_rows(rows, pad_id).items()}
        if self.sidecar.method == "trajectory":
            return [Scored(reward) for reward in trajectory_rewards(self.model, batch).tolist()]
        logp, row = response_logp(self.model, batch)
        totals = response_rewards(
            logp, row, len(rows), length_normalize=self.sidecar.length_normalize
        ).tolist()
        per_row = torch.split(logp, [len(response) for _, response in rows])
        return [
            Scored(total, [self.tokenizer.decode([i]) for i in response], tokens.tolist())
            for total, tokens, (_, response) in zip(totals, per_row, rows, strict=True)
        ]


def _load_judge(folder: str, options: dict[str, Any]) -> Any:
    """A trajectory-level reward model: a sequence classifier with one output."""
    judge = {"auto_class": transformers.AutoModelForSequenceClassification, "num_labels": 1}
    if not is_adapter(folder):
        return load_model(folder, **judge, **options)
    carrier = load_model(require_base(folder), **judge, **options)
    pad = load_tokenizer(folder).pad_token_id
    carrier.config.pad_token_id = pad
    return PeftModel.from_pretrained(carrier, folder).to(options["device"]).eval()


def score_responses(
    model: str, prompts: Sequence[Prompt], responses: Sequence[str], **options: Any
) -> list[Scored]:
    """Load a reward model and score responses with it (see `RewardModel.score`)."""
    return RewardModel(model).score(prompts, responses, **options)
