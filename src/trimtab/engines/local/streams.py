"""A stream: rows of tokens through one set of weights, with its KV cache."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from trimtab import fusion
from trimtab.arms.vocab import VocabularyMap
from trimtab.data.collate import position_ids
from trimtab.data.pairs import Prompt
from trimtab.data.tokenize import PromptFormat, prompt_ids
from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Voice:
    """One model that takes part in the fusion: the base, or an ARM.

    Attributes:
        name: `base`, or the ARM's objective.
        model: a transformers causal LM, with or without a PEFT adapter.
        tokenizer: its own tokenizer, with its own chat template.
        vocabulary: how its ids line up with the base's.
        prompt_format: how it reads plain-text prompts.
        scale: calibration; multiplies the strength.
    """

    name: str
    model: Any
    tokenizer: Any
    vocabulary: VocabularyMap
    prompt_format: PromptFormat = "auto"
    scale: float = 1.0

    @property
    def context(self) -> int | None:
        """Tokens the model can read, where it has a limit."""
        config = self.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        return int(limit) if limit else None

    def prompt_ids(self, prompt: Prompt, max_new_tokens: int) -> list[int]:
        """The prompt in this model's own template.

        Raises:
            ConfigError: an empty prompt, or one that leaves no room for `max_new_tokens`.
        """
        ids = prompt_ids(self.tokenizer, prompt, self.prompt_format)
        if not ids:
            raise ConfigError("the prompt is empty", "give at least one character")
        if self.context and len(ids) + max_new_tokens > self.context:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens for {self.name} and max_new_tokens is "
                f"{max_new_tokens}, but the model reads {self.context}",
                "shorten the prompt or lower --max-new-tokens; nothing is cut in silence",
            )
        return ids


@dataclass
class Stream:
    """The running state of one voice over a batch of rows. Rows are padded on the left."""

    voice: Voice
    _mask: Tensor = field(init=False)
    _cache: Any = field(init=False)

    @property
    def device(self) -> torch.device:
        """Where the voice's weights are."""
        device: torch.device = self.voice.model.device
        return device

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts; log-probs of each row's next token over the base's ids, [B, V]."""
        width = max(map(len, prompts))
        rows = [[0] * (width - len(row)) + list(row) for row in prompts]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in prompts]
        self._mask = torch.tensor(mask, device=self.device)
        self._cache = DynamicCache(config=self.voice.model.config.get_text_config())
        return self._forward(torch.tensor(rows, device=self.device), position_ids(self._mask))

    def step(self, tokens_B: Tensor) -> Tensor:
        """Append one token (a base id) to each row; log-probs of the next, [B, V]."""
        tokens_B = tokens_B.to(self.device)
        for base_id, own_id in self.voice.vocabulary.own_id:
            tokens_B = torch.where(tokens_B == base_id, own_id, tokens_B)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens_B), 1)], dim=1)
        positions = self._mask.sum(-1, keepdim=True) - 1
        return self._forward(tokens_B[:, None], positions)

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""
        rows = rows.to(self.device)
        self._mask = self._mask[rows]
        self._cache.batch_select_indices(rows)

    def _forward(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor:
        options: dict[str, Any] = {"logits_to_keep": 1} if _keeps_last(self.voice.model) else {}
        logits_BV = self.voice.model(
            input_ids=ids_BT,
            attention_mask=self._mask,
            position_ids=positions_BT,
            past_key_values=self._cache,
            use_cache=True,
            **options,
        ).logits[:, -1]
        return to_base(fusion.log_softmax(logits_BV, self.voice.vocabulary.own_size), self.voice)


def to_base(logp_BV: Tensor, voice: Voice) -> Tensor:
    """A stream's log-probs over its own ids, rearranged to the base's ids."""
    vocabulary = voice.vocabulary
    if vocabulary.is_identity:
        return logp_BV
    missing = vocabulary.size - logp_BV.shape[-1]
    if missing > 0:
        logp_base_BV = torch.nn.functional.pad(logp_BV, (0, missing), value=fusion.NEVER)
    else:
        logp_base_BV = logp_BV[..., : vocabulary.size].clone()
    for base_id, own_id in vocabulary.own_id:
        logp_base_BV[..., base_id] = logp_BV[..., own_id]
    return logp_base_BV


def _keeps_last(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(type(inner).forward).parameters
