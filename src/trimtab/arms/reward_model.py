"""Rewards of given responses, from an ARM (per token) or a judge's scalar head (per response).

The head's are of a trajectory model of ours, or of any sequence classifier with one output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.arms.check import check_rewards
from trimtab.arms.load import backbone_of, load_arm_and_start
from trimtab.arms.logprobs import response_logp
from trimtab.arms.peft_adapter import with_adapter
from trimtab.arms.reward_reader import RewardReader, Row, place_of
from trimtab.arms.rewards import response_rewards, trajectory_rewards
from trimtab.errors import ModelLoadError
from trimtab.models.devices import default_device, require_device
from trimtab.models.folder import is_adapter
from trimtab.models.load import load_scalar
from trimtab.models.messages import Prompt
from trimtab.models.padding import pad_rows
from trimtab.models.protocols import Tokenizer
from trimtab.models.token_texts import TokenTexts
from trimtab.models.types import DType, PromptFormat
from trimtab.steering import PreferenceLike, weights_of


@dataclass(frozen=True)
class Scored:
    """The reward of one response.

    Attributes:
        reward: in nats, summed over the response's tokens, or their mean where the ARM was trained
            so (`length_normalize`); the scalar head's value, no sigmoid (judge).
        tokens: text of each response token (ARM only).
        token_rewards: of each response token (ARM only), as the ARM was trained: its log-prob, that
            less its value under the model that training started from (`reference`), or its
            logit (`reward_head`).
    """

    reward: float
    tokens: Sequence[str] = ()
    token_rewards: Sequence[float] = ()


class RewardModel:
    """A loaded reward model of either kind: what `RewardReader` takes, with its weights.

    Args:
        folder: see `RewardReader`.
        dtype: of the weights.
        device: where to put them; the GPU by default where there is one.
        trust_remote_code: run model code that comes with the checkpoint.
        reader: of the same folder, where there is one already.

    Attributes:
        reader: how it reads prompts and responses.
        model: the weights, as transformers or PEFT loaded them.
        start: the model that rewards are measured against, where they are.
    """

    def __init__(
        self,
        folder: str,
        *,
        dtype: DType = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
        reader: RewardReader | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "dtype": dtype,
            "device": require_device(device) if device else default_device(),
            "trust_remote_code": trust_remote_code,
        }
        self.reader = reader or RewardReader(folder, trust_remote_code=trust_remote_code)
        self._texts = TokenTexts(self.reader.tokenizer)
        self.model, self.start = _load(self.reader, options)

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
            ModelLoadError: the model gives NaN or an infinite reward.
        """
        rows = self.reader.read(prompts, responses, prompt_format, places)
        if weights := weights_of(preference, self.reader.objectives):
            self.model.conditioning.open(torch.tensor([weights]))
        keys = [(tuple(prompt), tuple(response)) for prompt, response in rows]
        once = dict(zip(keys, rows, strict=True))  # equal texts tie, whatever their batches
        by_length = sorted(once, key=lambda key: len(key[0]) + len(key[1]))
        scored: dict[tuple[tuple[int, ...], tuple[int, ...]], Scored] = {}
        for start in range(0, len(by_length), batch_size):
            group = by_length[start : start + batch_size]
            scored |= zip(group, self._score_batch([once[key] for key in group]), strict=True)
        rewards = [scored[key] for key in keys]
        self._require_numbers(rewards, places)
        return rewards

    def _require_numbers(self, rewards: Sequence[Scored], places: Sequence[str]) -> None:
        """Refuse what weights that hold NaN, or overflow in half precision, make of a row."""
        for i, scored in enumerate(rewards):
            if not math.isfinite(scored.reward):
                number = "NaN" if math.isnan(scored.reward) else f"{scored.reward}"
                raise ModelLoadError(
                    f"the model {self.reader.folder} gives {number} for {place_of(places, i)}",
                    "its weights may be broken (train or copy it again); float16 overflows: try "
                    "--dtype float32",
                )

    def _score_batch(self, rows: list[Row]) -> list[Scored]:
        if self.reader.judges:
            return self._judge_batch(rows)
        sidecar = self.reader.sidecar
        batch = self._padded(rows, self.reader.tokenizer.pad_token_id or 0)
        linear = sidecar.reward_head == "linear"
        logp, row = response_logp(self.model, batch, linear=linear)
        if self.start is not None:
            logp = logp - response_logp(self.start, batch, linear=linear)[0]
        totals = response_rewards(
            logp, row, len(rows), length_normalize=sidecar.length_normalize
        ).tolist()
        per_row = torch.split(logp, [len(response) for _, response in rows])
        return [
            Scored(total, [self._texts[i] for i in response], tokens.tolist())
            for total, tokens, (_, response) in zip(totals, per_row, rows, strict=True)
        ]

    def _judge_batch(self, rows: list[Row]) -> list[Scored]:
        return [Scored(reward) for reward in self.rate_rows([[*p, *r] for p, r in rows])]

    def rate_rows(self, rows: Sequence[list[int]]) -> list[float]:
        """The scalar head's value for rows of ids, read together.

        The head reads the last token that is not the *config's* pad; rows are filled with it. A
        model that names none reads the last token, and so takes one row at a time.
        """
        groups = [rows] if self._pad_id is not None else [[row] for row in rows]
        whole = [[(row, list[int]()) for row in group] for group in groups]
        batches = [self._padded(group, self._pad_id or 0) for group in whole]
        return [reward for b in batches for reward in trajectory_rewards(self.model, b).tolist()]

    def up_to_padding(self, ids: list[int]) -> list[int]:
        """A row as far as the head looks: to the last token that is not the config's pad."""
        end = len(ids)
        while end > 1 and ids[end - 1] == self._pad_id:
            end -= 1
        return ids[:end]

    @property
    def _pad_id(self) -> int | None:
        pad_id: int | None = self.model.config.get_text_config().pad_token_id
        return pad_id

    def _padded(self, rows: list[Row], pad_id: int) -> dict[str, Tensor]:
        return {k: v.to(self.model.device) for k, v in pad_rows(rows, pad_id).items()}


def _load(reader: RewardReader, options: dict[str, Any]) -> tuple[Any, Any]:
    """The weights of what is read, and of what it is measured against.

    An ARM's rewards are checked, under equal weights.
    """
    if reader.judges:
        return _load_judge(reader.folder, reader.tokenizer, options), None
    model, start = load_arm_and_start(reader.folder, **options)
    if reader.objectives:
        model.conditioning.open(torch.tensor([weights_of(None, reader.objectives)]))
    check_rewards(model, reader.tokenizer, reader.sidecar.prompt_format, name=reader.folder)
    return model, start


def _load_judge(folder: str, tokenizer: Tokenizer, options: dict[str, Any]) -> Any:
    """A sequence classifier with one output; an adapter's pad token is its own tokenizer's."""
    if not is_adapter(folder):
        return load_scalar(folder, **options)
    base, revision = backbone_of(folder)
    carrier = load_scalar(base, revision=revision, **options)
    if tokenizer.pad_token_id is not None:
        carrier.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return with_adapter(carrier, folder)
