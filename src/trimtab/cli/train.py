"""`trimtab train`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trimtab.cli.options import JsonOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.training.config import TrainConfig

if TYPE_CHECKING:
    from trimtab.training.plan import TrainResult

DESCRIPTION = "Train a reward model on preference pairs: an ARM per objective, or a judge."


@dataclass(kw_only=True)
class TrainOptions(TrainConfig, JsonOptions):
    """Train a reward model on preference pairs."""


def main(argv: Sequence[str]) -> int:
    """Parse, train, print the results."""
    options = parse(TrainOptions, argv, "train", DESCRIPTION)
    settings = asdict(options)
    wants_json = settings.pop("json")
    from trimtab.cli import show
    from trimtab.training.plan import Interrupted
    from trimtab.training.run import train

    quiet_libraries()
    try:
        with show.progress() as progress:
            results = train(**settings, progress=progress)
    except KeyboardInterrupt as stop:
        written = "a checkpoint was written; " if isinstance(stop, Interrupted) else ""
        again = "go on with the same command and --resume-from-checkpoint auto"
        raise KeyboardInterrupt(f"{written}{again}") from None
    if int(os.environ.get("RANK", "0")):
        return 0  # of several processes the first one speaks
    if wants_json:
        show.print_json([as_json(result) for result in results])
        return 0
    for result in results:
        continued = " (continued)" if result.resumed else ""
        name = result.objective or "reward model"
        at_hub = f" and at {result.url}" if result.url else ""
        print(f"{name} is in {result.output_dir}{continued}{at_hub}")
        rows = [(name, f"{value:.4g}") for name, value in result.metrics.items()]
        show.console().print(show.table("", ("measured", "value"), rows))
        if "eval_n" not in result.metrics:
            print(f"Not evaluated. Do it: {_how_to_evaluate(options, result)}")
    return 0


def _how_to_evaluate(config: TrainConfig, result: TrainResult) -> str:
    """The command that measures what was trained, on the pairs kept for that."""
    command = ["trimtab", "accuracy", "--arm", result.output_dir, "--data"]
    command += config.eval_data or (config.data if config.split == "hash" else ["HELD_OUT_PAIRS"])
    command += ["--split", "all" if config.eval_data or config.split == "none" else "validation"]
    if config.conditions:
        command += ["--objective", result.objective.split("+")[0]]
    return shlex.join(command)


def as_json(result: TrainResult) -> dict[str, Any]:
    """A result as it is printed."""
    told = asdict(result)
    del told["rows"]
    return {**told, "report": result.rows.counts}
