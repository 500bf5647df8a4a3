"""The specification, run on an engine's own models: what every fast path is compared with."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import make_model
from rounding import NATS, nats
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from trimtab import fusion
from trimtab.arms.adapter import AdapterWeights, LowRank
from trimtab.engines import reference
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.graphs import Captured, Function
from trimtab.engines.local.streams import Stream
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Likelihood, Request
from trimtab.models.vocabulary import VocabularyMap

GREEDY = Sampling(max_new_tokens=8, temperature=0, ignore_eos=True)
QKV = ("q_proj", "k_proj", "v_proj")


def next_logits(stream: Stream, inner: Sequence[float] = (1.0,)) -> reference.NextLogits:
    """A stream's logits over the base's ids: one row, no cache, no padding, read from the start.

    Args:
        stream: base or ARM.
        inner: the preference inside a conditioned ARM.
    """
    model = whole_model(stream, inner)
    return lambda ids: _own_row(stream, model, ids)[_own_of_base(stream)]


def next_logp(stream: Stream, ids: list[int], inner: Sequence[float] = (1.0,)) -> Tensor:
    """A stream's log-probs of the base's ids: the softmax runs over its own tokens, each once."""
    row = _own_row(stream, whole_model(stream, inner), ids)
    return row.log_softmax(-1)[_own_of_base(stream)]


def _own_row(stream: Stream, model: Any, ids: list[int]) -> Tensor:
    moved = dict(stream.vocabulary.own_id)
    own = torch.tensor([[moved.get(i, i) for i in ids]], device=model.device)
    with torch.no_grad():
        logits: Tensor = model(input_ids=own, use_cache=False).logits[0, -1]
    return logits[: stream.vocabulary.own_size].float().cpu()


def whole_model(stream: Stream, inner: Sequence[float] = (1.0,)) -> Any:
    """A stream's model by itself: its low-rank terms added to weights and biases, dense."""
    if stream.adapter is None:
        return stream.model
    model = copy.deepcopy(stream.model)
    for name, term in stream.adapter.layers.items():
        add_dense(model.get_submodule(name), *dense(term, stream.adapter.coefficients(inner)))
    return model


def dense(term: LowRank, inner: Sequence[float]) -> tuple[Tensor, Tensor | None]:
    """ΔW and its bias for one preference: those of the single objectives, averaged by it."""
    weights = [
        term.b @ term.a if term.gain is None else term.b @ gain.diag().to(term.a) @ term.a
        for gain in (inner if term.gain is None else term.gain)
    ]
    update = sum(p * weight for p, weight in zip(inner, weights, strict=True))
    if term.shift is None:
        return update, None  # type: ignore[return-value]
    biases = [term.b @ shift.to(term.b) for shift in term.shift]
    return update, sum(p * bias for p, bias in zip(inner, biases, strict=True))  # type: ignore[return-value]


