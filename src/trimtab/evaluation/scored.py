"""Scores of many responses in a file that grows while they are made: one scorer after another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.data.pairs import Prompt
from trimtab.evaluation.scorers import Scorer
from trimtab.jobs import RowFile

CHUNK = 128  # responses a row of the file holds the scores of

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


def score_file(
    path: Path, settings: Mapping[str, Any], scorers: Mapping[str, Scorer], *, overwrite: bool
) -> RowFile:
    """The file of these scorers' scores: begun, to go on with, or new.

    Raises:
        OutputError: it holds other scores, without `overwrite`.
    """
    own = {name: dict(scorer.identity) for name, scorer in scorers.items()}
    return RowFile(path, {**settings, "chunk": CHUNK, "scorers": own}, overwrite=overwrite)


def score_answers(
    job: RowFile, scorers: Mapping[str, Scorer], answers: Sequence[Answer], progress: Progress
) -> Scores:
    """Score all answers on all objectives; what the file has already is not done again.

    Args:
        job: from `score_file`.
        scorers: objective -> scorer. One at a time has its weights in memory.
        answers: always the same ones in the same order.
        progress: is told (what, done, total).

    Returns:
        Objective -> score per answer, None where one is missing.
    """
    done = 0
    for name, scorer in scorers.items():
        try:
            for first in range(0, len(answers), CHUNK):
                done += 1
                if done <= job.done:
                    continue
                chunk = answers[first : first + CHUNK]
                scores = _score(scorer, chunk)
                with job:
                    job.append({"objective": name, "first": first, "scores": scores})
                progress(f"scoring {name}", first + len(chunk), len(answers))
        finally:
            scorer.close()
    found: Scores = {name: [] for name in scorers}
    for row in read_jsonl(job.path):
        found[row["objective"]] += row["scores"]
    return found


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
