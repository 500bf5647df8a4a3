"""What changes a request's fused distribution before it is shaped: bias, penalties, form.

V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trimtab.engines.sampling import Sampling
from trimtab.errors import ConfigError
from trimtab.fusion import NEVER


class Form(Protocol):
    """What a response must be like, and how far it has come."""

    def copy(self) -> Form:
        """Another one that is as far."""

    def take(self, token: int) -> None:
        """The next token has been chosen."""

    def allowed(self) -> Tensor:
        """Tokens that may come next, [V] bool."""


class Restraint:
    """Of one request.

    Args:
        sampling: its bias and its penalties.
        form: what its response must be like.
    """

    def __init__(self, sampling: Sampling, form: Form | None = None) -> None:
        self._sampling, self._form = sampling, form
        self._counts: Counter[int] = Counter()

    def begun(self, ids: Sequence[int]) -> Restraint:
        """Of a response that has these tokens already."""
        begun = Restraint(self._sampling, self._form and self._form.copy())
        for token in ids:
            begun.take(token)
        return begun

    def take(self, token: int) -> None:
        """The next token has been chosen."""
        self._counts[token] += 1
        if self._form:
            self._form.take(token)

    def on(self, logp_V: Tensor) -> Tensor:
        """The distribution of the next token, [V] log-probs, from the fused one.

        Raises:
            ConfigError: no token is allowed.
        """
        allowed_V = self._form.allowed() if self._form else None
        if allowed_V is not None and not bool(allowed_V.any()):
            raise ConfigError("no token fits the response_format any more", "ask for text")
        found_V = restrained(logp_V, self._nats(), allowed_V)
        if allowed_V is not None and bool(found_V[0].isnan()) and not bool(logp_V[0].isnan()):
            raise ConfigError("no token that fits the response_format can come", "ask for text")
        return found_V

    def _nats(self) -> dict[int, float]:
        """Token -> what is added to its log-prob."""
        nats = dict(self._sampling.logit_bias)
        presence, frequency = self._sampling.presence_penalty, self._sampling.frequency_penalty
        if presence or frequency:
            for token, count in self._counts.items():
                nats[token] = nats.get(token, 0.0) - presence - frequency * count
        return nats


def restrained(logp_V: Tensor, nats: Mapping[int, float], allowed_V: Tensor | None) -> Tensor:
    """A distribution with nats added to some tokens' log-probs, and without those not allowed.

    Args:
        logp_V: log-probs, [V].
        nats: token id -> what is added.
        allowed_V: bool, [V]; None allows all.

    Returns:
        Normalised log-probs, [V]; NaN where none of the allowed tokens can be.
    """
    changed_V = logp_V.clone()
    if nats:
        ids = torch.tensor([*nats], device=logp_V.device)
        changed_V[ids] += torch.tensor([*nats.values()], device=logp_V.device)
    if allowed_V is not None:
        changed_V.masked_fill_(~allowed_V.to(logp_V.device), NEVER)
    return changed_V.log_softmax(-1)
