"""Guides that need no reward model, as users write them: contrasts and instructions.

Each gives the reward log π_i − log π_ref(i): a contrast that of a tuned model against an untuned
one, an instruction that of the base under it against the base itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from trimtab.bounds import Bound
from trimtab.entries import named_entries
from trimtab.errors import ConfigError, PreferenceError
from trimtab.steering import STRONGEST, Combine, require_name

REFERENCE = ".reference"
"""What the name of a guide's reference ends with, where that is a model of its own."""
START = ".start"
"""What the name of the model ends with that an ARM's training started from."""
_WEIGHT = Bound(Real, -STRONGEST, STRONGEST, f"-{STRONGEST:.0f} to {STRONGEST:.0f}, and not 0")
_PENALTY = Bound(Real, 0, STRONGEST, "0 or more")
_PLAUSIBLE = Bound(Real, 0, 1, "in [0, 1]")
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Instruction:
    """A text that steers the base towards what it would say under it (classifier-free guidance).

    Attributes:
        text: goes in as a system message, or before the prompt where a template has none.
        weight: multiplies the strength; a negative one steers away.
    """

    text: str
    weight: float = 1.0

    @classmethod
    def of(cls, name: str, given: Any, instead_of: Instruction | None = None) -> Instruction:
        """From `TEXT`, `WEIGHT:TEXT` or `{"text": TEXT, "weight": WEIGHT}`.

        Args:
            name: of the guide.
            given: as above.
            instead_of: whose text or weight holds where none is given.

        Raises:
            ConfigError: it is none of these.
        """
        if isinstance(given, Instruction):
            return given
        usage = f'write --instruct {name}="Use short words."'
        if isinstance(given, Mapping):
            values = _fields(given, {"text", "weight"}, f"the instruction {name!r}", usage)
            text, weight = values.get("text"), values.get("weight")
        elif isinstance(given, str):
            weight, text = _weighed(given)
        else:
            raise ConfigError(f"cannot read the instruction {name!r}", usage)
        text = instead_of.text if text is None and instead_of else text
        if weight is None:
            weight = instead_of.weight if instead_of else 1.0
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"the instruction {name!r} has no text", usage)
        return cls(text.strip(), _weight(name, weight))


@dataclass(frozen=True)
class Contrast:
    """A tuned and an untuned model: the difference of their log-probs is the reward.

    EFT (arXiv 2310.12962), proxy-tuning (arXiv 2401.08565), DExperts (arXiv 2105.03023).

    Attributes:
        tuned: folder, GGUF file or hub id of a whole model or an adapter.
        untuned: likewise; the base itself costs nothing more.
        weight: multiplies the strength; a negative one steers away.
    """

    tuned: str
    untuned: str
    weight: float = 1.0

    @classmethod
    def of(cls, name: str, given: Any) -> Contrast:
        """From `TUNED:UNTUNED`, `WEIGHT:TUNED:UNTUNED`, a pair of places, or a mapping of these.

        Raises:
            ConfigError: it is none of these.
        """
        if isinstance(given, Contrast):
            return given
        usage = f"write --contrast {name}=TUNED:UNTUNED"
        weight: Any = None
        if isinstance(given, Mapping):
            known = {"tuned", "untuned", "weight"}
            values = _fields(given, known, f"the contrast {name!r}", usage)
            places, weight = [values.get("tuned"), values.get("untuned")], values.get("weight")
        elif isinstance(given, str):
            weight, text = _weighed(given)
            places = [*text.split(":")]
        else:
            places = [*given] if isinstance(given, Sequence) else []
        if len(places) != 2 or not all(isinstance(p, str) and p.strip() for p in places):
            raise ConfigError(f"the contrast {name!r} is not of two models", usage)
        tuned, untuned = (str(place).strip() for place in places)
        return cls(tuned, untuned, _weight(name, 1.0 if weight is None else weight))


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
    def of(cls, given: Any, plausibility: float = 0.1) -> Amateur:
        """From `MODEL` or `PENALTY:MODEL`.

        Raises:
            ConfigError: it is neither.
        """
        if isinstance(given, Amateur):
            return given
        penalty, found = 0.5, _NUMBER.fullmatch(str(given))
        if found:
            penalty, given = float(found[1]), found[2]
        return cls(str(given), penalty, plausibility)


AMATEUR = "amateur"
"""The name of its stream."""
InstructionLike = str | Mapping[str, Any] | Instruction
ContrastLike = str | Sequence[str] | Mapping[str, Any] | Contrast


