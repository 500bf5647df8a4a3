"""What goes into an engine and what comes out. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trimtab.data.pairs import Prompt
from trimtab.errors import ConfigError
from trimtab.steering import PreferenceLike


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen from the fused distribution.

    Attributes:
        max_new_tokens: tokens a response may have at most.
        temperature: divides the fused log-probs; 0 is greedy.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with this much mass; 1 keeps all.
        min_p: keep tokens with at least this share of the largest probability; 0 keeps all.
        seed: the same seed gives the same tokens, whatever else is in the batch.
        stop: texts that end a response; they are not part of it.
        ignore_eos: go on after the end-of-turn token (for timing).
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        bounds = (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
        )
        for name, good, hint in bounds:
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)}", f"it must be {hint}")

    def but(self, **changes: Any) -> Sampling:
        """A copy with some settings changed; an unknown name is a `ConfigError`."""
        unknown = set(changes) - set(self.__dataclass_fields__)
        if unknown:
            raise ConfigError(
                f"unknown sampling option {sorted(unknown)[0]!r}",
                f"the options are: {', '.join(self.__dataclass_fields__)}",
            )
        return replace(self, **changes)


@dataclass(frozen=True)
class Request:
    """One prompt with its own preference, strength and sampling.

    Attributes:
        prompt: text, or chat messages that end with the user's turn.
        preference: weight per objective; None weighs all alike.
        strength: how hard the guide pulls; 0 is the base exactly.
        sampling: how tokens are chosen.
        kl_budget: nats per token; the strength is lowered, token by token, so that the KL
            divergence of the steered distribution from the base's, before temperature and
            filters, stays within it.
        gate: tokens for which the base gives one token more than this probability come from the
            base alone, and ARMs with their own backbone are not run for them.
    """

    prompt: Prompt
    preference: PreferenceLike | None = None
    strength: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    kl_budget: float | None = None
    gate: float | None = None

    def __post_init__(self) -> None:
        if self.kl_budget is not None and not 0 <= self.kl_budget < math.inf:
            raise ConfigError(
                f"kl_budget is {self.kl_budget}", "it must be 0 nats or more; leave it out for none"
            )
        if self.gate is not None and not 0 < self.gate <= 1:
            raise ConfigError(f"gate is {self.gate}", "it must be a probability in (0, 1]")


@dataclass(frozen=True)
class TokenReport:
    """One generated token and what each stream thought of it (log-probs in nats).

    Attributes:
        token_id: in the base's vocabulary.
        text: the token's own text.
        logp_base: under the base.
        rewards: objective -> the ARM's log-prob, which is the token's reward; empty where the
            gate left the ARMs out.
        logp_fused: under the fused distribution, before temperature and filters.
        strength: what was used of the request's strength under its budget and gate.
        kl: divergence of the fused distribution from the base's, nats.
    """

    token_id: int
    text: str
    logp_base: float
    rewards: Mapping[str, float]
    logp_fused: float
    strength: float = 1.0
    kl: float = 0.0


@dataclass(frozen=True)
class Completion:
    """One finished response.

    Attributes:
        text: without the end-of-turn token and without the stop text.
        token_ids: every token generated, the end-of-turn token included.
        finish_reason: `stop` (end of turn or stop text) or `length`.
        preference: the normalised weights that were used.
        strength: the strength that was used.
        tokens: a report per token, when asked for.
        gated: tokens that came from the base alone because of the gate.
        drafted: tokens that speculation proposed.
        accepted: those of them that were kept.
    """

    text: str
    token_ids: Sequence[int]
    finish_reason: Literal["stop", "length"]
    preference: Mapping[str, float]
    strength: float
    tokens: Sequence[TokenReport] = ()
    gated: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed response. The last one carries the whole completion."""

    text: str
    completion: Completion | None = None
