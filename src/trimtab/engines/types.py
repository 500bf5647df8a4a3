"""What goes into an engine and what comes out. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Literal, TypedDict

from trimtab.bounds import Bound
from trimtab.engines.guides import ContrastLike, InstructionLike
from trimtab.engines.policies import Amateur
from trimtab.engines.sampling import Sampling, nth_seed
from trimtab.errors import ConfigError
from trimtab.models.messages import Prompt
from trimtab.models.types import DType, PromptFormat, Quantization
from trimtab.steering import Combine, PreferenceLike, Steering, require_limits

_ALTERNATIVES = Bound(Integral, 0, 20, "a whole number, 0 to 20")


Speculate = Literal["off", "on", "auto"]
"""Whether tokens are drafted and verified; `auto` does so only while it saves time."""

FinishReason = Literal["stop", "length", "cancelled", "error"]
"""End of turn or stop text; `max_new_tokens`; the caller went away; something went wrong with this
request alone."""


class LoadSettings(TypedDict, total=False):
    """What `trimtab.load` takes beside base and ARMs."""

    dtype: DType
    device: str | None
    prompt_format: PromptFormat
    trust_remote_code: list[str]
    revisions: dict[str, str]
    draft: str | None
    max_length: int | None
    cache_memory: int | str | None
    quantization: Quantization | None
    combine: Combine
    describe: dict[str, str]
    instruct: Mapping[str, InstructionLike]
    contrast: Mapping[str, ContrastLike]
    policy: Mapping[str, str]
    amateur: Amateur | str | None


@dataclass(frozen=True)
class Request:
    """One prompt with its own preference, strength and sampling.

    Attributes:
        prompt: text, chat messages that end with the user's turn, or token ids of the base, which
            every stream reads as they are.
        preference: weight per objective; None weighs all alike.
        strength: how hard the guide pulls; 0 is the base exactly.
        sampling: how tokens are chosen.
        kl_budget: nats per token; the strength is lowered, token by token, so that the KL
            divergence of the steered distribution from the base's, before temperature and
            filters, stays within it.
        gate: tokens for which the base gives one token more than this probability come from the
            base alone, and ARMs with their own backbone are not run for them.
        report: tell what base and ARMs thought of every token; all ARMs are run for it.
        speculate: draft tokens and verify several in one pass; the tokens stay the same.
        n: answers to draw, with seeds that follow from the request's; they share its reading.
        instructions: name -> another text, or `{"text": ..., "weight": ...}`, for an instruction
            that the engine was loaded with; what is left out is the engine's.
        alternatives: likeliest tokens that a report tells of in each place, 0 to 20.
    """

    prompt: Prompt | Sequence[int]
    preference: PreferenceLike | None = None
    strength: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    kl_budget: float | None = None
    gate: float | None = None
    report: bool = False
    speculate: Speculate = "off"
    n: int = 1
    instructions: Mapping[str, InstructionLike] | None = None
    alternatives: int = 5

    def __post_init__(self) -> None:
        require_limits(self.kl_budget, self.gate)
        _ALTERNATIVES.require("alternatives", self.alternatives)
        if not isinstance(self.n, int) or self.n < 1:
            raise ConfigError(f"n is {self.n!r}", "it must be a whole number, 1 or more")

    def samples(self) -> list[Request]:
        """One request per answer."""
        if self.n == 1:
            return [self]
        seed = self.sampling.seed
        return [
            replace(
                self,
                n=1,
                sampling=self.sampling
                if seed is None
                else self.sampling.but(seed=nth_seed(seed, i)),
            )
            for i in range(self.n)
        ]

    def steering(self, objectives: Sequence[str]) -> Steering:
        """Preference, strength, budget and gate together, against what an engine can steer to.

        Raises:
            PreferenceError: as `Steering.of`.
        """
        return Steering.of(objectives, self.preference, self.strength, self.kl_budget, self.gate)


@dataclass(frozen=True)
class Alternative:
    """A token that could have come, and what each stream thought of it (log-probs in nats).

    Attributes:
        token_id: in the base's vocabulary.
        text: the token's own text, a space before a word included; of part of a character U+FFFD.
        logp_base: under the base.
        rewards: objective -> the ARM's log-prob; empty where the gate left the ARMs out.
        logp_fused: under the fused distribution, before temperature and filters.
    """

    token_id: int
    text: str
    logp_base: float
    rewards: Mapping[str, float]
    logp_fused: float


@dataclass(frozen=True)
class TokenReport(Alternative):
    """One generated token, and what each stream thought of it (log-probs in nats).

    Attributes:
        mean_rewards: objective -> the mean of the ARM's log-prob under the base's distribution at
            this place, over the tokens that the ARM can give. A reward is low for any rare token;
            less this mean it says what the ARM changes.
        alternatives: the likeliest tokens of the fused distribution, best first.
        strength: what was used of the request's strength under its budget and gate.
        kl: divergence of the fused distribution from the base's, nats.
    """

    mean_rewards: Mapping[str, float] = field(default_factory=dict)
    alternatives: Sequence[Alternative] = ()
    strength: float = 1.0
    kl: float = 0.0

    @property
    def advantages(self) -> dict[str, float]:
        """Objective -> the token's reward less its mean under the base, nats."""
        return {name: reward - self.mean_rewards[name] for name, reward in self.rewards.items()}