def instructions(
    given: Mapping[str, InstructionLike] | Iterable[str] | None,
) -> dict[str, Instruction]:
    """By name, from a mapping or from `NAME=[WEIGHT:]TEXT` entries.

    Raises:
        ConfigError: one that cannot be read.
    """
    example = 'plain="Use short words."'
    return {n: Instruction.of(n, g) for n, g in _named(given, "--instruct", example).items()}


def own_instructions(
    known: Mapping[str, Instruction], given: Mapping[str, InstructionLike] | None
) -> dict[str, Instruction]:
    """An engine's instructions as one request has them: text, weight or both are its own.

    Args:
        known: the engine's.
        given: the request's; what it leaves out is the engine's.

    Raises:
        ConfigError: a name that the engine does not have, or one that cannot be read.
    """
    if not isinstance(given, Mapping | None):
        raise ConfigError(
            f"instructions are {given!r}", 'write {"plain": "Use short words."}, name -> text'
        )
    for name in given or {}:
        if name not in known:
            raise ConfigError(
                f"no instruction is called {name!r}",
                f"there are: {', '.join(known) or 'none'}; a request may have other texts for "
                f"those that the engine was loaded with (--instruct {name}=...)",
            )
    own = {n: Instruction.of(n, g, known[n]) for n, g in (given or {}).items() if g is not None}
    return {**known, **own}


def contrasts(given: Mapping[str, ContrastLike] | Iterable[str] | None) -> dict[str, Contrast]:
    """By name, from a mapping or from `NAME=[WEIGHT:]TUNED:UNTUNED` entries.

    Raises:
        ConfigError: one that cannot be read.
    """
    example = "safe=TUNED:UNTUNED"
    return {n: Contrast.of(n, g) for n, g in _named(given, "--contrast", example).items()}


def models_of(contrasts: Mapping[str, Contrast]) -> dict[str, str]:
    """Name -> place of the models of contrasts: NAME and NAME.reference."""
    tuned = {name: contrast.tuned for name, contrast in contrasts.items()}
    return tuned | {name + REFERENCE: contrast.untuned for name, contrast in contrasts.items()}


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


def require_share(strength: float, policies: Collection[str]) -> None:
    """Refuse more of a policy than there is.

    Raises:
        PreferenceError: a strength above 1 where there are policies.
    """
    if policies and strength > 1:
        raise PreferenceError(
            f"strength {strength:g} with a policy", "use 0 (the base) to 1 (the policy)"
        )


def model_label(name: str, models: Collection[str], policies: Collection[str] = ()) -> str:
    """An engine's model, in messages: `ARM x`, `policy x`, `draft model`, `tuned model of x`.

    Args:
        name: the model's.
        models: names of all of them.
        policies: those of policies.
    """
    if name == "draft":
        return "draft model"
    if name.endswith(START):
        return f"model that the ARM {name.removesuffix(START)} started from"
    if name.endswith(REFERENCE):
        return f"untuned model of {name.removesuffix(REFERENCE)}"
    if name == AMATEUR:
        return AMATEUR
    if name in policies:
        return f"policy {name}"
    return f"tuned model of {name}" if name + REFERENCE in models else f"ARM {name}"


def require_distinct(*guides: Iterable[str]) -> None:
    """Refuse guides that could not be told apart.

    Args:
        guides: names of ARMs, of contrasts, of instructions.

    Raises:
        ConfigError: a name comes twice, or is that of the base or the draft model.
    """
    seen: set[str] = set()
    for name in (name for names in guides for name in names):
        if name in ("base", "draft"):
            raise ConfigError(f"a guide is called {name!r}", "that name is taken: give it another")
        if name in seen:
            raise ConfigError(f"two guides are called {name!r}", "name each once")
        seen.add(name)


def _named(given: Any, option: str, example: str) -> dict[str, Any]:
    if given is None or isinstance(given, Mapping):
        named: dict[str, Any] = dict(given or {})
    else:
        named = dict(named_entries(given, option, example))
    for name in named:
        require_name(name)
    return named


def _weighed(text: str) -> tuple[float | None, str]:
    found = _NUMBER.fullmatch(text)
    return (float(found[1]), found[2]) if found else (None, text)


def _fields(given: Mapping[str, Any], known: set[str], what: str, usage: str) -> Mapping[str, Any]:
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(f"{what} has no {unknown[0]!r}", usage)
    return given


def _weight(name: str, value: Any) -> float:
    _WEIGHT.require(f"the weight of {name!r}", value)
    if value == 0:
        raise ConfigError(f"the weight of {name!r} is 0", "weigh it -1 or 1, or leave it out")
    return float(value)
