"""Log-probs of response tokens: the same numbers as the plain model, less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from oracle import word_tokenizer
from rounding import NATS, close, nats
from torch import Tensor

from trimtab.arms.check import check_rewards
from trimtab.arms.logprobs import response_logp
from trimtab.arms.rewards import ArmRewards
from trimtab.data.collate import PairCollator
from trimtab.data.tokenize import TokenPair
from trimtab.errors import ConfigError
from trimtab.models.padding import Side, pad_rows

V = 40
COMMON: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "pad_token_id": 0,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**COMMON),
    "gemma2 (soft cap)": lambda: transformers.Gemma2Config(
        **COMMON, head_dim=8, final_logit_softcapping=2.0, sliding_window=16
    ),
    "cohere (scale)": lambda: transformers.CohereConfig(**COMMON, logit_scale=0.25),
    "granite (divisor)": lambda: transformers.GraniteConfig(**COMMON, logits_scaling=8.0),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.4
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        **{k: v for k, v in COMMON.items() if k != "num_key_value_heads"}
    ),
}
ROWS = [
    ([5, 6, 7], [8, 9, 10, 11]),
    ([12], [13, 14]),
    ([15, 16, 17, 18, 19, 20], [21]),
    ([22, 23], [24, 25, 26, 27, 28, 29]),
]


def build(name: str) -> Any:
    torch.manual_seed(1)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()


def by_hand(model: Any) -> list[float]:
    """Every row alone through the plain model; its own log-softmax, gathered token by token."""
    found = []
    with torch.no_grad():
        for prompt, response in ROWS:
            ids = prompt + response
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            found += [float(logp[i - 1, ids[i]]) for i in range(len(prompt), len(ids))]
    return found


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_numbers_are_the_plain_models(name: str, chunk: int) -> None:
    model = build(name)
    check_rewards(model, word_tokenizer(V), "raw", name="the model")
    with torch.no_grad():
        logp, row = response_logp(model, pad_rows(ROWS, 0), chunk=chunk)
    assert logp.dtype == torch.float32
    assert logp.tolist() == nats(by_hand(model))
    assert row.tolist() == [0] * 4 + [1] * 2 + [2] + [3] * 6


@pytest.mark.parametrize("name", CONFIGS)
def test_padding_may_stand_on_either_side(name: str) -> None:
    model = build(name)
    with torch.no_grad():
        left, _ = response_logp(model, pad_rows(ROWS, 0, "left"))
        right, _ = response_logp(model, pad_rows(ROWS, 0, "right"))
    assert left.tolist() == nats(right.tolist())
    assert left.tolist() == nats(by_hand(model))


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_gradients_are_the_plain_models(chunk: int) -> None:
    """Backwards through the chunks gives what backwards through all logits at once gives."""
    model, plain = build("llama"), build("llama")
    logp, row = response_logp(model, pad_rows(ROWS, 0), chunk=chunk)
    factors = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (logp * factors[row]).sum().backward()

    total = torch.zeros(())
    for (prompt, response), factor in zip(ROWS, factors, strict=True):
        ids = torch.tensor([prompt + response])
        logits = plain(ids).logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])
        total = total + factor * logits[:, len(prompt) - 1 :].sum()
    total.backward()
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        close(ours.grad, theirs.grad, what=name)


@pytest.mark.parametrize("chunk", [1, 3, 5, 1000])
@pytest.mark.parametrize("grad", [True, False])
def test_the_head_never_sees_more_than_a_chunk(chunk: int, grad: bool) -> None:
    """13 response tokens: no call of the LM head has more rows than the chunk, forward or
    backward, and no prompt token goes through it (13 in all, and 13 again to recompute)."""
    model = build("llama")
    sizes: list[int] = []
    model.lm_head.register_forward_hook(lambda m, i, out: sizes.append(out.numel() // V))
    with torch.set_grad_enabled(grad):
        logp, _ = response_logp(model, pad_rows(ROWS, 0), chunk=chunk)
        assert sum(sizes) == len(logp) == 13
        if grad:
            logp.sum().backward()
            assert sum(sizes) == 26
    assert max(sizes) <= min(chunk, 13)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_unlike_length_are_not_padded_to_each_other(side: Side) -> None:
    """Rows of 12, 12, 3 and 3 tokens: 2 x 12 + 2 x 3 positions, and not 4 x 12.

    Three rows of 12 and one of 11 stay together: one pass less is worth the one position.
    """
    model = build("llama")
    seen: list[int] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    long, short = ([5] * 9, [6, 7, 8]), ([5], [6, 7])
    mixed = [long, short, long, short]
    together, row = response_logp(model, pad_rows(mixed, 0, side))
    assert sum(seen) == 30
    assert row.tolist() == [0] * 3 + [1] * 2 + [2] * 3 + [3] * 2
    alone = [response_logp(model, pad_rows([one], 0, side))[0] for one in mixed]
    close(together, torch.cat(alone))
    seen.clear()
    response_logp(model, pad_rows([long, long, long, ([5] * 8, [6, 7, 8])], 0, side))
    assert seen == [48]


@pytest.mark.parametrize("chunk", [3, 1000])
def test_a_frozen_head_gives_the_same_gradients(chunk: int) -> None:
    """Its gradient is made in the forward pass; the body's must be those of a trainable head."""
    frozen, plain = build("llama"), build("llama")
    frozen.lm_head.weight.requires_grad_(False)
    factors = torch.linspace(-1, 2, 13)
    for model in (frozen, plain):
        logp, _ = response_logp(model, pad_rows(ROWS, 0), chunk=chunk)
        (factors * logp).sum().backward()
    assert frozen.lm_head.weight.grad is None
    for (name, ours), theirs in zip(frozen.named_parameters(), plain.parameters(), strict=True):
        if name != "lm_head.weight":
            close(ours.grad, theirs.grad, what=name)


