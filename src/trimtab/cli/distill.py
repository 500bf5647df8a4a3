"""`trimtab distill`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trimtab.cli import show
from trimtab.cli.options import JsonOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.cli.train import as_json
from trimtab.distillation.config import DistillConfig

DESCRIPTION = (
    "Make an ARM of an instruction or a contrast: the same steering without the guide's tokens. "
    "Responses are sampled with the guide, then a LoRA of the base learns what it does to them. "
    "A killed run goes on with the same command."
)


@dataclass(kw_only=True)
class DistillOptions(DistillConfig, JsonOptions):
    """Make an ARM of an instruction or a contrast."""


def main(argv: Sequence[str]) -> int:
    """Parse, distill, show the result."""
    options = parse(DistillOptions, argv, "distill", DESCRIPTION)
    settings = asdict(options)
    wants_json = settings.pop("json")
    from trimtab.distillation.distill import distill

    quiet_libraries()
    try:
        with show.progress() as progress:
            result = distill(**settings, progress=progress, say=show.say)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or "go on with the same command") from None
    if wants_json:
        show.print_json(as_json(result))
        return 0
    print(f"{result.objective} is in {result.output_dir}{' (continued)' if result.resumed else ''}")
    rows = [(name, f"{value:.4g}") for name, value in result.metrics.items()]
    show.console().print(show.table("", ("measured", "value"), rows))
    arm = f"{result.objective}={result.output_dir}"
    print(f"Use it: trimtab generate --base {options.base} --arm {arm} --prompt …")
    return 0
