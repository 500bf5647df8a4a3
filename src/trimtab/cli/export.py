"""`trimtab export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.cli.parse import parse, quiet_libraries

DESCRIPTION = "A conditioned ARM at one preference as a standard LoRA folder, or a merged model."


@dataclass(kw_only=True)
class ExportOptions:
    """A conditioned ARM at one preference."""

    arm: str
    """The ARM: a folder or hub id. PARM and UniARM need --preference; a GenARM LoRA --merge."""

    output_dir: str
    """Where the folder goes."""

    preference: str | None = None
    """Weight per objective, such as `helpful=0.7,harmless=0.3`."""

    merge: bool = False
    """Write a whole model: the backbone with the adapter in its weights."""

    overwrite: bool = False
    """Allow an output directory that is not empty."""


def main(argv: Sequence[str]) -> int:
    """Export and say where."""
    options = parse(ExportOptions, argv, "export", DESCRIPTION)
    from trimtab.arms.export import export_arm

    quiet_libraries()
    folder = export_arm(
        options.arm,
        options.output_dir,
        preference=options.preference,
        merge=options.merge,
        overwrite=options.overwrite,
    )
    kind = "a whole model" if options.merge else "a standard LoRA"
    print(f"{kind} is in {folder}")
    return 0
