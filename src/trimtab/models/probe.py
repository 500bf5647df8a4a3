"""Ordinary text, what a library computes on it, and how far something else is from that.

T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import ModelLoadError, first_line, is_out_of_memory
from trimtab.models.prompts import response_ids
from trimtab.models.protocols import CausalLM, Tokenizer
from trimtab.models.renamed import cache_name
from trimtab.models.templates import TemplateError
from trimtab.models.types import PromptFormat

PROMPT = "How do I bake bread at home?"
ANSWER = (
    "You need flour, water, salt and yeast. Mix them, knead the dough for ten minutes, let it rise "
    "until it has doubled, and bake it in a hot oven until the crust is brown."
)
_TOKENS, _DISTINCT = 64, 8
_FLOOR = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.04, torch.bfloat16: 0.1}
"""Nats, for where a library's two ways happen to agree. Measured on models of 18 and 30 layers the
engine is off by 1e-5 (float32), .009 (float16) and .06 (bfloat16); a wrong layer by tenths."""
_TIMES = 4
"""The engine is as far from a library's forward as that is from itself (.9 to 1.2 times); other
machines may be a few times as far."""


@dataclass(frozen=True)
class Reference:
    """What the library that owns a format computes on some text.

    Attributes:
        ids: the text, T tokens.
        cut: where its second piece begins.
        logits_TV: after each token, float32.
        noise: nats; how far its cached forward (in two pieces) is from its uncached one.
        dtype: of the model.
        source: the library, for a message.
    """

    ids: list[int]
    cut: int
    logits_TV: Tensor
    noise: float
    dtype: torch.dtype
    source: str

    @property
    def bar(self) -> float:
        """Nats that another way of computing may be off."""
        return max(floor(self.dtype), _TIMES * self.noise)


def floor(dtype: torch.dtype) -> float:
    """Nats that any two ways of computing in a type may be apart."""
    return _FLOOR.get(dtype, max(_FLOOR.values()))


def require_numbers(logits_TV: Tensor, name: str) -> None:
    """Refuse a model that gives NaN, or nothing but what cannot be.

    Raises:
        ModelLoadError: it does.
    """
    top_T = logits_TV.amax(-1)  # −inf for some tokens is a model's right; NaN spreads to the top
    if not bool(top_T.isfinite().all()):
        what = "NaN" if bool(top_T.isnan().any()) else "an infinite number"
        raise ModelLoadError(
            f"{name} gives {what} on ordinary text",
            "its weights are damaged: train or copy it again (in float16, try --dtype bfloat16)",
        )


def switching_ids(model: object) -> list[int]:
    """Token ids that switch a model's adapter on (PEFT's aLoRA); none for any other."""
    config = getattr(model, "peft_config", {}).get("default")
    return list(getattr(config, "alora_invocation_tokens", None) or ())


def probe_ids(
    tokenizer: Tokenizer,
    style: PromptFormat,
    *,
    limit: int | None = None,
    condition: Sequence[int] = (),
) -> tuple[list[int], int]:
    """A question and its answer in a model's own template, and where the answer begins.

    Args:
        tokenizer: the model's.
        style: how a plain-text prompt is read.
        limit: tokens that the model reads.
        condition: ids that switch the model's adapter on; they go before the answer.
    """
    try:
        prompt, answer = response_ids(tokenizer, PROMPT, ANSWER, style)
    except TemplateError:  # it takes no answered question; users' own chats are another matter
        prompt, answer = response_ids(tokenizer, PROMPT, ANSWER, "raw")
    if len({*prompt, *answer}) < _DISTINCT:  # a vocabulary that does not spell English
        known = sorted({*tokenizer.get_vocab().values()} - {*tokenizer.all_special_ids})
        every = max(1, len(known) // _TOKENS)
        prompt, answer = known[::every][: _TOKENS // 2], known[::every][_TOKENS // 2 :]
        answer = answer or prompt
    length = max(min(_TOKENS, limit or _TOKENS), 2)
    prompt = prompt[: max(length // 2, 1)]
    ids = [*prompt, *condition, *answer][:length]
    return ids, min(len(prompt), len(ids) - 1)


@torch.no_grad()
def reference(
    model: CausalLM, ids: list[int], cut: int, *, name: str, source: str, noise: float | None = None
) -> Reference:
    """What a model computes by itself: the library's forward without a cache, and its noise.

    Args:
        model: a causal LM, with PEFT's adapter or without.
        ids: of the text.
        cut: where its second piece begins.
        name: of the model, for an error.
        source: the library.
        noise: nats, where it is known already (an adapter's is its backbone's); else it is
            measured, by a second forward.

    Raises:
        ModelLoadError: the model gives NaN.
    """
    logits_TV = own_forward(model, ids, name)
    if noise is None:
        noise = rms_gap(logits_TV.log_softmax(-1), _in_two(model, ids, cut).log_softmax(-1))
    return Reference(ids, cut, logits_TV, noise, model.dtype, source)


def own_forward(model: CausalLM, ids: Sequence[int], name: str) -> Tensor:
    """`forward`, with what goes wrong in it said in one line.

    Raises:
        ModelLoadError: it fails, or gives NaN.
    """
    try:
        logits_TV = forward(model, ids)
    except Exception as error:  # third-party model code raises anything
        if is_out_of_memory(error):
            raise
        raise ModelLoadError(
            f"{name} fails on ordinary text ({type(error).__name__}: {first_line(error)})",
            "does its tokenizer fit its embeddings, and its weights' type this machine?",
        ) from error
    require_numbers(logits_TV, name)
    return logits_TV


@torch.no_grad()
def forward(model: CausalLM, ids: Sequence[int]) -> Tensor:
    """Logits after each token, [T, V] float32, by the model's own forward without a cache."""
    batch = torch.tensor([list(ids)], device=model.device)
    logits: Tensor = model(
        input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False
    ).logits
    return logits[0, -len(ids) :].float()  # virtual tokens of a prompt adapter stand before


def _in_two(model: CausalLM, ids: list[int], cut: int) -> Tensor:
    """The same with the library's own cache; where it has none, the same without."""
    batch = torch.tensor([ids], device=model.device)
    pieces = []
    state: dict[str, Any] = {}
    for piece in (slice(0, cut), slice(cut, len(ids))):
        seen = torch.ones_like(batch[:, : piece.stop])
        try:
            output = model(input_ids=batch[:, piece], attention_mask=seen, use_cache=True, **state)
        except Exception:  # it takes no cache: there is nothing to learn about its noise
            return forward(model, ids)
        pieces.append(output.logits[0].float())
        name = cache_name({*output})
        if output.get(name) is None:
            return forward(model, ids)
        state = {name: output[name]}
    return torch.cat(pieces)[-len(ids) :]


def rms_gap(logp_TV: Tensor, other_TV: Tensor) -> float:
    """How far log-probs are apart, in nats: the root mean square over tokens that matter.

    Tokens weigh by their probability (the mean of both sides), positions alike. A token that only
    one side allows makes it infinite.
    """
    other_TV = other_TV.to(logp_TV.device)
    weight_TV = (logp_TV.exp() + other_TV.exp()) / 2
    gap_TV = logp_TV - other_TV
    gap_TV = gap_TV.where(logp_TV != other_TV, 0.0)  # −inf on both sides
    return float((weight_TV * gap_TV**2).nan_to_num(0.0, posinf=torch.inf).sum(-1).mean().sqrt())
