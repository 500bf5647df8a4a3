"""`trimtab accuracy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from trimtab.cli.options import JsonOptions, ReadingOptions, RewardModelOptions
from trimtab.cli.parse import parse, quiet_libraries

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

    floor_data: list[str] = field(default_factory=list)
    """Pairs that the bag-of-words floor is fitted on; by default the training split of --data."""


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    options = parse(AccuracyOptions, argv, "accuracy", DESCRIPTION)
    from trimtab.cli import show
    from trimtab.evaluation.accuracy import accuracy

    quiet_libraries()
    measured = accuracy(
        options.arm,
        options.data,
        objective=options.objective,
        split=options.split,
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
        read = {"read": measured.rows.rows, **measured.rows.counts}
        named = {"model": options.arm, "data": options.data}
        show.print_json({**named, **asdict(measured), "n": measured.arm.n, "rows": read})
        return 0
    names = {"reward model": measured.arm, "prefer longer": measured.longer}
    rows = [
        (name, f"{e.value:.3f}", f"{e.low:.3f} – {e.high:.3f}", str(e.n))
        for name, e in names.items()
    ]
    floor = measured.bag_of_words
    rows.append(
        ("bag of words", f"{floor.value:.3f}", f"{floor.low:.3f} – {floor.high:.3f}", str(floor.n))
        if floor
        else ("bag of words", "–", "needs --floor-data", "–")
    )
    for line in measured.rows.lines():
        print(line)
    on = f" on {measured.objective}" if measured.objective else ""
    title = f"pairs ranked right{on} ({measured.split} split)"
    show.console().print(show.table(title, ("", "accuracy", "95 % interval", "n"), rows))
    return 0
