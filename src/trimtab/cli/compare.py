"""`trimtab compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from trimtab.cli import show
from trimtab.cli.judge_options import JudgeOptions
from trimtab.cli.options import JsonOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.cli.scorer_options import ScorerOptions
from trimtab.models.types import PromptFormat

DESCRIPTION = "Whose answers are better: win rates of two sides, by held-out judges."


@dataclass(kw_only=True)
class CompareOptions(JsonOptions, JudgeOptions, ScorerOptions):
    """Whose answers are better: win rates of two sides, by held-out judges."""

    a: Annotated[str, tyro.conf.Positional]
    """A file of answers (of `trimtab generate --output`, rows with `prompt` and `response`, or
    AlpacaEval's outputs), or a folder that holds one for each training seed."""

    b: Annotated[str, tyro.conf.Positional]
    """What it is compared with, likewise: answers to the same prompts. With equally many seeds the
    i-th of A meets the i-th of B; otherwise all of A meet all of B."""

    output_dir: str | None = None
    """Where scores, verdicts.jsonl, table.md and results.json go. A killed run goes on where it
    stopped; a finished one asks again for the scores that are missing."""

    base: str | None = None
    """The frozen base, a folder or a hub id: the answers' negative log-likelihood under it is
    measured, too, nats per token."""

    prompt_format: PromptFormat = "auto"
    """How the base reads a plain-text prompt: as one user turn, as it stands, or by the
    tokenizer."""

    resamples: int = 2000
    """Bootstrap resamples of training seeds and prompts behind every interval."""

    seed: int = 0
    """Of the bootstrap."""

    overwrite: bool = False
    """Replace what another comparison left in the output directory."""


def main(argv: Sequence[str]) -> int:
    """Parse, compare, show."""
    options = parse(CompareOptions, argv, "compare", DESCRIPTION)
    scoring, judges = options.scoring(), options.judges()
    from trimtab.comparison.run import compare

    quiet_libraries()
    with show.progress() as progress:
        results = compare(
            a=options.a,
            b=options.b,
            judges=judges,
            base=options.base,
            prompt_format=options.prompt_format,
            output_dir=options.output_dir,
            resamples=options.resamples,
            seed=options.seed,
            overwrite=options.overwrite,
            progress=progress,
            say=show.say,
            **scoring,
        )
    _show(results, options)
    return 0


def _show(results: Mapping[str, Any], options: CompareOptions) -> None:
    from trimtab.comparison import table

    for line in table.warnings(results):
        show.say(line)
    if options.json:
        show.print_json(results)
        return
    screen = show.console()
    for title, columns, rows in table.tables(results):
        folded = [[text.replace(" [", "\n[") for text in row] for row in rows]
        screen.print(show.table(title, columns, folded))
    for note in table.notes(results):
        screen.print(note, style="dim", markup=False)
    if options.output_dir:
        told = Path(options.output_dir) / "table.md"
        screen.print(f"Open {told}.", soft_wrap=True, markup=False)