def test_logits_are_not_kept_for_the_backward_pass() -> None:
    """Of what autograd keeps, nothing has [chunk, V] or more numbers except the head's weights."""
    model = build("llama")
    kept: list[torch.Size] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        response_logp(model, pad_rows(ROWS, 0), chunk=4)
    assert torch.Size([4, V]) not in kept
    assert torch.Size([13, V]) not in kept
    assert kept


def test_an_unknown_change_after_the_head_is_refused() -> None:
    class Odd(transformers.LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, *args: Any, **options: Any) -> Any:
            output = super().forward(*args, **options)
            output.logits = output.logits * 1.5
            return output

    torch.manual_seed(1)
    odd = Odd(transformers.LlamaConfig(**COMMON))
    with pytest.raises(ConfigError, match=r"rewards of the model .* nats a token off"):
        check_rewards(odd, word_tokenizer(V), "raw", name="the model")


def longrope() -> Any:
    """Short up to 12 tokens; beyond, every feature is turned at another speed."""
    torch.manual_seed(2)
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 12,
        "short_factor": [1.0, 1.3, 1.1, 2.0], "long_factor": [2.0, 7.0, 3.0, 9.0], "factor": 4.0,
    }  # fmt: skip
    config = transformers.Phi3Config(
        **{**COMMON, "num_key_value_heads": 2},
        rope_parameters=rope,
        original_max_position_embeddings=12,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.Phi3ForCausalLM(config).eval()


def test_a_long_neighbour_does_not_change_a_short_row() -> None:
    """transformers turns all rows of a forward by the longest; each is scored as if alone."""
    model = longrope()
    rows = [([5, 6, 7], [8, 9]), ([*range(10, 24)], [25, 26, 27]), ([30], [31])]
    with torch.no_grad():
        together, row = response_logp(model, pad_rows(rows, 0))
        alone = [response_logp(model, pad_rows([one], 0))[0] for one in rows]
        batch = pad_rows(rows, 0)
        mixed = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert row.tolist() == [0, 0, 1, 1, 1, 2]
    assert together.tolist() == pytest.approx(torch.cat(alone).tolist(), abs=1e-4)
    naive = mixed.log_softmax(-1)[0, 2, 8]
    assert abs(float(naive) - float(together[0])) > 1e-2  # the fault that this is about


def test_rows_that_cannot_be_read_in_two_forwards_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trimtab.arms.logprobs.is_distributed", lambda: True)
    rows = [([5, 6, 7], [8, 9]), ([*range(10, 24)], [25, 26, 27])]
    with pytest.raises(ConfigError, match="--max-length 12"):
        response_logp(longrope(), pad_rows(rows, 0))


def test_rewards_of_pairs() -> None:
    """Two pairs make four rows, chosen first; a reward is a sum, or a mean per token."""
    model = build("llama")
    pairs = [
        TokenPair(ROWS[0][0], ROWS[0][1], ROWS[1][1]),
        TokenPair(ROWS[3][0], ROWS[3][1], ROWS[2][1]),
    ]
    sides = [pairs[0].chosen_ids, pairs[1].chosen_ids, pairs[0].rejected_ids, pairs[1].rejected_ids]
    prompts = [pairs[0].prompt_ids, pairs[1].prompt_ids] * 2
    sums = []
    with torch.no_grad():
        for prompt, response in zip(prompts, sides, strict=True):
            logp = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(response) - 1)
            sums.append(sum(float(logp[i, t]) for i, t in zip(places, response, strict=True)))
        batch = PairCollator(0)(pairs)
        assert ArmRewards(3)(model, batch).tolist() == pytest.approx(sums, abs=6 * NATS)
        means = [s / len(r) for s, r in zip(sums, sides, strict=True)]
        assert ArmRewards(3, True)(model, batch).tolist() == nats(means)
