"""Scores of many responses, a file for each scorer that grows while they are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data.pairs import Prompt
from trimtab.evaluation.scorers import Scorer
from trimtab.jobs import RowFile

Progress = Callable[[str, int, int], None]
Scores = dict[str, list[float | None]]


@dataclass(frozen=True)
class Answer:
    """A response to be scored.

    Attributes:
        prompt: what it answers.
        response: text.
        place: what an error calls it.
        verbatim: the prompt is raw text cut anywhere.
    """

    prompt: Prompt
    response: str
    place: str
    verbatim: bool = False


@dataclass(frozen=True)
class ScoreFile:
    """Where one scorer's scores stand.

    Attributes:
        objective: what is rated.
        scorer: what rates it.
        job: the file.
        again: it holds another scorer's scores of the same responses, which will be replaced.
    """

    objective: str
    scorer: Scorer
    job: RowFile
    again: bool

    def lacks_some(self, answers: int) -> bool:
        """Whether scores of so many answers are still to be made."""
        return self.job.done * self.scorer.chunk < answers


def score_files(
    place: Callable[[str], Path],
    settings: Mapping[str, Any],
    scorers: Mapping[str, Scorer],
    *,
    overwrite: bool,
) -> list[ScoreFile]:
    """A file for each scorer: begun, to go on with, or new.

    A file that only another scorer filled is made again, so that a mended rule costs no other
    scorer's scores.

    Args:
        place: objective -> path.
        settings: what the responses depend on.
        scorers: objective -> scorer.
        overwrite: replace scores of other responses, too.

    Raises:
        OutputError: a file holds scores of other responses, without `overwrite`.
    """
    found = []
    for name, scorer in scorers.items():
        own = {"chunk": scorer.chunk, "scorer": dict(scorer.identity)}
        whole = {**settings, "objective": name, **own}
        again = _differs_in(place(name), whole, own)
        job = RowFile(place(name), whole, overwrite=overwrite or again)
        found.append(ScoreFile(name, scorer, job, again))
    return found


def _differs_in(path: Path, settings: Mapping[str, Any], keys: Iterable[str]) -> bool:
    """Whether a file was made with other settings, but only as to these keys."""
    wanted = json.loads(json.dumps(settings))
    try:
        found = json.loads(path.with_name(path.name + ".job.json").read_text(encoding="utf-8"))
        others = {key: found.pop(key) for key in keys} != {key: wanted.pop(key) for key in keys}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    return path.is_file() and others and bool(found == wanted)


def made_again(files: Iterable[ScoreFile]) -> list[str]:
    """A line for each scorer that has changed since its scores were made."""
    return [
        f"scores of {file.objective} are made again: its scorer has changed"
        for file in files
        if file.again
    ]


def score_answers(
    files: Iterable[ScoreFile], answers: Sequence[Answer], progress: Progress
) -> Scores:
    """Score all answers on all objectives; what the files have already is not done again.

    Args:
        files: from `score_files`. One scorer at a time has its weights in memory.
        answers: always the same ones in the same order.
        progress: is told (what, done, total).

    Returns:
        Objective -> score per answer, None where one is missing.
    """
    return {file.objective: _scores(file, answers, progress) for file in files}


def _scores(file: ScoreFile, answers: Sequence[Answer], progress: Progress) -> list[float | None]:
    job, scorer = file.job, file.scorer
    try:
        for first in range(job.done * scorer.chunk, len(answers), scorer.chunk):
            chunk = answers[first : first + scorer.chunk]
            scores = _score(scorer, chunk)
            with job:
                job.append({"first": first, "scores": scores})
            progress(f"scoring {file.objective}", first + len(chunk), len(answers))
    finally:
        scorer.close()
    return [score for row in read_jsonl(job.path) for score in row["scores"]]


def _score(scorer: Scorer, answers: Sequence[Answer]) -> list[float | None]:
    return scorer.score(
        [answer.prompt for answer in answers],
        [answer.response for answer in answers],
        places=[answer.place for answer in answers],
        verbatim=[answer.verbatim for answer in answers],
    )


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `RowFile` wrote."""
    with path.open("rb") as handle:  # lines end at \n alone: a JSON text may hold U+2028
        yield from (json.loads(line) for line in handle)
