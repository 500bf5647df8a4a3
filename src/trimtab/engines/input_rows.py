"""Rows of an input file as requests: a prompt, and what of its settings a row has for itself."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trimtab.data.chats import prompt_of
from trimtab.data.literals import read_literal
from trimtab.engines.guides import Instruction, own_instructions
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import DataError, TrimtabError
from trimtab.models.messages import require_characters

KEPT = ("id", "dataset")
"""What of an input row goes into its output row as it is."""


def _whole(value: Any) -> int:
    """A whole number, or text of one; pandas writes 5 as 5.0 where a column has gaps."""
    text = str(value)
    whole, _, zeros = text.partition(".")
    return int(text if zeros.strip("0") else whole)


_SAMPLING: dict[str, Callable[[Any], Any]] = {
    "max_new_tokens": _whole, "temperature": float, "top_k": _whole, "top_p": float, "min_p": float,
}  # fmt: skip
_LIMITS: dict[str, Callable[[Any], Any]] = {"kl_budget": float, "gate": float}
_KEYS = ("prompt", "tools", "preference", "strength", "instructions", *_LIMITS, "seed", *_SAMPLING,
         *KEPT)  # fmt: skip
_OF_ALPACA = ("instruction", "input", "output", "generator")
_OF_PAIRS = ("chosen", "rejected", "response", "objective", "labels", "scores", "kept")


def request_of(
    row: Mapping[str, Any],
    number: int,
    common: Request,
    objectives: Sequence[str],
    place: str = "",
    instructions: Mapping[str, Instruction] | None = None,
) -> Request:
    """One input row as a request, validated before any model is loaded.

    Args:
        row: `prompt` (or AlpacaEval's `instruction`), perhaps `tools`, and its own settings where
            it has some.
        number: of the row, from 0; its seed is the common one plus this.
        common: the settings of rows that have none.
        objectives: what can be steered to.
        place: of the row, for an error; none for a prompt by itself.
        instructions: for which a row may have texts of its own.

    Raises:
        DataError: an unknown key, no prompt, a value that is none.
        PreferenceError, ConfigError: settings that cannot be used.
    """
    filled = {k: v for k, v in row.items() if v is not None and v != ""}  # tables fill with nothing
    told = place or "the command line"
    _check_keys(filled, told)
    prompt = prompt_of(filled, told)
    if not prompt:
        raise DataError(f"{told} has no `prompt`", "give text or messages")
    sampling = common.sampling.further(number)
    try:
        seed = _whole(filled["seed"]) if "seed" in filled else sampling.seed
    except ValueError:
        raise DataError(f"{told} has seed {filled['seed']!r}", "give a whole number") from None
    preference = common.preference
    if "preference" in filled:
        preference = _literal(filled, "preference", told, "NAME=WEIGHT,…")
    own = common.instructions
    if "instructions" in filled:
        own = _literal(filled, "instructions", told, '{"NAME": "TEXT"}')
    with naming(place):
        request = replace(
            common,
            prompt=prompt,
            preference=preference,
            strength=filled.get("strength", common.strength),
            sampling=_own_sampling(replace(sampling, seed=seed), filled),
            instructions=own,
            **_numbers(filled, _LIMITS),
        )
        request.steering(objectives)
        own_instructions(instructions or {}, request.instructions)
    return request


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
    """Say in an error which row of the input it is about."""
    try:
        yield
    except TrimtabError as error:
        if not place:
            raise
        raise type(error)(f"{place}: {error.args[0]}", error.hint) from None


def _check_keys(row: Mapping[str, Any], place: str) -> None:
    """Refuse a key that would have no effect (a setting misspelt), and values no file can hold."""
    alpaca = () if "prompt" in row or "instruction" not in row else _OF_ALPACA
    known = (*_KEYS, *_OF_PAIRS, *alpaca)
    for key, value in row.items():
        if key not in known:  # preference data, and AlpacaEval's, can be answered as they are
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"do you mean `{near[0]}`?" if near else f"the keys are {', '.join(_KEYS)}"
            raise DataError(f"{place} has an unknown key `{key!s:.40}`", hint)
        require_characters(value, place, key)
    for key in KEPT:
        try:
            json.dumps(row.get(key))
        except (TypeError, ValueError):  # Parquet has dates, decimals and bytes
            raise DataError(
                f"{place} has an `{key}` that JSON cannot hold", "make it text"
            ) from None


def _literal(row: Mapping[str, Any], key: str, place: str, usage: str) -> Any:
    """What a row has under a key, if anything; a table holds `{"helpful": 1}` as text."""
    value = row.get(key)
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return read_literal(value)
    except ValueError:
        raise DataError(f"{place} has {key} {value!r}", f"write {usage}") from None


def _own_sampling(sampling: Sampling, row: Mapping[str, Any]) -> Sampling:
    """A row's own sampling settings, where it has some."""
    return sampling.but(**_numbers(row, _SAMPLING))


def _numbers(row: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Those of some settings that a row has, as numbers."""
    numbers: dict[str, Any] = {}
    for name, kind in kinds.items():
        if name in row:
            try:
                numbers[name] = kind(row[name])
            except (TypeError, ValueError):
                wanted = "a whole number" if kind is _whole else "a number"
                raise DataError(f"{name} is {row[name]!r}", f"give {wanted}") from None
    return numbers
