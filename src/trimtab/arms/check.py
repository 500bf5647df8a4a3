"""Whether an ARM's rewards are what the library that owns its format computes."""

from __future__ import annotations

import torch

from trimtab.arms.logprobs import response_logp
from trimtab.errors import ConfigError
from trimtab.models.limits import context_limit
from trimtab.models.lm_head import causal_lm
from trimtab.models.padding import pad_rows
from trimtab.models.probe import floor, own_forward, probe_ids, switching_ids
from trimtab.models.protocols import CausalLM, Tokenizer
from trimtab.models.types import PromptFormat


@torch.no_grad()
def check_rewards(model: CausalLM, tokenizer: Tokenizer, style: PromptFormat, *, name: str) -> None:
    """Refuse a model whose rewards here are not what the library that owns its format computes.

    The log-probs of an ordinary answer by `response_logp` are compared with the model's own
    forward.

    Args:
        model: a causal LM, with or without an adapter (a conditioned one with its preference set).
        tokenizer: the model's.
        style: how it reads plain-text prompts.
        name: of the model, for an error.

    Raises:
        ModelLoadError: the model gives NaN.
        ConfigError: an architecture or an adapter whose rewards are others.
    """
    lm = causal_lm(model)
    limit = context_limit(lm.config)
    ids, cut = probe_ids(tokenizer, style, limit=limit, condition=switching_ids(model))
    was_training = model.training
    model.eval()
    logits_TV = own_forward(model, ids, name)
    batch = {k: v.to(lm.device) for k, v in pad_rows([(ids[:cut], ids[cut:])], ids[0]).items()}
    found_M, _ = response_logp(model, batch)
    model.train(was_training)
    target_M1 = torch.tensor(ids[cut:], device=logits_TV.device)[:, None]
    wanted_M = logits_TV.log_softmax(-1)[cut - 1 : -1].gather(-1, target_M1)[:, 0]
    gap = float((found_M - wanted_M).square().mean().sqrt())
    if not gap <= floor(lm.dtype):
        raise ConfigError(
            f"the rewards of {name} ({type(lm).__name__}) are not what its own forward gives: "
            f"{gap:.2g} nats a token off, where {floor(lm.dtype):.2g} are allowed",
            "merge an adapter into its base where it can be, or train a LoRA; report a whole model",
        )
