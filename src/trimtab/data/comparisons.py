"""Pairs judged on several objectives, for one reward model of them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trimtab.data.formats import comparison_of, usable_rows
from trimtab.data.pairs import Comparison, RowReport
from trimtab.data.reading import EVERYTHING, Reading
from trimtab.data.sources import Row
from trimtab.errors import DataError
from trimtab.steering import require_name


def read_comparisons(
    sources: Sequence[str],
    objectives: Sequence[str] = (),
    *,
    skip_bad_rows: bool = False,
    reading: Reading = EVERYTHING,
) -> tuple[list[Comparison], list[str], RowReport]:
    """Read pairs with a verdict per objective, or files with one objective each.

    Args:
        sources: what `read_rows` takes; `NAME=FILE` names the objective of a file.
        objectives: those wanted, in their order; by default all that the data name.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.
        reading: columns by hand, pairs per prompt.

    Returns:
        The pairs that are judged on any of the objectives, the objectives, and the report.

    Raises:
        DataError: a malformed row, a row that names no objective, or an objective without pairs.
    """
    report = RowReport()
    how: dict[str, Any] = {"skip_bad_rows": skip_bad_rows, "reading": reading}
    found = list(usable_rows(sources, _judged, report, **how))
    named = list(dict.fromkeys(name for item in found for name in item.verdicts))
    for name in objectives or named:
        require_name(name)
    wanted = list(objectives) or named
    kept = [
        replace(item, verdicts={n: v for n, v in item.verdicts.items() if n in wanted})
        for item in found
        if not item.verdicts.keys().isdisjoint(wanted)
    ]
    report.judged = {name: sum(name in item.verdicts for item in kept) for name in wanted}
    missing = [name for name, count in report.judged.items() if not count]
    if missing and named:
        raise DataError(
            f"the data have no label for {', '.join(missing)}", f"they have: {', '.join(named)}"
        )
    if not kept:
        reasons = "; ".join(report.reasons()) or "no rows"
        raise DataError(f"no usable pair in {', '.join(map(str, sources))}", reasons)
    return kept, wanted, report


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
) -> tuple[list[Comparison], RowReport]:
    """Every pair that can be used, whatever it is judged on; malformed rows are counted, too.

    Raises:
        DataError: there is none; where that is a row's fault, what is wrong with the first one.
    """
    report = RowReport()
    found = list(usable_rows(sources, comparison_of, report, skip_bad_rows=True, reading=reading))
    if not found:
        if report.malformed:
            list(usable_rows(sources, comparison_of, RowReport(), reading=reading))
        reasons = "; ".join(report.reasons()) or "no rows"
        raise DataError(f"no usable pair in {', '.join(map(str, sources))}", reasons)
    return found, report
