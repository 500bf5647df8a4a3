"""Streams, and the groups that run through the same weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimtab.arms.adapter import AdapterWeights
from trimtab.engines.guides import REFERENCE, Instruction
from trimtab.engines.local import attention
from trimtab.engines.local.linear import join_layers
from trimtab.engines.local.stream_rows import own_ids
from trimtab.engines.policies import Amateur
from trimtab.errors import ConfigError
from trimtab.models import ropes
from trimtab.models.instructions import instructed
from trimtab.models.limits import configured_ends, context_limit
from trimtab.models.lm_head import causal_lm
from trimtab.models.messages import Prompt, is_ids, text_of
from trimtab.models.prompts import (
    StartedPrompt,
    ids_under_instruction,
    prompt_ids,
    require_embedded,
)
from trimtab.models.shared import share_weights
from trimtab.models.templates import turn_end_id
from trimtab.models.types import PromptFormat
from trimtab.models.vocabulary import VocabularyMap

BASE, DRAFT = "base", "draft"
_NONE: Mapping[str, Sequence[float]] = {}


@dataclass(frozen=True)
class Stream:
    """What one stream runs through: the base, an ARM, or a model that drafts.

    Attributes:
        name: `base`, the ARM's objective, or `draft`.
        model: a transformers causal LM. Streams with the same model object share its weights and
            run in one forward.
        tokenizer: its own tokenizer, with its own chat template.
        vocabulary: how its ids line up with the base's.
        prompt_format: how it reads plain-text prompts.
        scale: calibration; multiplies the strength.
        adapter: low-rank terms added to the model for this stream alone.
        instruction: under which it reads every prompt.
        reference: a guide's, whose log-probs are taken from its own; None for an ARM.
        policy: it is no guide but what is to be sampled from, at strength 1; its reference is the
            base.
        amateur: it is what the base is contrasted with, within what is plausible.
    """

    name: str
    model: Any
    tokenizer: Any
    vocabulary: VocabularyMap
    prompt_format: PromptFormat = "auto"
    scale: float = 1.0
    adapter: AdapterWeights | None = None
    instruction: str = ""
    reference: Stream | None = None
    policy: bool = False
    amateur: Amateur | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """What the stream's reward is for: those of a conditioned ARM, or its own name."""
        return (self.adapter.objectives if self.adapter else ()) or (self.name,)

    @property
    def context(self) -> int | None:
        """Tokens the model can read, where it has a limit."""
        return context_limit(self.model.config)

    @property
    def ends(self) -> frozenset[int]:
        """Ids at which it ends a turn: its generation config's, tokenizer's and template's."""
        configured = configured_ends(getattr(self.model, "generation_config", None))
        of_tokenizer = self.tokenizer.eos_token_id, turn_end_id(self.tokenizer)
        return frozenset(i for i in (*configured, *of_tokenizer) if i is not None)

    def prompt_ids(self, prompt: Prompt | Sequence[int]) -> list[int]:
        """The prompt in this model's own template; an empty one is a `ConfigError`.

        One that is ids, the base's, is read as it is: no template, no token before it.
        """
        if is_ids(prompt):
            ids = own_ids(require_ids(prompt, self.vocabulary.size), self.vocabulary)
            if self.instruction:
                ids = ids_under_instruction(self.tokenizer, ids, self.instruction)
        else:
            text = text_of(prompt)
            if self.instruction:
                text = instructed(self.tokenizer, text, self.instruction, self.prompt_format)
            ids = prompt_ids(self.tokenizer, text, self.prompt_format)
        if not ids:
            raise ConfigError("the prompt is empty", "give at least one character")
        require_embedded(ids, self.model.config.get_text_config().vocab_size, self.tokenizer)
        return ids

    def response_ids(
        self, prompt: Prompt | Sequence[int], response: str, *, end_of_turn: bool
    ) -> list[int]:
        """A response's own ids after a prompt, with the token that ends its turn or as it stands.

        After a prompt that is ids it is tokenised on its own.

        Raises:
            ConfigError: an end of turn after ids, of which none is known.
        """
        if is_ids(prompt):
            if end_of_turn:
                raise ConfigError(
                    "which token ends a turn is not known of a prompt of token ids",
                    "put it at the end of the response's own ids",
                )
            return list(self.tokenizer(response, add_special_tokens=False)["input_ids"])
        started = StartedPrompt.of(self.tokenizer, text_of(prompt), self.prompt_format)
        if end_of_turn:
            return started.response_ids(self.tokenizer, response)
        return started.beginning(self.tokenizer, response)[len(started.ids) :]

    def under(self, instruction: Instruction) -> Stream:
        """The stream with this instruction in place of its own."""
        return replace(self, instruction=instruction.text, scale=instruction.weight)

    def named_reference(self) -> Stream | None:
        """A guide's reference, called after it."""
        return self.reference and replace(self.reference, name=self.name + REFERENCE)

    def is_same_as(self, other: Stream) -> bool:
        """Whether the other stream's tokens and log-probs are always these.

        Never those under an instruction, for which a request may have a text of its own.
        """
        return (
            not (self.instruction or other.instruction)
            and self.model is other.model
            and self.adapter is other.adapter
            and self.tokenizer is other.tokenizer
            and self.vocabulary == other.vocabulary
            and self.prompt_format == other.prompt_format
        )


