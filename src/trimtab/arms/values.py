"""The value after every token, from a scalar head that was trained for it (`--method value`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.arms.logprobs import is_distributed
from trimtab.arms.reward_model import RewardModel
from trimtab.arms.reward_reader import RewardReader
from trimtab.errors import ModelLoadError
from trimtab.models.lm_head import causal_lm
from trimtab.models.padding import pad_rows
from trimtab.models.ropes import rows_alike
from trimtab.models.types import DType

Batch = dict[str, Tensor]


def token_values(model: Any, batch: Batch) -> Tensor:
    """The head's value after each response token, row by row, [M] float32.

    The pooled logit of a sequence classifier is its value after the last token: this is the same
    head at every token.

    Args:
        model: a sequence classifier with one output, with or without a PEFT adapter.
        batch: `input_ids`, `attention_mask`, `response_mask`, each [N, T].
    """
    scorer = causal_lm(model)
    ids, mask, response = (batch[name] for name in ("input_ids", "attention_mask", "response_mask"))
    parts = []
    groups = rows_alike(scorer, mask, may_split=not is_distributed())
    for rows in groups:
        hidden_PTH = scorer.base_model(
            input_ids=ids[rows], attention_mask=mask[rows], use_cache=False
        ).last_hidden_state
        parts.append(scorer.score(hidden_PTH).float().squeeze(-1))
    values_NT = torch.cat(parts)[torch.cat(groups).argsort()]
    return values_NT[response.bool()]


class ValueModel:
    """A loaded value model: the expected reward of a whole response after each of its tokens.

        values = ValueModel("values/plain").values([prompt_ids + response_ids])

    Args:
        folder: of `trimtab train --method value`, or any decoder with one output and a `score`
            layer, such as a trajectory model: one that was trained on whole responses says little
            about beginnings.
        dtype: of the weights.
        device: where to put them; the GPU by default where there is one.
        trust_remote_code: run model code that comes with the checkpoint.

    Attributes:
        reader: how it reads prompts and responses (its tokenizer, its limit of tokens).
        model: the weights.

    Raises:
        ModelLoadError, MissingFileError: no such folder, or no scalar head on every token.
    """

    def __init__(
        self,
        folder: str,
        *,
        dtype: DType = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        self.reader = RewardReader(folder, trust_remote_code=trust_remote_code)
        if not self.reader.judges:
            raise ModelLoadError(f"{folder} has no scalar head", "train one with --method value")
        self.model = RewardModel(
            folder,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            reader=self.reader,
        ).model
        if not hasattr(causal_lm(self.model), "score"):
            raise ModelLoadError(
                f"{folder} is an encoder, which reads whole texts only",
                "take a decoder with a `score` layer",
            )

    @torch.inference_mode()
    def values(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """The value after each token of each row.

        Args:
            rows: token ids, prompt and response in one; of any lengths, read in one forward.
        """
        batch = pad_rows([([], list(row)) for row in rows], self.reader.tokenizer.pad_token_id or 0)
        on_device = {name: column.to(self.model.device) for name, column in batch.items()}
        values_M = token_values(self.model, on_device)
        return [part.tolist() for part in torch.split(values_M, [len(row) for row in rows])]
