"""`trimtab score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.cli import show
from trimtab.cli.options import RewardModelOptions, RowFileOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.scoring.score import score_file

DESCRIPTION = "Per-token and per-response rewards of given responses."


@dataclass(kw_only=True)
class ScoreOptions(RowFileOptions, RewardModelOptions):
    """Rewards of given responses."""

    arm: str
    """The reward model: a folder that `trimtab train` wrote, any causal LM, or a sequence
    classifier with one output (its logit)."""

    input: str
    """File of rows with `prompt` and `response`, answers of `trimtab generate`, AlpacaEval outputs,
    or preference pairs (both sides are scored)."""

    preference: str | None = None
    """What a conditioned ARM scores for, such as `helpful=0.7,harmless=0.3`; by default all
    objectives alike."""

    output: str | None = None
    """JSONL file for the rewards of every token; without it a table is printed."""

    json: bool = False
    """Print rewards, tokens included, as JSON."""


def main(argv: Sequence[str]) -> int:
    """Parse, score, print what was not written."""
    options = parse(ScoreOptions, argv, "score", DESCRIPTION)
    quiet_libraries()
    with show.progress() as progress:
        rows = score_file(
            options.arm,
            input=options.input,
            output=options.output,
            preference=options.preference,
            batch_size=options.batch_size,
            dtype=options.dtype,
            device=options.device,
            trust_remote_code=options.trust_remote_code,
            revision=options.revision,
            overwrite=options.overwrite,
            progress=progress,
            say=show.say,
        )
    if options.output is None:
        _print(rows, as_json=options.json)
    return 0


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        show.print_json(rows)
        return
    shown = [
        (
            row["source"],
            f"{row['reward']:.2f}",
            str(len(row["tokens"])) if row["tokens"] else "–",
            row["response"].replace("\n", " ")[:60],
        )
        for row in rows
    ]
    by_token = any(row["tokens"] for row in rows)
    title = "rewards (nats; --json or --output for every token)" if by_token else "rewards"
    show.console().print(show.table(title, ("row", "reward", "tokens", "response"), shown))
