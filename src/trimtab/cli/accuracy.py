"""`trimtab accuracy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trimtab.cli.options import JsonOptions, ReadingOptions, RewardModelOptions
from trimtab.cli.parse import parse, quiet_libraries

if TYPE_CHECKING:
    from trimtab.evaluation.accuracy import AccuracyReport

DESCRIPTION = "Pairwise accuracy of a reward model on held-out pairs, beside its floors."


@dataclass(kw_only=True)
class AccuracyOptions(ReadingOptions, JsonOptions, RewardModelOptions):
    """Pairwise accuracy of a reward model."""

    arm: str
    """The reward model: a folder that `trimtab train` wrote, or a hub id."""

    data: list[str]
    """Preference files, folders of `datasets` or hub ids, in any layout of docs/data.md."""

    objective: str | None = None
    """The objective measured; by default the one the model was trained for. A conditioned ARM gets
    all of the preference on it."""

    split: Literal["test", "validation", "train", "all"] = "test"
    """Which pairs, by prompt hash; `all` when the whole file is held out."""

    by: str | None = None
    """The column that names a pair's subset, such as RewardBench's: each subset's accuracy, and
    their unweighted mean, beside that of all pairs; by default `subset` where there is one, "" for
    none."""

    length_tolerance: float = 0.1
    """Pairs are matched in length whose answers differ by at most this share of the longer one's
    characters."""

    floor_data: list[str] = field(default_factory=list)
    """Pairs that the bag-of-words floor is fitted on; by default the training split of --data."""


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    options = parse(AccuracyOptions, argv, "accuracy", DESCRIPTION)
    from trimtab.cli import show
    from trimtab.cli.show_accuracy import show_accuracy
    from trimtab.evaluation.accuracy import accuracy

    quiet_libraries()
    measured = accuracy(
        options.arm,
        options.data,
        objective=options.objective,
        split=options.split,
        by=options.by,
        length_tolerance=options.length_tolerance,
        train_data=options.floor_data,
        skip_bad_rows=options.skip_bad_rows,
        columns=options.columns,
        pairs_per_prompt=options.pairs_per_prompt,
        batch_size=options.batch_size,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        revision=options.revision,
    )
    if options.json:
        show.print_json({"model": options.arm, "data": options.data, **_as_json(measured)})
        return 0
    for line in measured.rows.lines():
        print(line)
    show_accuracy(measured)
    return 0


def _as_json(measured: AccuracyReport) -> dict[str, Any]:
    rows = measured.rows
    return {
        **asdict(measured),
        "n": measured.arm.n,
        "rows": {"read": rows.rows, **rows.counts},
        "noted": {what: len(places) for what, places in rows.noted.items()},
        "columns_not_used": list(rows.unused),
    }
