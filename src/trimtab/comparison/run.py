"""`trimtab compare` as a function: read both sides, judge every pair, count; it can go on."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.comparison import base_nll, files
from trimtab.comparison.numbers import comparison_numbers
from trimtab.comparison.partial import partial_judges
from trimtab.comparison.sides import Meeting, Paths, read_meeting
from trimtab.comparison.verdicts import (
    Judged,
    Judges,
    PairJudge,
    by_pairs,
    by_scores,
    made_judges,
    require_affordable,
)
from trimtab.errors import ConfigError, OutputError
from trimtab.files import only_writer
from trimtab.jobs import Progress, Say, going_on, unseen
from trimtab.models.origins import Origins
from trimtab.models.types import DType, PromptFormat
from trimtab.scoring.pairwise import PairwiseJudge
from trimtab.scoring.score_files import (
    ScoreFile,
    Scores,
    made_again,
    missing,
    score_answers,
    score_files,
)
from trimtab.scoring.scorer import Scorer
from trimtab.scoring.specs import ScorerSpecs

logger = logging.getLogger(__name__)


def compare(
    *,
    a: Paths,
    b: Paths,
    scorers: Mapping[str, str | Scorer] | None = None,
    judges: Mapping[str, str | PairJudge | PairwiseJudge] | None = None,
    base: str | None = None,
    output_dir: str | Path | None = None,
    costs: Collection[str] = (),
    rubrics: Mapping[str, str] | None = None,
    scorer_batch_size: int = 16,
    resamples: int = 2000,
    seed: int = 0,
    prompt_format: PromptFormat = "auto",
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress = unseen,
    say: Say = logger.warning,
) -> dict[str, Any]:
    """Compare two sides' answers to the same prompts: win rates, lengths, variety.

    Answers are paired by prompt, several to a prompt in their order. Every mean comes with its 95 %
    interval over training seeds and prompts (`trimtab.stats.hierarchical_of`), or over prompts
    alone where each side has one seed.

    Args:
        a: a file of answers (of `generate`, rows of `prompt` and `response`, or AlpacaEval's
            outputs), a folder that holds one for each training seed, or several files. With equally
            many seeds the i-th of A meets the i-th of B; otherwise all of A meet all of B.
        b: what it is compared with, likewise.
        scorers: name -> folder of a reward model, `module:function`, `judge:MODEL@URL`, or a
            `Scorer`: the answer with the higher score wins.
        judges: name -> `MODEL@URL` of an OpenAI-compatible server that is shown both answers, in
            both orders, or a `trimtab.scoring.pairwise.PairwiseJudge` with its options; or a
            function of pairs (`trimtab.comparison.sides.Pair`) and of a progress function, that
            gives a verdict for each: 1 where A is better, 0.5 for a tie, 0, or None.
        base: folder, GGUF file or hub id of the frozen base: the answers' negative log-likelihood
            under it is measured, too, nats per token.
        output_dir: where scores, verdicts.jsonl, table.md and results.json go. A killed run goes on
            where it stopped; a finished one asks again for the scores that are missing.
        costs: scorers of which less is better.
        rubrics: scorer -> what it means, for a judge behind a server.
        scorer_batch_size: responses in one forward pass of a reward model, or of the base.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        prompt_format: how the base reads a plain-text prompt, as for `load`.
        dtype, device: of reward models and the base.
        trust_remote_code: scorers (or `base`) whose own code may run.
        revisions: scorer (or `base`) -> branch, tag or commit of its hub id.
        overwrite: replace what another comparison left in the folder.
        progress: is told (what, done, total).
        say: is told what a user should know, a line each.

    Returns:
        What results.json holds: per judge the shares of wins, ties and losses, `win_and_half_tie`,
        the `length_controlled` rate and mean scores; per side lengths, distinct-n, self-BLEU, the
        share cut off and `base_nll`. A's wins are counted.

    Raises:
        TrimtabError: files, options or scorers that cannot work; nothing is written.
    """
    specs = ScorerSpecs(
        scorers=scorers or {},
        costs=costs,
        rubrics=rubrics,
        scorer_batch_size=scorer_batch_size,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        revisions=revisions,
    )
    if not scorers and not judges:
        raise ConfigError("nothing to judge with", "give --scorer NAME=SCORER or --judge MODEL@URL")
    names = specs.objectives() if scorers else []
    _require_names(names, judges or {}, base)
    if resamples < 100:
        raise ConfigError(f"--resamples is {resamples}", "it must be 100 or more")
    loading = ["base", *names] if base else names
    origins = Origins.of(loading, trust_remote_code, revisions or {})
    below = specs.less_is_better()
    meeting = read_meeting(a, b)
    folder = None if output_dir is None else Path(output_dir)
    if folder:
        files.require_own(folder, meeting, overwrite=overwrite)
        _require_apart(folder, a, b)
    shown_both = made_judges(judges or {})
    require_affordable(meeting, shown_both)
    reader = base and base_nll.BaseNll(
        base,
        prompt_format=prompt_format,
        batch_size=scorer_batch_size,
        dtype=dtype,
        device=device,
        origins=origins,
    )
    loaded = specs.load()  # the last, as one may have to be fetched
    measuring = {**loaded, base_nll.NAME: reader} if reader else loaded

    for line in partial_judges(meeting, scorers or {}):
        say(line)

    def judged_in(where: Path) -> tuple[list[Judged], Judged | None]:
        run = _Run(meeting, measuring, below, shown_both, where, overwrite, progress, say)
        judged = {one.name: one for one in run.judged()}
        nll = judged.pop(base_nll.NAME, None)
        return list(judged.values()), nll

    def results_of(judged: Sequence[Judged], nll: Judged | None) -> dict[str, Any]:
        numbers = comparison_numbers(meeting, judged, nll, seed=seed, resamples=resamples)
        return {**numbers, "scorers": {n: dict(one.identity) for n, one in measuring.items()}}

    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            return results_of(*judged_in(Path(scratch)))
    with only_writer(folder, folder=True):
        with going_on():
            judged, nll = judged_in(folder)
        results = results_of(judged, nll)
        files.write_results(folder, meeting, judged, nll, results)
    return results


def _require_names(scorers: Sequence[str], judges: Collection[str], base: str | None) -> None:
    """Refuse names that mean two things."""
    taken = {base_nll.NAME, *(["base"] if base else [])}
    for name in (*scorers, *judges):
        if name in taken:
            raise ConfigError(f"two judges or models are called {name!r}", "rename this one")
        taken.add(name)


def _require_apart(folder: Path, *sides: Paths) -> None:
    """Refuse to write into a folder whose files are read as seeds: they would be read, too."""
    for side in sides:
        if isinstance(side, str | os.PathLike) and Path(side).resolve() == folder.resolve():
            raise OutputError(f"{folder} holds the answers of a side", "name another --output-dir")


@dataclass(frozen=True)
class _Run:
    """A comparison, checked and ready to be judged."""

    meeting: Meeting
    scorers: Mapping[str, Scorer]
    costs: Sequence[str]
    judges: Judges
    folder: Path
    overwrite: bool
    progress: Progress
    say: Say

    def judged(self) -> Iterator[Judged]:
        """What every judge says, the scorers first. Judges of pairs keep what they are told."""
        shown_both = [
            by_pairs(name, self.meeting, judge, self.progress, self.say)
            for name, judge in self.judges.items()
        ]
        for name, scores in self._scores().items():
            yield by_scores(name, self.meeting, scores, cost=name in self.costs)
        yield from shown_both

    def _scores(self) -> Scores:
        """Score all answers, A's and then B's, that the folder holds no score of."""
        answers = [*self.meeting.a.every(), *self.meeting.b.every()]
        scored = self._score_files()
        for file in scored:
            file.check(answers)
        for file in scored:
            if file.lacks_some(len(answers)):
                file.scorer.probe(answers[0].prompt)
        for line in made_again(scored):
            self.say(line)
        scores = score_answers(scored, answers, self.progress)
        for line in missing(scored, scores):
            self.say(line)
        return scores

    def _score_files(self) -> list[ScoreFile]:
        settings = {"command": "compare", "answers_sha256": self.meeting.sha256()}

        def place(name: str) -> Path:
            return self.folder / files.SCORES.format(name)

        try:
            return score_files(place, settings, self.scorers, overwrite=self.overwrite)
        except OutputError as error:
            hint = "choose another --output-dir, or pass --overwrite"
            raise OutputError(error.args[0], hint) from None