def require_ids(ids: Sequence[int], size: int) -> Sequence[int]:
    """Token ids that are given in place of text, of a vocabulary of this size.

    Raises:
        ConfigError: it names the first that is no token.
    """
    beyond = next((i for i in ids if not 0 <= i < size), None)
    if beyond is not None:
        raise ConfigError(f"{beyond} is no token id", f"the base's are 0 to {size - 1}")
    return ids


class Group:
    """Streams on one backbone, which run through it in one forward.

    Args:
        streams: with the same model object.
        pack: take the model over and rearrange its weights for this machine.
    """

    def __init__(self, streams: Sequence[Stream], *, pack: bool = False) -> None:
        ordered = sorted(streams, key=lambda stream: stream.adapter is not None)
        unique: list[Stream] = []
        self.index: dict[str, int] = {}
        for stream in ordered:
            same = [i for i, other in enumerate(unique) if other.is_same_as(stream)]
            self.index[stream.name] = same[0] if same else len(unique)
            if not same:
                unique.append(stream)
        self.streams = unique
        self.model = ordered[0].model if pack else share_weights(ordered[0].model)
        self.lm = causal_lm(self.model)
        self.parameters = inspect.signature(type(self.lm.base_model).forward).parameters
        self.cost = pass_cost(self.model)  # before its layers are joined
        self.quantized = any(type(p.data) is not torch.Tensor for p in self.model.parameters())
        self.packable = attention.is_packable(self.lm, self.parameters)
        self.position_size = 0  # numbers that one token's keys and values come to; seen later
        if self.packable:
            attention.take_over(self.lm)
        self.ropes = ropes.by_row(self.lm) if self.packable else None
        adapters = [stream.adapter for stream in unique if stream.adapter is not None]
        self.head_is_adapted = _has_head(self.lm, adapters)
        self.terms = None
        if self.model is self.lm:  # PEFT's own layers look into the layers that they wrap
            self.terms = join_layers(self.lm, adapters, pack=pack)
        self._first = {id(a): i for a, i in zip(adapters, _starts(adapters), strict=True)}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def context(self) -> int | None:
        """Tokens that its streams can read, where there is a limit."""
        limits = [self.streams[0].context]
        if not self.packable:  # what such a cache holds cannot be read anew as a long row's
            limits += [n for module in self.lm.modules() for n in ropes.originals(module)]
        return min((n for n in limits if n), default=None)

    def coefficients(self, conditions: Mapping[str, Sequence[float]] = _NONE) -> Tensor:
        """How one request's streams take the adapters' columns (see `RowTerms`), [S, J].

        Args:
            conditions: ARM name -> the preference inside it; by default all objectives alike.
        """
        total = sum(self.terms.widths) if self.terms else 0
        rows = torch.zeros(len(self.streams), total)
        for s, stream in enumerate(self.streams):
            if stream.adapter is not None and total:
                count, first = len(stream.objectives), self._first[id(stream.adapter)]
                inner = conditions.get(stream.name, [1 / count] * count)
                weights = stream.adapter.coefficients(inner)
                rows[s, first : first + len(weights)] = torch.tensor(weights)
        return rows

    def open_rows(self, coefficients_MJ: Tensor) -> None:
        """Tell the layers how each token of the next forward takes the adapters' columns."""
        if self.terms:
            self.terms.open(coefficients_MJ)


def _has_head(lm: Any, adapters: Sequence[AdapterWeights]) -> bool:
    """Whether any adapter adds to the LM head."""
    head = lm.get_output_embeddings()
    names = {name for name, module in lm.named_modules() if module is head}
    return any(names & adapter.layers.keys() for adapter in adapters)


def _starts(adapters: Sequence[AdapterWeights]) -> list[int]:
    """Where each adapter's coefficients begin."""
    widths = [adapter.width for adapter in adapters]
    return [sum(widths[:i]) for i in range(len(widths))]


def group_streams(streams: Sequence[Stream], *, pack: bool = False) -> list[Group]:
    """One group per model object, in order of first appearance."""
    by_model: dict[int, list[Stream]] = {}
    for stream in streams:
        by_model.setdefault(id(stream.model), []).append(stream)
    return [Group(members, pack=pack) for members in by_model.values()]


# A pass takes its weights' bytes over the bandwidth, and a fixed time per layer.
_SECONDS_PER_BYTE = {"cpu": 1 / 20e9, "cuda": 1 / 1.5e12}
_SECONDS_PER_LAYER = {"cpu": 0.25e-3, "cuda": 0.15e-3}


def pass_cost(model: Any) -> float:
    """Seconds that one pass of a model takes, roughly: only ratios matter."""
    kind = "cpu" if model.device.type == "cpu" else "cuda"
    layers = int(getattr(model.config.get_text_config(), "num_hidden_layers", 1))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return float(size * _SECONDS_PER_BYTE[kind] + layers * _SECONDS_PER_LAYER[kind])
