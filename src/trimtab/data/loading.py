"""Pairs from files and hub data sets: of one objective, or judged on several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from trimtab.data.pairs import Comparison, Pair, Unusable
from trimtab.data.reading import EVERYTHING, Reading, read_preferences
from trimtab.data.rows import comparison_of, pairs_of, read_cells
from trimtab.data.sources import Row
from trimtab.data.tally import RowTally
from trimtab.errors import DataError
from trimtab.steering import require_name

T = TypeVar("T")


def read_pairs(
    sources: Sequence[str],
    objective: str = "",
    *,
    skip_bad_rows: bool = False,
    reading: Reading = EVERYTHING,
) -> tuple[list[Pair], RowTally]:
    """Read the pairs of one objective from files or hub data sets.

    Args:
        sources: what `read_rows` takes.
        objective: the objective wanted. Rows of another objective are passed over; rows of data
            that name no objective all belong to it. "" takes rows as they stand.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.
        reading: columns by hand, pairs per prompt.

    Raises:
        DataError: a malformed row, no usable pair, or an objective that the data do not have.
    """
    pairs: list[Pair] = []
    tally = RowTally()
    seen: set[str] = set()

    def own_pairs(row: Row, place: str) -> tuple[str, Row, list[Pair]]:
        return place, row, list(pairs_of(row, place))

    how: dict[str, Any] = {"skip_bad_rows": skip_bad_rows, "reading": reading}
    for place, row, row_pairs in usable_rows(sources, own_pairs, tally, **how):
        seen.update(pair.objective for pair in row_pairs)
        if _is_tied(row, place, objective):
            tally.leave_out(f"a tie on {objective!r}", place)
        pairs += [p for p in row_pairs if not objective or p.objective in ("", objective)]
    if not pairs:
        named = sorted(seen - {""})
        if objective and named:
            raise DataError(
                f"the data have no objective {objective!r}", f"they have: {', '.join(named)}"
            )
        reasons = "; ".join(tally.reasons()) or "no rows"
        raise DataError(f"no usable pair in {', '.join(map(str, sources))}", reasons)
    return pairs, tally


def usable_rows(
    sources: Sequence[str],
    read: Callable[[Row, str], T],
    tally: RowTally,
    *,
    skip_bad_rows: bool = False,
    reading: Reading = EVERYTHING,
) -> Iterator[T]:
    """Yield what `read(row, place)` makes of every pair's row that can be used.

    Args:
        sources: what `read_rows` takes.
        read: raises `Unusable` for a row that teaches nothing, `DataError` for a malformed one.
        tally: where rows are counted, and those that are left out.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.
        reading: columns by hand, pairs per prompt.

    Raises:
        DataError: a malformed row, without `skip_bad_rows`.
    """
    for source in sources:
        for place, row in read_preferences(source, reading, tally):
            try:
                if isinstance(row, Exception):
                    raise row
                item = read(row, place)
            except Unusable as reason:
                tally.leave_out(str(reason), place)
            except DataError as error:
                if not skip_bad_rows:
                    raise
                tally.leave_out_malformed(error, place)
            else:
                yield item


def _is_tied(row: Row, place: str, objective: str) -> bool:
    """Whether a row that is judged by scores says nothing on this one objective."""
    row = read_cells(row, place)
    scores = row.get("scores")
    if isinstance(row.get("labels"), dict) or not isinstance(scores, dict):
        return False
    pair = scores.get(objective)
    return pair is not None and bool(pair[0] == pair[1])


def read_comparisons(
    sources: Sequence[str],
    objectives: Sequence[str] = (),
    *,
    skip_bad_rows: bool = False,
    reading: Reading = EVERYTHING,
) -> tuple[list[Comparison], list[str], RowTally]:
    """Read pairs with a verdict per objective, or files with one objective each.

    Args:
        sources: what `read_rows` takes; `NAME=FILE` names the objective of a file.
        objectives: those wanted, in their order; by default all that the data name.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.
        reading: columns by hand, pairs per prompt.

    Returns:
        The pairs that are judged on any of the objectives, the objectives, and the tally.

    Raises:
        DataError: a malformed row, a row that names no objective, or an objective without pairs.
    """
    tally = RowTally()
    how: dict[str, Any] = {"skip_bad_rows": skip_bad_rows, "reading": reading}
    judged = list(usable_rows(sources, _judged, tally, **how))
    named = list(dict.fromkeys(name for item in judged for name in item.verdicts))
    for name in objectives or named:
        require_name(name)
    wanted = list(objectives) or named
    kept = [
        replace(item, verdicts={n: v for n, v in item.verdicts.items() if n in wanted})
        for item in judged
        if not item.verdicts.keys().isdisjoint(wanted)
    ]
    tally.judged = {name: sum(name in item.verdicts for item in kept) for name in wanted}
    missing = [name for name, count in tally.judged.items() if not count]
    if missing and named:
        raise DataError(
            f"the data have no label for {', '.join(missing)}", f"they have: {', '.join(named)}"
        )
    if not kept:
        reasons = "; ".join(tally.reasons()) or "no rows"
        raise DataError(f"no usable pair in {', '.join(map(str, sources))}", reasons)
    return kept, wanted, tally


def _judged(row: Row, place: str) -> Comparison:
    item = comparison_of(row, place)
    require_objectives(item)
    return item


def require_objectives(item: Comparison) -> None:
    """Refuse a pair of which only the better side is known, not as to what.

    Raises:
        DataError: a verdict without an objective.
    """
    if "" in item.verdicts:
        raise DataError(
            f"{item.source} names no objective",
            "write --data NAME=FILE, or give rows `objective`, `labels` or `scores`",
        )


def read_everything(
    sources: Sequence[str], reading: Reading = EVERYTHING
) -> tuple[list[Comparison], RowTally]:
    """Every pair that can be used, whatever it is judged on; malformed rows are counted, too.

    Raises:
        DataError: there is none; where that is a row's fault, what is wrong with the first one.
    """
    tally = RowTally()
    pairs = list(usable_rows(sources, comparison_of, tally, skip_bad_rows=True, reading=reading))
    if not pairs:
        if tally.malformed:
            list(usable_rows(sources, comparison_of, RowTally(), reading=reading))
        reasons = "; ".join(tally.reasons()) or "no rows"
        raise DataError(f"no usable pair in {', '.join(map(str, sources))}", reasons)
    return pairs, tally