@dataclass(frozen=True)
class Likelihood:
    """How likely a given response is, token by token; log-probs in nats.

    Attributes:
        token_ids: of the response, in the base's vocabulary.
        logp_fused: of each token under the fused distribution, before temperature and filters.
        logp_base: under the base.
        greedy: whether it is the fused distribution's likeliest token.
        kl: divergence of the fused distribution from the base's in its place.
        preference: the normalised weights that were used.
        strength: the strength that was used.
        rewards: guide -> what it gives each token, where that was wanted.
    """

    token_ids: Sequence[int]
    logp_fused: Sequence[float]
    logp_base: Sequence[float]
    greedy: Sequence[bool]
    kl: Sequence[float]
    preference: Mapping[str, float]
    strength: float
    rewards: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Log-prob of the whole response under the fused distribution; 0 without tokens."""
        return math.fsum(self.logp_fused)

    @property
    def total_base(self) -> float:
        """Log-prob of the whole response under the base; 0 without tokens."""
        return math.fsum(self.logp_base)

    @property
    def nll(self) -> float:
        """Nats per token under the fused distribution; NaN without tokens."""
        return self._per_token(-self.total)

    @property
    def base_nll(self) -> float:
        """Nats per token under the base; NaN without tokens."""
        return self._per_token(-self.total_base)

    @property
    def mean_kl(self) -> float:
        """Of all places; NaN without tokens."""
        return self._per_token(math.fsum(self.kl))

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would give this response, as far as it goes."""
        return all(self.greedy)

    def _per_token(self, total: float) -> float:
        return total / len(self.token_ids) if self.token_ids else math.nan


@dataclass(frozen=True)
class Cost:
    """What a search took for one answer.

    Attributes:
        base_tokens: tokens that the base read or proposed.
        guide_tokens: tokens that all guides' streams read.
        reward_tokens: tokens that reward models read.
        base_passes: passes of the base's weights, as many as the answer takes by itself.
        reward_passes: passes of reward models' weights, likewise.
    """

    base_tokens: int
    guide_tokens: int
    reward_tokens: int
    base_passes: int
    reward_passes: int


@dataclass(frozen=True)
class Completion:
    """One finished response.

    Attributes:
        text: without the end-of-turn token and without the stop text.
        token_ids: every token generated, the end-of-turn token included.
        finish_reason: `stop` (end of turn or stop text), `length`, `cancelled` or `error`.
        preference: the normalised weights that were used.
        strength: the strength that was used.
        tokens: a report per token, when asked for.
        gated: tokens that came from the base alone because of the gate.
        drafted: tokens that speculation proposed.
        accepted: those of them that were kept.
        kl: nats per token that the fused distributions were from the base's, before temperature
            and filters; 0 of the base alone.
        seed: that the tokens were drawn with.
        error: what went wrong, where `finish_reason` is `error`.
        refused: whether that is the request's own fault.
        reward: what a search method thinks of it.
        cost: what a search method took for it.
        details: what else a search method says of it.
    """

    text: str
    token_ids: Sequence[int]
    finish_reason: FinishReason
    preference: Mapping[str, float]
    strength: float
    tokens: Sequence[TokenReport] = ()
    gated: int = 0
    drafted: int = 0
    accepted: int = 0
    kl: float = 0.0
    seed: int = 0
    error: str = ""
    refused: bool = False
    reward: float | None = None
    cost: Cost | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """A piece of a response. The last one carries the whole completion.

    Attributes:
        text: that is released by it; a character or a possible stop text is held back until it is
            whole.
        token_ids: new tokens.
        tokens: a report per new token, when asked for.
        completion: at the end.
        index: of a request's `n` answers.
    """

    text: str = ""
    token_ids: Sequence[int] = ()
    tokens: Sequence[TokenReport] = ()
    completion: Completion | None = None
    index: int = 0
