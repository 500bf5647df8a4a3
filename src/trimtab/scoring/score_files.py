"""Scores of many responses, a file for each scorer that grows while they are made."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from trimtab.errors import ConfigError, DataError, OutputError
from trimtab.files import write_text
from trimtab.jobs import Progress, RowFile
from trimtab.models.messages import Prompt
from trimtab.scoring.scorer import Scorer

Scores = dict[str, list[float | None]]
HOPELESS = 64  # answers without one score: whatever gives none so often will not begin to


@dataclass(frozen=True)
class Answer:
    """A response to be scored.

    Attributes:
        prompt: what it answers.
        response: text.
        place: what an error calls it.
        verbatim: the prompt is raw text cut anywhere.
        finish_reason: of an answer of `generate`, which goes with it into what is written.
    """

    prompt: Prompt
    response: str
    place: str
    verbatim: bool = False
    finish_reason: str | None = None


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
        """Whether scores of so many answers are still to be made, or are missing."""
        return self.job.done * self.scorer.chunk < answers or None in self.known()

    def known(self) -> list[float | None]:
        """The scores that the file holds, None where one is missing."""
        rows = islice(read_jsonl(self.job.path), self.job.done) if self.job.done else ()
        return [score for row in rows for score in row["scores"]]

    def check(self, answers: Sequence[Answer]) -> None:
        """Refuse those of the answers to be scored that the scorer cannot read."""
        left = answers[self.job.done * self.scorer.chunk :]
        if left:
            self.scorer.check(*_texts(left), **_facts(left))

    def extend(self, scores: Sequence[float | None]) -> None:
        """Write down the scores of the next answers, a whole number of chunks but at the end."""
        with self.job:
            for row in self._rows(scores, self.job.done * self.scorer.chunk):
                self.job.append(row)

    def replace(self, scores: Sequence[float | None]) -> None:
        """Write down as many scores in place of those that the file holds."""
        write_text(self.job.path, "".join(json.dumps(row) + "\n" for row in self._rows(scores, 0)))

    def _rows(self, scores: Sequence[float | None], first: int) -> Iterator[dict[str, Any]]:
        chunk = self.scorer.chunk
        for start in range(0, len(scores), chunk):
            yield {"first": first + start, "scores": list(scores[start : start + chunk])}


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
    files = []
    for name, scorer in scorers.items():
        scorer_settings = {"chunk": scorer.chunk, "scorer": dict(scorer.identity)}
        whole = {**settings, "objective": name, **scorer_settings}
        again = _differs_in(place(name), whole, scorer_settings)
        job = RowFile(place(name), whole, overwrite=overwrite or again)
        files.append(ScoreFile(name, scorer, job, again))
    return files


def _differs_in(path: Path, settings: Mapping[str, Any], keys: Iterable[str]) -> bool:
    """Whether a file was made with other settings, but only as to these keys."""
    wanted = json.loads(json.dumps(settings))
    try:
        written = json.loads(path.with_name(path.name + ".job.json").read_text(encoding="utf-8"))
        others = {key: written.pop(key) for key in keys} != {key: wanted.pop(key) for key in keys}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    return path.is_file() and others and bool(written == wanted)


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
        Objective -> score per answer, None where one is missing. Those that an earlier run left
        missing have been asked for again.

    Raises:
        DataError: not one score on some objective.
        ConfigError: a scorer gives what is no finite number.
    """
    return {file.objective: _scores(file, answers, progress) for file in files}


def _scores(file: ScoreFile, answers: Sequence[Answer], progress: Progress) -> list[float | None]:
    known = file.known()
    try:
        _ask_again(file, known, answers, progress)
        for first in range(len(known), len(answers), file.scorer.chunk):
            known += _score(file, answers[first : first + file.scorer.chunk])
            file.extend(known[first:])
            progress(f"scoring {file.objective}", len(known), len(answers))
            _require_hope(file, known, len(answers))
    finally:
        file.scorer.close()
    return known


def _ask_again(
    file: ScoreFile, known: list[float | None], answers: Sequence[Answer], progress: Progress
) -> None:
    """Fill in the scores that an earlier run left missing, as far as they are given now."""
    lost, chunk = [i for i, score in enumerate(known) if score is None], file.scorer.chunk
    for start in range(0, len(lost), chunk):
        group = lost[start : start + chunk]
        for i, score in zip(group, _score(file, [answers[i] for i in group]), strict=True):
            known[i] = score
        file.replace(known)
        progress(f"scoring {file.objective} again", start + len(group), len(lost))
        if start + len(group) == len(lost) or len(known) >= HOPELESS:
            _require_hope(file, known, len(answers))


def _require_hope(file: ScoreFile, known: Sequence[float | None], answers: int) -> None:
    """Refuse to go on, or to end, without one score.

    Raises:
        DataError: it shows what came instead.
    """
    if len(known) < min(answers, HOPELESS) or any(score is not None for score in known):
        return
    raise DataError(
        f"none of {len(known)} answers got a score on {file.objective!r} ({_such_as(file)})",
        f"{file.scorer.wanted or 'mend the scorer'}; the same command asks for them again",
    )


def _such_as(file: ScoreFile) -> str:
    return f"instead came {file.scorer.trouble}" if file.scorer.trouble else "nothing came"


def missing(files: Iterable[ScoreFile], scores: Scores) -> list[str]:
    """A line for each scorer that has left scores out."""
    lines = []
    for file in files:
        given = scores[file.objective]
        if lost := given.count(None):
            lines.append(
                f"{file.objective}: {lost} of {len(given)} scores are missing ({_such_as(file)}); "
                "the same command asks for them again"
            )
    return lines


def rate(scorer: Scorer, objective: str, answers: Sequence[Answer]) -> list[float | None]:
    """One scorer's scores of some answers, None where one is missing.

    Raises:
        ConfigError: it gives what is no finite number.
    """
    scores = scorer.score(*_texts(answers), **_facts(answers))
    for answer, score in zip(answers, scores, strict=True):
        if score is not None and not math.isfinite(score):
            raise ConfigError(
                f"the scorer of {objective!r} gives {score} for {answer.place}",
                "a score is a finite number",
            )
    return scores


def _score(file: ScoreFile, answers: Sequence[Answer]) -> list[float | None]:
    return rate(file.scorer, file.objective, answers)


def _texts(answers: Sequence[Answer]) -> tuple[list[Prompt], list[str]]:
    return [answer.prompt for answer in answers], [answer.response for answer in answers]


def _facts(answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "places": [answer.place for answer in answers],
        "verbatim": [answer.verbatim for answer in answers],
    }


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that `RowFile` wrote.

    Raises:
        OutputError: it holds NaN or an infinity, as earlier versions wrote for broken scorers.
    """

    def refuse(constant: str) -> NoReturn:
        raise OutputError(
            f"{path} holds {constant}, which is no score: its scorer is broken",
            "mend it, delete the file and run the command again",
        )

    with path.open("rb") as handle:  # lines end at \n alone: a JSON text may hold U+2028
        yield from (json.loads(line, parse_constant=refuse) for line in handle)
