"""`trimtab label` as a function: read, score, label, count; a killed run goes on."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.data.pairs import Comparison
from trimtab.data.reading import Reading
from trimtab.errors import ConfigError
from trimtab.files import only_writer
from trimtab.jobs import Progress, RowFile, Say, going_on, unseen
from trimtab.models.origins import Origins
from trimtab.models.types import DType
from trimtab.scoring.label_counts import summary
from trimtab.scoring.labelling import (
    label_pairs,
    lacks_some,
    read_for_labelling,
    require_other_file,
    scratch_files,
    settings_of,
)
from trimtab.scoring.score_files import made_again
from trimtab.scoring.scorer import Scorer
from trimtab.scoring.specs import ScorerSpecs

logger = logging.getLogger(__name__)


def label(
    *,
    data: str | os.PathLike[str] | Sequence[str],
    output: str | Path,
    scorers: Mapping[str, str | Scorer],
    costs: Collection[str] = (),
    rubrics: Mapping[str, str] | None = None,
    scorer_batch_size: int = 16,
    keep_labels: bool = False,
    columns: str | Mapping[str, str] = "",
    pairs_per_prompt: int = 0,
    skip_bad_rows: bool = False,
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress = unseen,
    say: Say = logger.warning,
) -> dict[str, Any]:
    """Relabel preference pairs: which side is better, on each objective, by scorers.

    Args:
        data: preference files, folders of `datasets` or hub ids; `NAME=FILE` says what a file was
            judged on, for `keep_labels`.
        output: JSONL file of pairs with `labels`, `kept` and `scores`, for `train`. A killed run
            goes on where it stopped; a finished one asks again for the scores that are missing.
        scorers: objective -> folder of a reward model, `module:function`, `judge:MODEL@URL`, or a
            `Scorer`.
        costs: objectives of which less is better.
        rubrics: objective -> what it means, for its judge.
        scorer_batch_size: responses in one forward pass of a reward model.
        keep_labels: keep the verdicts that the data hold and let the scorers label the rest.
        columns: which columns hold what, where no layout fits.
        pairs_per_prompt: of several answers to a prompt make this many pairs; 0 makes all.
        skip_bad_rows: leave malformed rows out, counted and named, instead of refusing the data.
        dtype, device: of reward models.
        trust_remote_code: objectives whose scorer's own code may run.
        revisions: objective -> branch, tag or commit of its scorer's hub id.
        overwrite: replace an output file of another run.
        progress: is told (what, done, total).
        say: is told what a user should know, a line each.

    Returns:
        Counts of verdicts per objective, and how often any two verdicts agree.

    Raises:
        TrimtabError: options, data or scorers that cannot work; nothing is written.
    """
    specs = ScorerSpecs(
        scorers=scorers,
        costs=costs,
        rubrics=rubrics,
        scorer_batch_size=scorer_batch_size,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        revisions=revisions,
    )
    objectives = specs.objectives()
    if "chosen" in objectives:
        raise ConfigError("an objective is called 'chosen'", "that is the data's own verdict")
    Origins.of(objectives, trust_remote_code, revisions or {})
    below = specs.less_is_better()
    output = Path(output)
    sources = [str(data)] if isinstance(data, str | os.PathLike) else [str(one) for one in data]
    require_other_file(output, sources)
    reading = Reading.of(columns, pairs_per_prompt)
    pairs, tally = read_for_labelling(
        sources, keep_labels=keep_labels, skip_bad_rows=skip_bad_rows, reading=reading
    )
    loaded = specs.load()  # after the data, as one may have to be fetched
    settings = settings_of(sources, loaded, below, keep_labels=keep_labels, reading=reading)
    with only_writer(output):
        job = RowFile(output, settings, overwrite=overwrite)
        for line in tally.lines():
            say(line)
        if lacks_some(job, pairs):
            _label(job, pairs, loaded, below, progress, say)
        return summary(job.path, objectives, below, tally, kept=keep_labels)


def _label(
    job: RowFile,
    pairs: Sequence[Comparison],
    scorers: Mapping[str, Scorer],
    costs: Sequence[str],
    progress: Progress,
    say: Say,
) -> None:
    """Score and write what is not done yet."""
    files = scratch_files(job, pairs, scorers)
    for line in made_again(files):
        say(line)
    with going_on():
        lines = label_pairs(job, pairs, files, costs, progress)
    for line in lines:
        say(line)
