"""How tokens are chosen from the fused distribution. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from typing import Any

from trimtab.bounds import TINY, Bound
from trimtab.errors import ConfigError

_SAMPLING = {
    "max_new_tokens": Bound(Integral, 1, 2**31 - 1, "a whole number, 1 to 2147483647"),
    "temperature": Bound(Real, 1e-6, 1e6, "0 (greedy), or 0.000001 to 1000000", zero=True),
    "top_k": Bound(Integral, 0, 2**31 - 1, "a whole number, 0 (all) to 2147483647"),
    "top_p": Bound(Real, TINY, 1, "in (0, 1]"),
    "min_p": Bound(Real, 0, 1, "in [0, 1]"),
    "seed": Bound(Integral, -(2**63), 2**63 - 1, "a whole number of 64 bits"),
    "presence_penalty": Bound(Real, -2, 2, "-2 to 2"),
    "frequency_penalty": Bound(Real, -2, 2, "-2 to 2"),
}
_RESTRAINING = ("logit_bias", "presence_penalty", "frequency_penalty", "response_format")
_BIAS = Bound(Real, -100, 100, "-100 to 100")


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen from the fused distribution.

    Attributes:
        max_new_tokens: tokens a response may have at most.
        temperature: divides the fused log-probs; 0 is greedy.
        top_k: keep this many of the likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with this much mass; 1 keeps all.
        min_p: keep tokens with at least this share of the largest probability; 0 keeps all.
        seed: the same seed gives the same tokens, in float32 whatever else is in the batch; in half
            precision the batch's shape rounds otherwise. None draws one.
        stop: texts that end a response; they are not part of it.
        ignore_eos: go on after the end-of-turn token (for timing).
        logit_bias: token id of the base -> nats added to its fused log-prob, -100 to 100.
        presence_penalty: nats taken from every token that the response has already, -2 to 2.
        frequency_penalty: the same for each time that it has it.
        response_format: what the response must be, as OpenAI writes it: `{"type": "json_object"}`,
            or `{"type": "json_schema", "json_schema": {"schema": {...}}}`. Tokens that cannot
            lead there are never chosen.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    response_format: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if not all(isinstance(stop, str) for stop in self.stop):
            raise ConfigError(f"stop is {self.stop!r}", "it must be a text, or several")
        for name, bound in _SAMPLING.items():
            if name != "seed" or self.seed is not None:
                bound.require(name, getattr(self, name))
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or token < 0:
                raise ConfigError(f"logit_bias names {token!r}", "it takes token ids of the base")
            _BIAS.require(f"logit_bias of token {token}", bias)
        if self.response_format is not None and self.ignore_eos:
            raise ConfigError("ignore_eos with a response_format", "what is complete must end")

    @property
    def restrained(self) -> bool:
        """Whether tokens are chosen from another distribution than the fused one."""
        penalties = self.presence_penalty or self.frequency_penalty
        return bool(self.logit_bias or penalties or self.response_format is not None)

    @classmethod
    def given(cls, **options: Any) -> Sampling:
        """Of those options that are not None; the others are at their defaults."""
        return cls().but(**{name: value for name, value in options.items() if value is not None})

    def written(self) -> dict[str, Any]:
        """As a run writes it down: restraints only where there are some, and no `ignore_eos`."""
        every = asdict(self)
        unset = [name for name in _RESTRAINING if not every[name]]
        return {name: v for name, v in every.items() if name not in (*unset, "ignore_eos")}

    def further(self, number: int) -> Sampling:
        """With a seed that is so much larger; without one, as it is."""
        return self if self.seed is None else replace(self, seed=self.seed + number)

    def but(self, **changes: Any) -> Sampling:
        """A copy with some settings changed; an unknown name is a `ConfigError`."""
        unknown = set(changes) - set(self.__dataclass_fields__)
        if unknown:
            raise ConfigError(
                f"unknown sampling option {sorted(unknown)[0]!r}",
                f"the options are: {', '.join(self.__dataclass_fields__)}",
            )
        return replace(self, **changes)


def nth_seed(seed: int, sample: int) -> int:
    """The seed of a request's further answers: far from those of the prompts beside it."""
    return (seed + 2**63 + sample * 0x9E3779B97F4A7C15) % 2**64 - 2**63
