"""The specification, run on an engine's own models: what every fast path is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from conftest import make_model
from torch import Tensor

from trimtab.arms.vocab import VocabularyMap
from trimtab.engines import reference
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.streams import Voice
from trimtab.engines.types import Request, Sampling

GREEDY = Sampling(max_new_tokens=8, temperature=0, ignore_eos=True)


def next_logits(voice: Voice) -> reference.NextLogits:
    """A voice's logits over the base's ids: one row, no cache, no padding, read from the start."""
    return lambda ids: _own_row(voice, ids)[_own_of_base(voice)]


def next_logp(voice: Voice, ids: list[int]) -> Tensor:
    """A voice's log-probs of the base's ids: the softmax runs over its own tokens, each once."""
    return _own_row(voice, ids).log_softmax(-1)[_own_of_base(voice)]


def _own_row(voice: Voice, ids: list[int]) -> Tensor:
    moved = dict(voice.vocabulary.own_id)
    own = torch.tensor([[moved.get(i, i) for i in ids]])
    with torch.no_grad():
        logits: Tensor = voice.model(input_ids=own, use_cache=False).logits[0, -1]
    return logits[: voice.vocabulary.own_size].float()


def _own_of_base(voice: Voice) -> Tensor:
    moved = dict(voice.vocabulary.own_id)
    return torch.tensor([moved.get(i, i) for i in range(voice.vocabulary.size)])


def specified(engine: LocalEngine, request: Request) -> list[int]:
    """The tokens that the specification gives for a request."""
    plan = engine.plan(request)
    arms = [next_logits(arm) for arm in engine.arms]
    return reference.generate(
        next_logits(engine.base), arms, plan.prompts, plan.weights, request.sampling, [*engine.ends]
    )


def specified_logp(engine: LocalEngine, request: Request, generated: list[int]) -> Tensor:
    """The specification's fused log-probs after `generated`, [V]."""
    plan = engine.plan(request)
    arms = [next_logits(arm) for arm in engine.arms]
    return reference.next_logp(
        next_logits(engine.base), arms, plan.prompts, generated, plan.weights
    )


def word_tokenizer(size: int) -> Any:
    """One token per word: `w0 w1 …`; without a chat template and without an end of turn."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="w0")


def voice(name: str, seed: int, size: int, scale: float = 1.0, padding: int = 0) -> Voice:
    """A random model over `size` words (and `padding` rows of its LM head) that takes part."""
    model = make_model(seed, size + padding)
    model.generation_config.eos_token_id = None
    tokenizer = word_tokenizer(size)
    return Voice(name, model, tokenizer, VocabularyMap(size, size), "raw", scale)


def engine_of(seeds: Sequence[int], size: int = 12) -> LocalEngine:
    """A random base (the first seed) and one random ARM per further seed: `a`, `b`, `c`, …"""
    base, *arms = seeds
    return LocalEngine(
        voice("base", base, size), [voice(chr(97 + i), s, size) for i, s in enumerate(arms)]
    )


def alone(engine: LocalEngine, *names: str) -> LocalEngine:
    """The same base with some of the ARMs, in the order named."""
    arms = {arm.name: arm for arm in engine.arms}
    return LocalEngine(engine.base, [arms[name] for name in names])


def with_head(voice: Voice, weight: Tensor, name: str = "base") -> Voice:
    """The voice with another LM head on the same body."""
    from trimtab.arms.load import share_weights

    model = share_weights(voice.model)
    model.lm_head.weight = torch.nn.Parameter(weight)
    return replace(voice, name=name, model=model)


@contextmanager
def changed_logits(voice: Voice, change: Any) -> Iterator[None]:
    """Pass a voice's logits through a function while the block runs."""
    hook = voice.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, logits: change(logits)
    )
    try:
        yield
    finally:
        hook.remove()
