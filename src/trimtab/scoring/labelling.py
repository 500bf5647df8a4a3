"""Relabelling of preference pairs, as PARM prepares its data (arXiv 2505.06274, section 5)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from trimtab.data.loading import require_objectives, usable_rows
from trimtab.data.pairs import Comparison, Unusable
from trimtab.data.reading import EVERYTHING, Reading
from trimtab.data.rows import comparison_of
from trimtab.data.sources import Row, fingerprint, split_name
from trimtab.data.tally import RowTally
from trimtab.errors import DataError, OutputError
from trimtab.jobs import Progress, RowFile
from trimtab.scoring.labels import Sides, label_of
from trimtab.scoring.score_files import (
    Answer,
    ScoreFile,
    missing,
    read_jsonl,
    score_answers,
    score_files,
)
from trimtab.scoring.scorer import Scorer

_SIDES = ("prompt", "chosen", "rejected", "text", "score", "system", "tools")


def read_for_labelling(
    sources: Sequence[str],
    *,
    keep_labels: bool = False,
    skip_bad_rows: bool = False,
    reading: Reading = EVERYTHING,
) -> tuple[list[Comparison], RowTally]:
    """Every usable pair once, in its own order of sides.

    Args:
        sources: what `read_rows` takes.
        keep_labels: hand on the verdicts that the rows carry; otherwise there are none.
        skip_bad_rows: count malformed rows as unusable instead of refusing the data.
        reading: columns by hand, pairs per prompt.

    Raises:
        DataError: a malformed row (without `skip_bad_rows`), no usable pair, or a verdict to be
            kept that names no objective.
    """
    tally = RowTally()

    def one(row: Row, place: str) -> Comparison:
        bare = {key: value for key, value in row.items() if key in _SIDES}
        verdicts: Mapping[str, int] = {}
        try:
            verdicts = comparison_of(row if keep_labels else bare, place).verdicts
        except Unusable:  # a tie, or no verdict: nothing to keep; an empty side is found again
            bare.pop("score", None)
        comparison = replace(comparison_of(bare, place), verdicts=verdicts if keep_labels else {})
        require_objectives(comparison)
        return comparison

    how: dict[str, Any] = {"skip_bad_rows": skip_bad_rows, "reading": reading}
    pairs = list(usable_rows(sources, one, tally, **how))
    if not pairs:
        raise DataError(f"no usable pair in {', '.join(sources)}", "; ".join(tally.reasons()))
    return pairs, tally


def settings_of(
    sources: Sequence[str],
    scorers: Mapping[str, Scorer],
    costs: Sequence[str],
    *,
    keep_labels: bool = False,
    reading: Reading = EVERYTHING,
) -> dict[str, Any]:
    """What the labels depend on."""
    how = {name: value for name, value in asdict(reading).items() if value}
    return {
        "command": "label",
        "data_sha256": fingerprint(sources),
        "scorers": {name: dict(scorer.identity) for name, scorer in scorers.items()},
        "costs": list(costs),
        **({"reading": how} if how else {}),
        **({"kept": [split_name(source)[0] for source in sources]} if keep_labels else {}),
    }


def require_other_file(output: Path, sources: Sequence[str]) -> None:
    """Refuse to write over the data that is read.

    Raises:
        OutputError: the output, or the settings beside it, is one of the files, by whatever name.
    """
    for path in (output, output.with_name(output.name + ".job.json")):
        for source in sources:
            if _same_file(path, Path(split_name(source)[1])):
                raise OutputError(
                    f"{path} is read as --data: writing it would destroy it",
                    "choose another --output",
                )


def _same_file(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def scratch_files(
    job: RowFile, pairs: Sequence[Comparison], scorers: Mapping[str, Scorer]
) -> list[ScoreFile]:
    """Where scores stand until all rows of the job are written, a file for each scorer."""
    texts = json.dumps([(pair.prompt, pair.chosen, pair.rejected, pair.verbatim) for pair in pairs])
    settings = {"command": "label", "pairs_sha256": hashlib.sha256(texts.encode()).hexdigest()}
    return score_files(
        lambda name: job.path.with_name(_scratch(job) + name), settings, scorers, overwrite=True
    )


def _scratch(job: RowFile) -> str:
    return f".{job.path.name}.scores."


def rows_of(job: RowFile) -> list[dict[str, Any]]:
    """The whole rows that the output holds."""
    return list(islice(read_jsonl(job.path), job.done)) if job.done else []


def lacks_some(job: RowFile, pairs: Sequence[Comparison]) -> bool:
    """Whether rows are still to be written, or hold no score where one may be had now."""
    scores = (row["scores"].values() for row in rows_of(job))
    return job.done < len(pairs) or any(None in sides for each in scores for sides in each)


def label_pairs(
    job: RowFile,
    pairs: Sequence[Comparison],
    files: Sequence[ScoreFile],
    costs: Sequence[str],
    progress: Progress,
) -> list[str]:
    """Score both sides of every pair and write the rows that the file lacks.

    Scores that its rows lack are asked for again; where some come, all rows are written anew.

    Args:
        job: the output.
        pairs: what is labelled.
        files: from `scratch_files`; they are gone when all rows are written.
        costs: objectives of which less is better.
        progress: is told (what, done, total).

    Returns:
        A line for each scorer of which scores are still missing.

    Raises:
        DataError: not one score on some objective; what the other scorers gave is kept.
    """
    written = rows_of(job)
    for file in files:
        _restore(file, written, whole=len(written) == len(pairs))
    sides = [
        Answer(pair.prompt, text, f"{pair.source} {side}", pair.verbatim)
        for pair in pairs
        for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
    ]
    for file in files:
        file.check(sides)
    later = [file for file in files if file.lacks_some(len(sides))][1:]  # the first is used at once
    for file in later:
        file.scorer.probe(pairs[0].prompt)
    scores = score_answers(files, sides, progress)
    rows = [
        labelled(
            pair, {name: (each[2 * i], each[2 * i + 1]) for name, each in scores.items()}, costs
        )
        for i, pair in enumerate(pairs)
    ]
    if written != rows[: len(written)]:
        job.begin_again()
    with job:
        for row in rows[job.done :]:
            job.append(row)
    for leftover in [*job.path.parent.iterdir()]:
        if leftover.name.startswith(_scratch(job)):
            leftover.unlink(missing_ok=True)
    return missing(files, scores)


def _restore(file: ScoreFile, rows: Sequence[Mapping[str, Any]], *, whole: bool) -> None:
    """Put the scores that the output's rows hold back into a scratch file that lacks them."""
    scores = [score for row in rows for score in row["scores"][file.objective]]
    chunk = file.scorer.chunk
    if not whole:  # a chunk goes on only where it is full
        scores = scores[: len(scores) // chunk * chunk]
    if later := scores[file.job.done * chunk :]:
        file.extend(later)


def labelled(pair: Comparison, scores: Mapping[str, Sides], costs: Sequence[str]) -> dict[str, Any]:
    """One output row. Texts with an implicit prompt stay so: they are read back as they were.

    The pair's own verdicts stay, and are named under `kept`.
    """
    judged = {name: label_of(sides, cost=name in costs) for name, sides in scores.items()}
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
        "labels": {**judged, **pair.verdicts},
        **({"kept": list(pair.verdicts)} if pair.verdicts else {}),
        "scores": {name: list(sides) for name, sides in scores.items()},
    }
