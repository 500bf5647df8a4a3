"""What a comparison leaves in its folder: scores, verdicts, table and numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.comparison import table
from trimtab.comparison.sides import Meeting
from trimtab.comparison.verdicts import Judged, SideScores
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
    folder: Path, meeting: Meeting, judged: Sequence[Judged], results: Mapping[str, Any]
) -> None:
    """Write verdicts, table and numbers, whole."""
    rows = verdict_rows(meeting, judged)
    with whole_directory(folder) as staging:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(staging / VERDICTS, "".join(lines))
        write_text(staging / TABLE, table.markdown(results))
        write_json(staging / RESULTS, results)


def verdict_rows(meeting: Meeting, judged: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """A row per pair: prompt, seeds, lengths in characters, and what each judge says of it."""
    for number, pair in enumerate(meeting.pairs()):
        scores = {
            one.name: [
                _score(one.scores_a, pair.seed_a, pair.slot),
                _score(one.scores_b, pair.seed_b, pair.slot),
            ]
            for one in judged
            if one.scores_a is not None
        }
        yield {
            "prompt": pair.a.prompt,
            "seeds": [pair.seed_a, pair.seed_b],
            "lengths": [len(pair.a.response), len(pair.b.response)],
            "verdicts": {one.name: one.verdicts[number] for one in judged},
            **({"scores": scores} if scores else {}),
        }


def _score(scores: SideScores | None, seed: int, slot: int) -> float | None:
    return None if scores is None else scores[seed][slot]
