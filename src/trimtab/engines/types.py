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
    """

    prompt: Prompt
    preference: PreferenceLike | None = None
    strength: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class TokenReport:
    """One generated token and what each stream thought of it (log-probs in nats).

    Attributes:
        token_id: in the base's vocabulary.
        text: the token's own text.
        logp_base: under the base.
        rewards: objective -> the ARM's log-prob, which is the token's reward.
        logp_fused: under the fused distribution, before temperature and filters.
    """

    token_id: int
    text: str
    logp_base: float
    rewards: Mapping[str, float]
    logp_fused: float


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
    """

    text: str
    token_ids: Sequence[int]
    finish_reason: Literal["stop", "length"]
    preference: Mapping[str, float]
    strength: float
    tokens: Sequence[TokenReport] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed response. The last one carries the whole completion."""

    text: str
    completion: Completion | None = None
