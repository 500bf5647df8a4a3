"""`trimtab train`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trimtab.cli.parse import parse, quiet_libraries
from trimtab.training.config import TrainConfig

DESCRIPTION = "Train a reward model on preference pairs: an ARM per objective, or a judge."


@dataclass(kw_only=True)
class TrainOptions(TrainConfig):
    """Train a reward model on preference pairs."""

    json: bool = False
    """Print the results as JSON."""

    def __post_init__(self) -> None:
        """Nothing yet: tyro would swallow the hint of an error. `TrainConfig` checks below."""


def main(argv: Sequence[str]) -> int:
    """Parse, train, print the results."""
    options = parse(TrainOptions, argv, "train", DESCRIPTION)
    settings = asdict(options)
    as_json = settings.pop("json")
    config = TrainConfig(**settings)
    from trimtab.cli import show
    from trimtab.training.run import Interrupted, train

    quiet_libraries()
    try:
        with show.progress() as report:
            results = train(config, report)
    except KeyboardInterrupt as stop:
        written = "a checkpoint was written; " if isinstance(stop, Interrupted) else ""
        again = "go on with the same command and --resume-from-checkpoint auto"
        raise KeyboardInterrupt(f"{written}{again}") from None
    if int(os.environ.get("RANK", "0")):
        return 0  # of several processes the first one speaks
    if as_json:
        show.print_json([{**asdict(r), "report": r.report.counts} for r in results])
        return 0
    for result in results:
        continued = " (continued)" if result.resumed else ""
        name = result.objective or "reward model"
        print(f"{name} is in {result.output_dir}{continued}")
        rows = [(name, f"{value:.4g}") for name, value in result.metrics.items()]
        show.console().print(show.table("", ("measured", "value"), rows))
    return 0
