"""The specification: one row, no cache, every stream read from the start at every token.

Everything faster must give the same greedy tokens and, sampling, the same distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.policies import Amateur
from trimtab.engines.sampling import Sampling

NextLogits = Callable[[list[int]], Tensor]
"""Token ids so far -> logits of the next token, [V]."""


@dataclass(frozen=True)
class Stream:
    """A model and the prompt that it reads, in its own ids; of a guide perhaps its reference, or
    how the base is contrasted with it."""

    logits: NextLogits
    prompt: list[int]
    reference: Stream | None = None
    amateur: Amateur | None = None

    def logp(self, generated: list[int]) -> Tensor:
        """Log-probs of the next token, [V]."""
        return fusion.log_softmax(self.logits(self.prompt + generated))

    def reward(self, generated: list[int], logp_base: Tensor) -> Tensor:
        """What it gives as a guide, [V]."""
        if self.amateur:
            penalty, plausibility = self.amateur.penalty, self.amateur.plausibility
            return fusion.contrastive(logp_base, self.logp(generated), penalty, plausibility)
        if self.reference is None:
            return self.logp(generated)
        return fusion.contrast(self.logp(generated), self.reference.logp(generated))


def next_logp(
    base: Stream,
    guides: Sequence[Stream],
    generated: list[int],
    weights: Sequence[float],
    *,
    forward_kl: bool = False,
) -> Tensor:
    """Fused log-probs of the next token, [V]."""
    logp_base = base.logp(generated)
    rewards = [guide.reward(generated, logp_base) for guide in guides]
    stacked = torch.stack(rewards) if rewards else logp_base.new_zeros(0, len(logp_base))
    rewards_KBV, weights_BK = stacked[:, None], torch.tensor([list(weights)], dtype=torch.float32)
    if forward_kl:
        rewards_KBV, weights_BK = fusion.forward_mean(rewards_KBV, weights_BK)
    return fusion.fuse(logp_base[None], rewards_KBV, weights_BK)[0]


def generate(
    base: Stream,
    guides: Sequence[Stream],
    weights: Sequence[float],
    sampling: Sampling,
    ends: Sequence[int] = (),
    *,
    forward_kl: bool = False,
) -> list[int]:
    """Continue one prompt token by token until an end token or `max_new_tokens`."""
    assert sampling.seed is not None
    row = [torch.tensor([float(x)]) for x in (sampling.temperature, sampling.top_p, sampling.min_p)]
    temperature, top_p, min_p = row
    generated: list[int] = []
    while len(generated) < sampling.max_new_tokens:
        logp = next_logp(base, guides, generated, weights, forward_kl=forward_kl)[None]
        shaped = fusion.shape(logp, temperature, torch.tensor([sampling.top_k]), top_p, min_p)
        uniform = torch.tensor([fusion.uniform(sampling.seed, len(generated))], dtype=torch.float64)
        generated.append(int(fusion.choose(shaped, temperature, uniform)))
        if generated[-1] in ends and not sampling.ignore_eos:
            break
    return generated
