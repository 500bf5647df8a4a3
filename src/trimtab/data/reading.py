"""Rows of any layout as rows of pairs: columns renamed, layouts translated, rows grouped."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.data.layouts.judged import Judged, rows_of
from trimtab.data.layouts.registry import ALWAYS, known_columns, layout_of
from trimtab.data.literals import read_literal
from trimtab.data.pairs import Unusable
from trimtab.data.rows import SUBSET
from trimtab.data.sources import Row, read_rows, split_name
from trimtab.data.tally import RowTally
from trimtab.entries import named_values
from trimtab.errors import ConfigError, DataError


@dataclass(frozen=True)
class Reading:
    """How preference data are read.

    Attributes:
        columns: name that a layout wants -> name in the data, perhaps with dots into it.
        pairs_per_prompt: of several answers to a prompt, that many pairs; 0 for all.
        subset: the column, as it is called in the data, that says which part of them a row belongs
            to; "" where nobody asks. A row without it belongs to none.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    pairs_per_prompt: int = 0
    subset: str = ""

    @classmethod
    def of(cls, columns: str | Mapping[str, str] = "", pairs_per_prompt: int = 0) -> Reading:
        """Options as users give them, checked.

        Raises:
            ConfigError: columns that no layout reads, or a negative number of pairs.
        """
        if pairs_per_prompt < 0:
            raise ConfigError(
                f"--pairs-per-prompt is {pairs_per_prompt}", "give 1 or more, or 0 for all pairs"
            )
        return cls(parse_columns(columns), pairs_per_prompt)


EVERYTHING = Reading()


def parse_columns(columns: str | Mapping[str, str]) -> dict[str, str]:
    """`prompt=question,chosen=good` as wanted name -> name in the data.

    Raises:
        ConfigError: an entry that is no NAME=COLUMN, or a name that no layout reads.
    """
    if isinstance(columns, Mapping):
        mapped = {str(wanted).strip(): str(name).strip() for wanted, name in columns.items()}
    else:
        mapped = named_values(
            filter(str.strip, columns.split(",")),
            unreadable=lambda _: _unreadable(columns),
            twice=lambda wanted: ConfigError(f"--columns names {wanted!r} twice", "name it once"),
        )
    for wanted, name in mapped.items():
        if not wanted or not name:
            raise _unreadable(columns)
        _require_known(wanted)
    return mapped


def _unreadable(columns: object) -> ConfigError:
    return ConfigError(
        f"cannot read --columns {columns}", "write prompt=question,chosen=good,rejected=bad"
    )


def _require_known(wanted: str) -> None:
    known = known_columns()
    if wanted in known or re.match(r"labels\.[\w-]+$", wanted):
        return
    near = difflib.get_close_matches(wanted, known, 1)
    hint = f"do you mean {near[0]}?" if near else "the most used are prompt, chosen and rejected"
    raise ConfigError(f"--columns {wanted}=…: no layout has a column `{wanted}`", hint)


def read_preferences(
    source: str, reading: Reading, tally: RowTally
) -> Iterator[tuple[str, Row | Exception]]:
    """Yield `(place, row)` for every pair in a source, whatever its layout.

    A row from which nothing can be made comes as the `Unusable` or `DataError` that says why, so
    that whoever reads can go on with the next one.

    Args:
        source: what `read_rows` takes.
        reading: columns by hand, pairs per prompt.
        tally: rows, layouts and unused columns are counted there.
    """
    objective, source = split_name(source)
    groups: dict[str, tuple[Row, Judged]] = {}
    for place, raw in read_rows(source):
        counted = tally.rows
        try:
            row = _renamed(raw, reading.columns, place)
            layout = layout_of(row, place)
            filled = [column for column, value in row.items() if _is_filled(value)]
            unread = [c for c in filled if not layout.reads(c) and c != reading.subset]
            tally.count(layout.name, unread)
            answers = layout.read(row, place)
            extra = {**_prompt_columns(row), **_subset(raw, reading.subset, place)}
        except (Unusable, DataError) as error:
            tally.rows = counted + 1  # also where no layout counted it
            yield place, error
            continue
        if layout.grouped and isinstance(answers, Judged):
            _add_to_group(groups, answers, extra)
            continue
        for where, pair in _pairs(answers, place, reading, tally):
            yield where, _of_objective({**extra, **pair}, objective)
    for extra, judged in groups.values():
        if len(judged.answers) == 1:
            yield judged.places[0], Unusable("the only answer to its prompt")
            continue
        for where, pair in _pairs(judged, "", reading, tally):
            yield where, _of_objective({**extra, **pair}, objective)


