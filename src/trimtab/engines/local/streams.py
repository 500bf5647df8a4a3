"""Streams, grouped by the weights they run through, and their KV caches while they run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from trimtab import fusion
from trimtab.arms.adapter import LoraWeights
from trimtab.arms.vocab import VocabularyMap
from trimtab.data.collate import position_ids
from trimtab.data.pairs import Prompt
from trimtab.data.tokenize import PromptFormat, prompt_ids
from trimtab.engines.local.fused import fuse_backbone
from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Stream:
    """What one stream runs through: the base, or an ARM.

    Attributes:
        name: `base`, or the ARM's objective.
        model: a transformers causal LM. Streams with the same model object share its weights and
            run in one forward.
        tokenizer: its own tokenizer, with its own chat template.
        vocabulary: how its ids line up with the base's.
        prompt_format: how it reads plain-text prompts.
        scale: calibration; multiplies the strength.
        lora: low-rank terms added to the model for this stream alone.
    """

    name: str
    model: Any
    tokenizer: Any
    vocabulary: VocabularyMap
    prompt_format: PromptFormat = "auto"
    scale: float = 1.0
    lora: LoraWeights | None = None

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


class Group:
    """Streams on one backbone, which run through it in one forward.

    Args:
        streams: with the same model object; those without a LoRA come first.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = sorted(streams, key=lambda stream: stream.lora is not None)
        model = self.streams[0].model
        adapters = [stream.lora for stream in self.streams if stream.lora is not None]
        plain = len(self.streams) - len(adapters)
        self.model = fuse_backbone(model, plain, adapters) if adapters else model


def group_streams(streams: Sequence[Stream]) -> list[Group]:
    """One group per model object, in order of first appearance."""
    by_model: dict[int, list[Stream]] = {}
    for stream in streams:
        by_model.setdefault(id(stream.model), []).append(stream)
    return [Group(members) for members in by_model.values()]


class GroupState:
    """The running state of one group over B requests: S · B rows, stream by stream.

    Rows are padded on the left; each stream has its own prompt ids.
    """

    def __init__(self, group: Group) -> None:
        self._streams, self._model = group.streams, group.model
        self._accepts = _forward_parameters(self._model)
        self._mask: Tensor
        self._cache: Any

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self._model.device
        return device

    def prefill(self, prompts: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Tensor]:
        """Read the prompts (stream name -> B rows of its own ids).

        Returns:
            Stream name -> log-probs of each row's next token over the base's ids, [B, V].
        """
        rows = [list(row) for stream in self._streams for row in prompts[stream.name]]
        width = max(map(len, rows))
        ids = [[0] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        self._mask = torch.tensor(mask, device=self.device)
        self._cache = DynamicCache(config=self._model.config.get_text_config())
        return self._forward(torch.tensor(ids, device=self.device), position_ids(self._mask))

    def step(self, tokens_B: Tensor) -> dict[str, Tensor]:
        """Append one token (a base id) to each request; as `prefill`."""
        tokens_B = tokens_B.to(self.device)
        tokens_N = torch.cat([own_ids(tokens_B, stream.vocabulary) for stream in self._streams])
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens_N), 1)], dim=1)
        positions = self._mask.sum(-1, keepdim=True) - 1
        return self._forward(tokens_N[:, None], positions)

    def keep(self, requests: Tensor) -> None:
        """Drop the rows of all other requests."""
        starts = torch.arange(len(self._streams)) * (len(self._mask) // len(self._streams))
        rows = (starts[:, None] + requests.cpu()[None]).flatten().to(self.device)
        self._mask = self._mask[rows]
        self._cache.batch_select_indices(rows)

    def _forward(self, ids_NT: Tensor, positions_NT: Tensor) -> dict[str, Tensor]:
        wanted = {
            "logits_to_keep": 1,
            "position_ids": positions_NT,
        }  # ALiBi models take no positions
        options = {name: value for name, value in wanted.items() if name in self._accepts}
        logits_NV = self._model(
            input_ids=ids_NT,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **options,
        ).logits[:, -1]
        parts = logits_NV.chunk(len(self._streams))
        return {
            stream.name: to_base(
                fusion.log_softmax(logits_BV, stream.vocabulary.own_size), stream.vocabulary
            )
            for stream, logits_BV in zip(self._streams, parts, strict=True)
        }


def own_ids(tokens_B: Tensor, vocabulary: VocabularyMap) -> Tensor:
    """Base ids as the stream's own."""
    for base_id, own_id in vocabulary.own_id:
        tokens_B = torch.where(tokens_B == base_id, own_id, tokens_B)
    return tokens_B


def to_base(logp_BV: Tensor, vocabulary: VocabularyMap) -> Tensor:
    """A stream's log-probs over its own ids, rearranged to the base's ids."""
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


def _forward_parameters(model: Any) -> Mapping[str, Any]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inspect.signature(type(inner).forward).parameters
