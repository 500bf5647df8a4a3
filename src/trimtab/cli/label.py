"""`trimtab label`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.cli import show
from trimtab.cli.options import JsonOptions, ReadingOptions, RowFileOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.cli.scorer_options import ScorerOptions

DESCRIPTION = "Relabel preference pairs: which side is better, on each objective, by scorers."


@dataclass(kw_only=True)
class LabelOptions(ReadingOptions, RowFileOptions, JsonOptions, ScorerOptions):
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


def main(argv: Sequence[str]) -> int:
    """Parse, label, show the counts."""
    options = parse(LabelOptions, argv, "label", DESCRIPTION)
    scoring = options.scoring()
    from trimtab.scoring.label import label

    quiet_libraries()
    with show.progress() as progress:
        counts = label(
            data=options.data,
            output=options.output,
            keep_labels=options.keep_labels,
            columns=options.columns,
            pairs_per_prompt=options.pairs_per_prompt,
            skip_bad_rows=options.skip_bad_rows,
            overwrite=options.overwrite,
            progress=progress,
            say=show.say,
            **scoring,
        )
    if options.json:
        show.print_json(counts)
    else:
        _show(counts, options.output)
    for name, verdicts in counts["objectives"].items():
        if not verdicts["chosen"] + verdicts["rejected"]:
            show.say(f"warning: no pair is decided on {name}: it cannot be trained")
    return 0


def _show(summary: Mapping[str, Any], path: str) -> None:
    screen = show.console()
    counts = [
        (name, *(str(count) for count in verdicts.values()))
        for name, verdicts in summary["objectives"].items()
    ]
    title = f"which side of {summary['pairs']} pairs is better"
    screen.print(show.table(title, ("", "chosen", "rejected", "tie", "missing"), counts))
    kept = {f"{name}: kept and scored": e for name, e in summary["agreement_with_kept"].items()}
    shares = [
        (pair, f"{e['value']:.3f}", f"{e['low']:.3f} – {e['high']:.3f}", str(e["n"]))
        if e["n"]
        else (pair, "–", "–", "0")
        for pair, e in (summary["agreement"] | kept).items()
    ]
    columns = ("", "agree", "95 % interval", "pairs both decide")
    screen.print(show.table("how often two verdicts agree", columns, shares))
    decided = any(own["chosen"] + own["rejected"] for own in summary["objectives"].values())
    if decided:
        screen.print(f"Train on it: trimtab train --data {path} …", soft_wrap=True, markup=False)
