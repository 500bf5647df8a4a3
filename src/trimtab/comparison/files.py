"""What a comparison leaves in its folder: scores, verdicts, table and numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.comparison import table
from trimtab.comparison.sides import Meeting, Pair
from trimtab.comparison.verdicts import Judged
from trimtab.errors import OutputError
from trimtab.files import whole_directory, write_json, write_text

RESULTS, TABLE, VERDICTS, SCORES = "results.json", "table.md", "verdicts.jsonl", "scores.{}.jsonl"
_WRITTEN = (RESULTS, TABLE, VERDICTS)


def require_own(folder: Path, meeting: Meeting, *, overwrite: bool) -> None:
    """Refuse a folder that holds files of another comparison, or of something else.

    Raises:
        OutputError: it does, and they may not be overwritten.
    """
    there = [name for name in _WRITTEN if (folder / name).exists()]
    if overwrite or not there:
        return
    try:
        written = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        own = (written["command"], written["answers_sha256"]) == ("compare", meeting.sha256())
    except (OSError, ValueError, LookupError, TypeError):
        own = False
    if not own:
        raise OutputError(
            f"{folder} holds the {there[0]} of something else",
            "choose another --output-dir, or pass --overwrite",
        )


def write_results(
    folder: Path,
    meeting: Meeting,
    judged: Sequence[Judged],
    nll: Judged | None,
    results: Mapping[str, Any],
) -> None:
    """Write verdicts, table and numbers, whole."""
    rows = verdict_rows(meeting, judged, nll)
    with whole_directory(folder) as staging:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(staging / VERDICTS, "".join(lines))
        write_text(staging / TABLE, table.markdown(results))
        write_json(staging / RESULTS, results)


def verdict_rows(
    meeting: Meeting, judged: Sequence[Judged], nll: Judged | None = None
) -> Iterator[dict[str, Any]]:
    """A row per pair: prompt, seeds, lengths in characters, and what each judge says of it."""
    for number, pair in enumerate(meeting.pairs()):
        scores = {one.name: found for one in judged if (found := _scores(one, pair))}
        yield {
            "prompt": pair.a.prompt,
            "seeds": [pair.seed_a, pair.seed_b],
            "lengths": [len(pair.a.response), len(pair.b.response)],
            "verdicts": {one.name: one.verdicts[number] for one in judged},
            **({"scores": scores} if scores else {}),
            **({"orders": orders} if (orders := _orders(judged, number)) else {}),
            **({"base_nll": _scores(nll, pair)} if nll else {}),
        }


def _orders(judged: Sequence[Judged], number: int) -> dict[str, Any]:
    """Of a pair, what judges that were asked in both orders say: [A shown first, B first]."""
    told = {one.name: one.orders[number] for one in judged if one.orders is not None}
    return {name: found and [found.a_first, found.b_first] for name, found in told.items()}


def _scores(judged: Judged, pair: Pair) -> list[float | None]:
    """Of A's answer and B's; none of a judge that gives no scores."""
    if judged.scores_a is None or judged.scores_b is None:
        return []
    return [judged.scores_a[pair.seed_a][pair.slot], judged.scores_b[pair.seed_b][pair.slot]]