def pairs_in(row: Row, place: str) -> list[tuple[str, Row]]:
    """The pairs of one row alone, as `read_preferences` gives them.

    Of a row that holds one answer, its prompt.

    Raises:
        DataError: a row in no layout, or in two, or that cannot be read.
    """
    judged = layout_of(row, place).read(row, place)
    if isinstance(judged, Judged) and len(judged.answers) == 1:
        return [(place, {**_prompt_columns(row), "prompt": judged.prompt})]
    pairs = _pairs(judged, place, EVERYTHING, RowTally())
    return [(where, {**_prompt_columns(row), **pair}) for where, pair in pairs]


def _add_to_group(groups: dict[str, tuple[Row, Judged]], judged: Judged, extra: Row) -> None:
    key = json.dumps([judged.prompt, extra], sort_keys=True, default=str)
    known = groups.get(key)
    groups[key] = extra, known[1].with_answers_of(judged) if known else judged


def _pairs(
    judged: Judged | Row, place: str, reading: Reading, tally: RowTally
) -> Iterator[tuple[str, Row]]:
    if not isinstance(judged, Judged):
        yield place, judged
        return
    tally.several |= len(judged.answers) > 2 or bool(judged.places)
    yield from rows_of(judged, place, reading.pairs_per_prompt)


def _prompt_columns(row: Row) -> Row:
    """What belongs to the prompt in every layout."""
    columns = {column: row[column] for column in ALWAYS if _is_filled(row.get(column))}
    if "system_prompt" in columns:
        columns.setdefault("system", columns.pop("system_prompt"))
    return columns


def _subset(row: Row, column: str, place: str) -> Row:
    """The part of the data that a row belongs to, where that is asked for and said.

    Raises:
        DataError: what stands there is no name.
    """
    name = row.get(column) if column else None
    if not _is_filled(name) or name != name:  # NaN, as tables write what is missing
        return {}
    if not isinstance(name, str | int | float):
        raise DataError(f"{place} has {name!r} in `{column}`", "a subset is a text or a number")
    return {SUBSET: str(name)}


def _is_filled(value: Any) -> bool:
    return value is not None and value != "" and value != [] and value != {}


def _of_objective(row: Row, objective: str) -> Row:
    """A row that names no objective is of the source's own."""
    if not objective:
        return row
    scores = row.get("scores")
    if isinstance(scores, dict) and list(scores) == [""]:
        return {**row, "scores": {objective: scores[""]}}
    named = any(row.get(column) for column in ("objective", "labels", "scores"))
    return row if named else {**row, "objective": objective}


def _renamed(row: Row, columns: Mapping[str, str], place: str) -> Row:
    """A row with columns under the names that were given them; their old names are gone."""
    if not columns:
        return row
    taken = {wanted: _cell(row, name, place) for wanted, name in columns.items()}
    rest = {name: value for name, value in row.items() if name not in columns.values()}
    for wanted, value in taken.items():
        outer, dot, inner = wanted.partition(".")
        if not dot:
            rest[wanted] = value
            continue
        held = rest.get(outer)
        rest[outer] = {**(held if isinstance(held, dict) else {}), inner: value}
    return rest


def _cell(row: Row, name: str, place: str) -> Any:
    """What a column holds, or what lies in it along a path such as `answers.0.text`."""
    if name in row:
        return row[name]
    value: Any = row
    for part in re.sub(r"\[(\d+)\]", r".\1", name).split("."):
        value = _opened(value)
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise DataError(
                f"{place} has no column `{name}`, which --columns names",
                f"its columns are {', '.join(map(str, row))}",
            )
    return value


def _opened(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return read_literal(value)
    except ValueError:
        return value
