"""Relabelling of preference pairs, as PARM prepares its data (arXiv 2505.06274, section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.data.formats import Unusable, pairs_of
from trimtab.data.pairs import Pair, RowReport
from trimtab.data.sources import fingerprint, read_rows
from trimtab.errors import DataError
from trimtab.evaluation.labels import Sides, label_of
from trimtab.evaluation.scored import Answer, Progress, score_answers, score_file
from trimtab.evaluation.scorers import Scorer
from trimtab.jobs import RowFile

_SIDES = ("prompt", "chosen", "rejected", "text", "score")


def read_unlabelled(
    sources: Sequence[str], *, skip_bad_rows: bool = False
) -> tuple[list[Pair], RowReport]:
    """Every usable pair once, in its own order of sides, whatever verdicts the row carries.

    Raises:
        DataError: a malformed row (without `skip_bad_rows`), or no usable pair.
    """
    pairs: list[Pair] = []
    report = RowReport()
    for source in sources:
        for place, row in read_rows(source):
            report.rows += 1
            sides = {key: value for key, value in row.items() if key in _SIDES}
            try:
                pairs += pairs_of(sides, place)
            except Unusable as reason:
                report.leave_out(str(reason), place)
            except DataError as error:
                if not skip_bad_rows:
                    raise
                report.leave_out(error.args[0].removeprefix(f"{place} "), place)
    if not pairs:
        raise DataError(f"no usable pair in {', '.join(sources)}", "; ".join(report.lines()))
    return pairs, report


def settings_of(
    sources: Sequence[str], scorers: Mapping[str, Scorer], costs: Sequence[str]
) -> dict[str, Any]:
    """What the labels depend on."""
    return {
        "command": "label",
        "data_sha256": fingerprint(sources),
        "scorers": {name: dict(scorer.identity) for name, scorer in scorers.items()},
        "costs": list(costs),
    }


def label_pairs(
    job: RowFile,
    pairs: Sequence[Pair],
    scorers: Mapping[str, Scorer],
    costs: Sequence[str],
    settings: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Score both sides of every pair and write the rows that the file lacks.

    The scores stand in a file of their own beside it until all rows are written.
    """
    path = job.path.with_name(f".{job.path.name}.scores")
    sides = [
        Answer(pair.prompt, text, f"{pair.source} {side}", pair.verbatim)
        for pair in pairs
        for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]
    scratch = score_file(path, settings, scorers, overwrite=True)
    scores = score_answers(scratch, scorers, sides, progress)
    with job:
        for i in range(job.done, len(pairs)):
            of_pair = {name: (own[2 * i], own[2 * i + 1]) for name, own in scores.items()}
            job.append(labelled(pairs[i], of_pair, costs))
    for leftover in (path, path.with_name(path.name + ".job.json")):
        leftover.unlink(missing_ok=True)


def labelled(pair: Pair, scores: Mapping[str, Sides], costs: Sequence[str]) -> dict[str, Any]:
    """One output row. Texts with an implicit prompt stay so: they are read back as they were."""
    row: dict[str, Any] = {
        "prompt": pair.prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
    }
    if pair.verbatim:
        whole = str(pair.prompt)
        row = {"chosen": whole + pair.chosen, "rejected": whole + pair.rejected}
    return {
        **row,
        "labels": {name: label_of(own, cost=name in costs) for name, own in scores.items()},
        "scores": {name: list(own) for name, own in scores.items()},
    }
