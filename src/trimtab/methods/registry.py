"""The methods by name, and what users may say of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any

from trimtab.engines.types import Request
from trimtab.entries import named_values
from trimtab.errors import ConfigError
from trimtab.methods.args import Args
from trimtab.methods.best_of_n import BestOfN
from trimtab.methods.cards import Cards
from trimtab.methods.cbs import ChunkBeamSearch
from trimtab.methods.controlled import BlockwiseDecoding, ControlledDecoding
from trimtab.methods.mcts import Mcts
from trimtab.methods.protocol import Method
from trimtab.methods.rejection import Rejection
from trimtab.methods.transfer_q import TransferQ
from trimtab.methods.vas import Vas

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        BestOfN,
        Rejection,
        Args,
        TransferQ,
        Cards,
        Vas,
        ControlledDecoding,
        BlockwiseDecoding,
        ChunkBeamSearch,
        Mcts,
    )
}


@dataclass(frozen=True)
class Chosen:
    """A method with its options.

    Attributes:
        method: the method.
        sampling: fields of `Sampling` for requests that say nothing of them.
    """

    method: Method
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def require(self, request: Request, *, by_guides: bool, forward_kl: bool) -> None:
        """Refuse what has no part in a search.

        Args:
            request: what is asked.
            by_guides: whether guides score.
            forward_kl: whether they are policies that act by the forward KL's mean.

        Raises:
            ConfigError: speculation, a report, further answers, or a restraint on tokens; where
                guides score, what says how they steer.
        """
        if request.sampling.restrained:
            raise ConfigError(
                f"{self.method.name} with a bias, a penalty or a response_format",
                "a search chooses by rewards alone: leave them out",
            )
        steers = request.strength not in (0, 1), request.kl_budget is not None, request.gate
        if by_guides and any(steers):
            raise ConfigError(
                f"the guides score in {self.method.name}: the base alone is drawn from",
                "leave --strength, --kl-budget and --gate out, or give --reward-model DIR",
            )
        if by_guides and forward_kl:
            raise ConfigError(
                f"--combine forward-kl where the policies score in {self.method.name}",
                "their rewards add up by preference: leave it out",
            )
        if request.speculate != "off" or request.report or request.n != 1:
            raise ConfigError(
                f"speculation, reports and further answers have no part in {self.method.name}",
                "leave --speculate, --report and n out",
            )


def choose(
    name: str | Method,
    options: Mapping[str, Any] | Sequence[str] = (),
    *,
    as_released: bool = False,
) -> Chosen:
    """A method from what a user wrote.

    Args:
        name: of the method, or the method itself.
        options: its options, or `NAME=VALUE` texts.
        as_released: take the authors' code for the defaults where it differs from the paper.

    Raises:
        ConfigError: no such method or option, or a value out of bounds.
    """
    if isinstance(name, Method):
        if options or as_released:
            raise ConfigError(f"{name.name} has its options already", "give no others")
        return Chosen(name, name.defaults)
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"do you mean {near[0]}?" if near else f"the methods are: {', '.join(METHODS)}"
        raise ConfigError(f"unknown method {name!r}", hint)
    kind = METHODS[name]
    own = set(kind.option_names())
    released = kind.released if as_released else {}
    given = {**{k: v for k, v in released.items() if k in own}, **_given(kind, options)}
    sampling = {**kind.defaults, **{k: v for k, v in released.items() if k not in own}}
    return Chosen(kind(**given), sampling)


def _given(kind: type[Method], options: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        options = named_values(
            options,
            unreadable=lambda entry: ConfigError(
                f"cannot read the option {entry!r} of {kind.name}", "write NAME=VALUE"
            ),
            twice=lambda name: ConfigError(f"{kind.name}'s {name} is given twice", "give it once"),
        )
    named = {name.replace("-", "_"): value for name, value in options.items()}
    for name in named:
        if name not in kind.option_names():
            raise _unknown(kind, name)
    return {name: _number(kind, name, value) for name, value in named.items()}


def _unknown(kind: type[Method], name: str) -> ConfigError:
    others = [other.name for other in METHODS.values() if name in other.option_names()]
    whose = f" (it is one of {', '.join(others)})" if others else ""
    return ConfigError(
        f"{kind.name} has no option {name!r}{whose}",
        f"its options are: {', '.join(kind.option_names())}",
    )


def _number(kind: type[Method], name: str, value: Any) -> Any:
    """A value that may be text; another one is left to the option's bounds."""
    if not isinstance(value, str):
        return value
    [bound] = [f.metadata["bound"] for f in fields(kind) if f.name == name]
    try:
        return int(value) if bound.kind is Integral else float(value)
    except ValueError:
        return value
