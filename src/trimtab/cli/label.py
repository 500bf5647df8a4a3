"""`trimtab label`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.cli.parse import parse
from trimtab.cli.scorer_options import ScorerOptions
from trimtab.data.pairs import Comparison
from trimtab.data.reading import Reading
from trimtab.data.report import RowReport
from trimtab.errors import ConfigError
from trimtab.files import only_writer
from trimtab.jobs import RowFile, going_on

if TYPE_CHECKING:
    from trimtab.scoring.scorer import Scorer
    from trimtab.stats import Estimate

DESCRIPTION = "Relabel preference pairs: which side is better, on each objective, by scorers."


@dataclass(kw_only=True)
class LabelOptions(ScorerOptions):
    """Relabel preference pairs: which side is better, on each objective, by scorers."""

    data: list[str]
    """Preference files, folders of `datasets` or hub ids (`owner/name:split`), in any layout of
    docs/data.md; NAME=FILE says what a file was judged on, for --keep-labels."""

    output: str
    """JSONL file of `prompt`, `chosen`, `rejected`, `labels` (0: chosen is better, 1: rejected is,
    null: a tie or a missing score), `kept` (labels that were there before) and `scores` ([of
    chosen, of rejected]), for `trimtab train`. A killed run goes on where it stopped; a finished
    one asks again for the scores that are missing."""

    keep_labels: bool = False
    """Keep the verdicts that the data hold (`labels`, `scores` with more as better, `objective`, or
    NAME=FILE) and let the scorers label the rest, ties too. Every pair is scored on everything:
    that says how often the scorers agree with the labels kept (too often on pairs they learned
    from)."""

    columns: str = ""
    """Which columns hold what, where no layout fits: `prompt=question,chosen=good,rejected=bad`."""

    pairs_per_prompt: int = 0
    """Where a prompt has several rated or ranked answers, make this many pairs of them; 0 makes
    all."""

    skip_bad_rows: bool = False
    """Leave malformed rows out, counted and named, instead of refusing the data."""

    overwrite: bool = False
    """Replace an output file of another run."""

    json: bool = False
    """Print the counts as JSON."""


def main(argv: Sequence[str]) -> int:
    """Read, score, label, count."""
    options = parse(LabelOptions, argv, "label", DESCRIPTION)
    objectives = options.objectives()
    if "chosen" in objectives:
        raise ConfigError("an objective is called 'chosen'", "that is the data's own verdict")
    options.require_names()
    costs = options.cost_names(objectives)
    from trimtab.scoring.labelling import (
        lacks_some,
        read_for_labelling,
        require_other_file,
        settings_of,
    )

    require_other_file(Path(options.output), options.data)
    kept, reading = options.keep_labels, Reading.of(options.columns, options.pairs_per_prompt)
    pairs, report = read_for_labelling(
        options.data, keep_labels=kept, skip_bad_rows=options.skip_bad_rows, reading=reading
    )
    scorers = options.scorers()  # after the data, as one may have to be fetched
    settings = settings_of(options.data, scorers, costs, keep_labels=kept, reading=reading)
    with only_writer(Path(options.output)):
        job = RowFile(Path(options.output), settings, overwrite=options.overwrite)
        for line in report.lines():
            print(line, file=sys.stderr)
        if lacks_some(job, pairs):
            _label(job, pairs, scorers, costs)
        found = summary(job.path, objectives, costs, report, kept=options.keep_labels)
    from trimtab.cli import show

    if options.json:
        show.print_json(found)
    else:
        _show(found, job.path)
    for name, verdicts in found["objectives"].items():
        if not verdicts["chosen"] + verdicts["rejected"]:
            print(f"warning: no pair is decided on {name}: it cannot be trained", file=sys.stderr)
    return 0


def _label(
    job: RowFile,
    pairs: Sequence[Comparison],
    scorers: Mapping[str, Scorer],
    costs: Sequence[str],
) -> None:
    """Score and write what is not done yet."""
    from trimtab.cli import show
    from trimtab.cli.parse import quiet_libraries
    from trimtab.scoring.labelling import label_pairs, scratch_files
    from trimtab.scoring.score_files import made_again

    quiet_libraries()
    files = scratch_files(job, pairs, scorers)
    for line in made_again(files):
        print(line, file=sys.stderr)
    with going_on(), show.progress() as progress:
        lines = label_pairs(job, pairs, files, costs, progress)
    for line in lines:
        print(line, file=sys.stderr)


def summary(
    path: Path, scored: Sequence[str], costs: Sequence[str], report: RowReport, *, kept: bool
) -> dict[str, Any]:
    """Counts of verdicts per objective, and how often any two verdicts agree."""
    from trimtab.scoring.labels import agreement, agreement_with_kept, tally
    from trimtab.scoring.score_files import read_jsonl

    rows = list(read_jsonl(path))
    labels, scores = [row["labels"] for row in rows], [row["scores"] for row in rows]
    own = [{name: row["labels"][name] for name in row.get("kept", ())} for row in rows]
    objectives = dict.fromkeys([*scored, *(name for row in own for name in row)])
    with_kept = agreement_with_kept(own, scores, costs) if kept else {}
    return {
        "pairs": len(rows),
        "rows": {"read": report.rows, **report.counts},
        "objectives": {name: tally(labels, scores, name) for name in objectives},
        "agreement": _shares(agreement(labels, [*objectives], kept=kept)),
        "agreement_with_kept": _shares(with_kept),
    }


def _shares(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """For JSON, which has no NaN: a share of no pairs is null."""
    return {name: {**asdict(e), "value": e.value if e.n else None} for name, e in estimates.items()}


def _show(found: Mapping[str, Any], path: Path) -> None:
    from trimtab.cli import show

    screen = show.console()
    counts = [
        (name, *(str(count) for count in verdicts.values()))
        for name, verdicts in found["objectives"].items()
    ]
    title = f"which side of {found['pairs']} pairs is better"
    screen.print(show.table(title, ("", "chosen", "rejected", "tie", "missing"), counts))
    kept = {f"{name}: kept and scored": e for name, e in found["agreement_with_kept"].items()}
    shares = [
        (pair, f"{e['value']:.3f}", f"{e['low']:.3f} – {e['high']:.3f}", str(e["n"]))
        if e["n"]
        else (pair, "–", "–", "0")
        for pair, e in (found["agreement"] | kept).items()
    ]
    columns = ("", "agree", "95 % interval", "pairs both decide")
    screen.print(show.table("how often two verdicts agree", columns, shares))
    decided = any(own["chosen"] + own["rejected"] for own in found["objectives"].values())
    if decided:
        screen.print(f"Train on it: trimtab train --data {path} …", soft_wrap=True, markup=False)
