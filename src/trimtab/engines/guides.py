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
from trimtab.errors import ConfigError
from trimtab.steering import STRONGEST, require_name

REFERENCE = ".reference"
"""What the name of a guide's reference ends with, where that is a model of its own."""
START = ".start"
"""What the name of the model ends with that an ARM's training started from."""
_WEIGHT = Bound(Real, -STRONGEST, STRONGEST, f"-{STRONGEST:.0f} to {STRONGEST:.0f}, and not 0")
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
            weight, text = weighed(given)
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
            weight, text = weighed(given)
            places = [*text.split(":")]
        else:
            places = [*given] if isinstance(given, Sequence) else []
        if len(places) != 2 or not all(isinstance(p, str) and p.strip() for p in places):
            raise ConfigError(f"the contrast {name!r} is not of two models", usage)
        tuned, untuned = (str(place).strip() for place in places)
        return cls(tuned, untuned, _weight(name, 1.0 if weight is None else weight))


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
    if name == "amateur":
        return name
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


def weighed(text: str) -> tuple[float | None, str]:
    """The number before a text, None where there is none, and the text."""
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
