"""Policies, which take the base's place, and the amateur of contrastive decoding, as users write
them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from trimtab.bounds import Bound
from trimtab.engines.guides import weighed
from trimtab.errors import ConfigError, PreferenceError
from trimtab.steering import STRONGEST, Combine

AMATEUR = "amateur"
"""The name of its stream."""
_PENALTY = Bound(Real, 0, STRONGEST, "0 or more")
_PLAUSIBLE = Bound(Real, 0, 1, "in [0, 1]")


@dataclass(frozen=True)
class Amateur:
    """A weak model whose preferences the base is to be free of (contrastive decoding).

    `log π(v) = log π_b(v) − c · log π_a(v) − log Z` where `π_b(v) >= α · max π_b` (Li et al., arXiv
    2210.15097; O'Brien and Lewis, arXiv 2309.09117).

    Attributes:
        model: folder, GGUF file or hub id of a whole model or an adapter.
        penalty: c.
        plausibility: α.
    """

    model: str
    penalty: float = 0.5
    plausibility: float = 0.1

    def __post_init__(self) -> None:
        _PENALTY.require("the amateur's penalty", self.penalty)
        _PLAUSIBLE.require("the amateur's plausibility", self.plausibility)
        if not isinstance(self.model, str) or not self.model.strip():
            raise ConfigError("the amateur is no model", "write --amateur MODEL")

    @classmethod
    def of(cls, given: Any, plausibility: float | None = None) -> Amateur:
        """From `MODEL` or `PENALTY:MODEL`.

        Raises:
            ConfigError: it is neither.
        """
        if isinstance(given, Amateur):
            return given
        penalty, model = weighed(str(given))
        known = {"penalty": penalty, "plausibility": plausibility}
        return cls(model, **{name: value for name, value in known.items() if value is not None})


def policies_of(policy: Mapping[str, str] | None, amateur: Amateur | str | None) -> dict[str, str]:
    """Name -> place of policies and of an amateur.

    Raises:
        ConfigError: a policy with the amateur's name.
    """
    if AMATEUR in (policy or {}):
        raise ConfigError(f"a policy is called {AMATEUR!r}", "that name is taken: give it another")
    weak = {} if amateur is None else {AMATEUR: Amateur.of(amateur).model}
    return {**{name: str(place) for name, place in (policy or {}).items()}, **weak}


def require_apart(policies: Collection[str], guides: Collection[str], combine: Combine) -> None:
    """Refuse policies beside guides: a policy is sampled from, a guide pulls.

    Args:
        policies: names of policies, and of an amateur.
        guides: names of ARMs, contrasts and instructions.
        combine: how several act.

    Raises:
        ConfigError: there are both, or a mean that guides do not have.
    """
    if policies and guides:
        raise ConfigError(
            f"the policy {next(iter(policies))} and the guide {next(iter(guides))} in one engine",
            "a guide pulls the base, a policy takes its place: name one kind "
            "(a policy as a guide: --contrast NAME=POLICY:BASE)",
        )
    if AMATEUR in policies and len(policies) > 1:
        raise ConfigError("policies and an amateur in one engine", "name one kind")
    if AMATEUR in policies and combine != "fusion":
        raise ConfigError(f"--combine {combine} with an amateur", "there is nothing to combine")
    if combine == "forward-kl" and not policies:
        raise ConfigError("--combine forward-kl without policies", "name them with --policy")


def require_share(strength: float, policies: Collection[str], whose: str = "a policy") -> None:
    """Refuse more of a policy than there is.

    Args:
        strength: of a request.
        policies: names of policies.
        whose: they are, for the message.

    Raises:
        PreferenceError: a strength above 1 where there are policies.
    """
    if policies and strength > 1:
        raise PreferenceError(
            f"strength {strength:g} with {whose}", "use 0 (the base) to 1 (the policy)"
        )