def add_dense(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Add to a linear layer what an adapter comes to; [out, in] and [out]."""
    layer.weight.data += weight.t() if isinstance(layer, Conv1D) else weight
    if bias is not None:
        own = 0.0 if layer.bias is None else layer.bias.detach()
        layer.bias = torch.nn.Parameter(own + bias.to(layer.weight))


def _own_of_base(stream: Stream) -> Tensor:
    moved = dict(stream.vocabulary.own_id)
    return torch.tensor([moved.get(i, i) for i in range(stream.vocabulary.size)])


def specified(engine: LocalEngine, request: Request) -> list[int]:
    """The tokens that the specification gives for a request."""
    base, *guides = specification(engine, request)
    weights, forward_kl = engine.plan(request).weights, engine.forward_kl
    return reference.generate(
        base, guides, weights, request.sampling, [*engine.ends], forward_kl=forward_kl
    )


def specification(engine: LocalEngine, request: Request) -> list[reference.Stream]:
    """Base and guides as the specification takes them; a draft model has no part in it."""
    conditions = engine.plan(request).conditions
    given = request.instructions or {}

    def told(arm: Stream) -> str:
        own: Any = given.get(arm.name, {})
        return own if isinstance(own, str) else own.get("text", arm.instruction)

    def specify(stream: Stream) -> reference.Stream:
        return reference.Stream(
            next_logits(stream, conditions.get(stream.name, (1.0,))),
            stream.prompt_ids(request.prompt),
            specify(stream.reference) if stream.reference else None,
            stream.amateur,
        )

    guides = [replace(arm, instruction=told(arm)) for arm in engine.arms]
    return [specify(stream) for stream in (engine.base, *guides)]


def is_specified(engine: LocalEngine, request: Request, ids: Sequence[int]) -> bool:
    """Whether tokens are the specification's, or another choice only where rounding decides.

    That is a greedy token within `NATS` of the likeliest, and a drawn one whose share of [0, 1)
    begins or ends within `NATS` of the random number. Each token is judged after those before it.
    """
    s = request.sampling
    ended = not s.ignore_eos and bool(ids) and ids[-1] in engine.ends
    return is_beginning(engine, request, ids) and (len(ids) == s.max_new_tokens or ended)


def is_beginning(engine: LocalEngine, request: Request, ids: Sequence[int]) -> bool:
    """Whether tokens are the first ones of what is specified, likewise."""
    return all(
        any(
            _is_near(request.sampling, logp, t, token)
            for logp in _allowed_logps(engine, request, list(ids[:t]))
        )
        for t, token in enumerate(ids)
    )


def _is_near(s: Sampling, logp: Tensor, t: int, token: int) -> bool:
    """Whether a token is chosen; for filters, too, when each log-prob may be `NATS` from here."""
    generator = torch.Generator().manual_seed(t)
    moved = (2 * torch.rand(16, len(logp), generator=generator) - 1) * NATS
    filters = s.temperature > 0 and (s.top_k > 0 or s.top_p < 1 or s.min_p > 0)
    return _is_chosen(s, logp, t, token) or (
        filters and any(_is_chosen(s, logp + by, t, token) for by in moved)
    )


def _is_chosen(s: Sampling, logp: Tensor, t: int, token: int) -> bool:
    row = [torch.tensor([float(x)]) for x in (s.temperature, s.top_p, s.min_p)]
    [logp] = fusion.shape(logp[None], row[0], torch.tensor([s.top_k]), *row[1:])
    if s.temperature == 0:
        return bool(logp[token] >= logp.max() - NATS)
    ends = logp.double().exp().cumsum(-1)
    u = fusion.uniform(s.seed, t) * ends[-1]
    return bool(ends[token] - logp[token].double().exp() - NATS <= u < ends[token] + NATS)


def _allowed_logps(engine: LocalEngine, request: Request, generated: list[int]) -> list[Tensor]:
    """The fused log-probs, or those of either side where rounding opens the gate or not.

    A budget lets the strength be anything that spends a hundredth less, or all of it.
    """
    plan, gate, budget = engine.plan(request), request.gate, request.kl_budget
    if gate is None and budget is None:
        return [specified_logp(engine, request, generated)]
    streams = specification(engine, request)
    alone = streams[0].logp(generated)
    base, arms = alone[None], [guide.reward(generated, alone)[None] for guide in streams[1:]]
    weights, rewards = torch.tensor([plan.weights]), torch.stack(arms)
    if engine.forward_kl:
        rewards, weights = fusion.forward_mean(rewards, weights)
    sure = 0.0 if gate is None else float(base.max()) - math.log(gate)
    allowed = [base] if gate is not None and sure > -NATS else []
    for part in (0.99, 1.0) if gate is None or sure < NATS else ():
        most = torch.tensor([math.inf if budget is None else part * budget])
        share = fusion.strength_within(base, rewards, weights, most)
        allowed.append(fusion.fuse(base, rewards, weights * share[:, None]))
    return [logp[0] for logp in allowed]


def specified_logp(engine: LocalEngine, request: Request, generated: list[int]) -> Tensor:
    """The specification's fused log-probs after `generated`, [V]."""
    base, *guides = specification(engine, request)
    weights = engine.plan(request).weights
    return reference.next_logp(base, guides, generated, weights, forward_kl=engine.forward_kl)


def likelihood_is_specified(engine: LocalEngine, request: Request, found: Likelihood) -> None:
    """Every number of one response is the specification's; nothing is drawn, budget or gated."""
    ids = list(found.token_ids)
    base = specification(engine, request)[0]
    for t, token in enumerate(ids):
        logp, alone = specified_logp(engine, request, ids[:t]), base.logp(ids[:t])
        assert found.logp_fused[t] == nats(float(logp[token]))
        assert found.logp_base[t] == nats(float(alone[token]))
        assert found.kl[t] == nats(float(fusion.divergence(logp[None], alone[None])))
        if found.greedy[t] != (int(logp.argmax()) == token):  # a tie, but for rounding
            assert logp.topk(2).values.diff().abs() < NATS
    assert found.total == pytest.approx(sum(found.logp_fused))
    assert found.nll == pytest.approx(-sum(found.logp_fused) / len(ids))
    assert found.base_nll == pytest.approx(-sum(found.logp_base) / len(ids))


def word_tokenizer(size: int) -> Any:
    """One token per word: `w0 w1 …`; without a chat template and without an end of turn."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="w0")


def stream(
    name: str, seed: int, size: int, scale: float = 1.0, padding: int = 0, layers: int = 2
) -> Stream:
    """A random model over `size` words (and `padding` rows of its LM head) that takes part."""
    model = make_model(seed, size + padding, layers=layers)
    model.generation_config.eos_token_id = None
    tokenizer = word_tokenizer(size)
    return Stream(name, model, tokenizer, VocabularyMap(size, size), "raw", scale)


def engine_of(seeds: Sequence[int], size: int = 12) -> LocalEngine:
    """A random base (the first seed) and one random ARM per further seed: `a`, `b`, `c`, …"""
    base, *arms = seeds
    return LocalEngine(
        stream("base", base, size), [stream(chr(97 + i), s, size) for i, s in enumerate(arms)]
    )


def alone(engine: LocalEngine, *names: str) -> LocalEngine:
    """The same base with some of the ARMs, in the order named."""
    arms = {arm.name: arm for arm in engine.arms}
    return LocalEngine(engine.base, [arms[name] for name in names])


def with_lora(
    stream: Stream, name: str, seed: int, rank: int = 2, layers: tuple[str, ...] = QKV
) -> Stream:
    """A stream on the same model with random low-rank terms on the layers that are so called."""
    generator = torch.Generator().manual_seed(seed)
    terms = {
        key: LowRank(
            0.5 * torch.randn(rank, layer.in_features, generator=generator),
            0.5 * torch.randn(layer.out_features, rank, generator=generator),
        )
        for key, layer in stream.model.named_modules()
        if key.rpartition(".")[2] in layers
    }
    return replace(stream, name=name, adapter=AdapterWeights(terms))


def templated(stream: Stream, before: str) -> Stream:
    """The stream with a chat template that puts words before every prompt."""
    tokenizer = copy.deepcopy(stream.tokenizer)
    tokenizer.chat_template = before + " {{ messages[0]['content'] }}"
    return replace(stream, tokenizer=tokenizer, prompt_format="chat")


def with_head(stream: Stream, weight: Tensor, name: str = "base") -> Stream:
    """The stream with another LM head on the same body."""
    from trimtab.models.shared import share_weights

    model = share_weights(stream.model)
    model.lm_head.weight = torch.nn.Parameter(weight)
    return replace(stream, name=name, model=model)


@contextmanager
def changed_logits(engine: LocalEngine, name: str, change: Any) -> Iterator[None]:
    """Pass the logits of a stream with its own backbone through a function while the block runs."""
    [group] = [group for group in engine.groups if name in group.index]
    assert len(group.index) == 1
    heads = [group.lm.get_output_embeddings()]
    heads += [s.model.get_output_embeddings() for s in group.streams if s.model is not group.model]
    hooks = [head.register_forward_hook(lambda _, __, logits: change(logits)) for head in heads]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Captures:
    """Stands for `CudaCapture`: runs a function again, with the tensors that it was captured with.

    What does not come in through them is as old as the capture, as on a GPU. Counts both.
    """

    def __init__(self) -> None:
        self.made = self.replayed = 0

    def __call__(self, function: Function, inputs: Sequence[Tensor]) -> Captured:
        kept = [tensor.clone() for tensor in inputs]
        self.made += 1

        def replay(new: Sequence[Tensor]) -> Tensor:
            self.replayed += 1
            for tensor, values in zip(kept, new, strict=True):
                tensor.copy_(values)
            return function(*kept)

        return replay
