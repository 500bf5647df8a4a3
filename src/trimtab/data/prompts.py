"""Prompts to measure on, out of prompt files and preference files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence

from trimtab.data.chats import prompt_of
from trimtab.data.layouts.registry import UnknownLayoutError
from trimtab.data.pairs import Unusable
from trimtab.data.reading import pairs_in
from trimtab.data.rows import pairs_of, read_cells
from trimtab.data.sources import Row, read_rows
from trimtab.data.tally import RowTally
from trimtab.errors import DataError
from trimtab.models.messages import Prompt

_SIDES = ("prompt", "chosen", "rejected", "text", "system", "tools")


def read_prompts(source: str, limit: int | None = None) -> tuple[list[Prompt], RowTally]:
    """The different prompts of a file or hub data set, in order.

    Args:
        source: rows with `prompt` (text or chat messages), or preference pairs.
        limit: take this many at most, from the beginning.

    Raises:
        DataError: a row without a prompt, a malformed pair, or no prompt that can be used.
    """
    prompts: dict[str, Prompt] = {}
    tally = RowTally()
    for place, row in read_rows(source):
        tally.rows += 1
        try:
            prompt = _prompt(row, place)
        except Unusable as reason:
            tally.leave_out(str(reason), place)
            continue
        prompts.setdefault(json.dumps(prompt, sort_keys=True), prompt)
    if not prompts:
        raise DataError(f"no usable prompt in {source}", "; ".join(tally.lines()))
    return list(prompts.values())[:limit], tally


def _prompt(row: Row, place: str) -> Prompt:
    with contextlib.suppress(UnknownLayoutError):  # then it is no pair, and has a prompt alone
        row = pairs_in(row, place)[0][1]
    sides = {key: value for key, value in row.items() if key in _SIDES}  # verdicts do not matter
    if "chosen" not in row and not isinstance(read_cells(sides, place).get("text"), list):
        prompt = prompt_of(row, place)
        if not prompt:
            raise DataError(f"{place} has no `prompt`", "give text or messages")
        return prompt
    pair = next(pairs_of(sides, place))
    if pair.verbatim:
        raise DataError(f"{place} has no `prompt` of its own", "give a file of prompts")
    if not pair.prompt:
        raise Unusable("the prompt is empty")
    return pair.prompt


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Identity of the prompts that are used, in their order."""
    return hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()
