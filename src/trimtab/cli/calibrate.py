"""`trimtab calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from trimtab.arms.named import split_arm
from trimtab.cli import show
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.cli.scorer_options import MeasureOptions
from trimtab.engines.guides import contrasts, models_of
from trimtab.errors import ConfigError
from trimtab.models.origins import Origins
from trimtab.scoring.specs import ScorerSpecs
from trimtab.steering import parse_strength

if TYPE_CHECKING:
    from trimtab.calibration.plan import Calibration

DESCRIPTION = "Find the strength that a guide should have, and store it as an ARM's scale."
_PASSED = (
    *("target_kl", "tolerance", "max_kl", "max_loops", "preference", "save", "output_dir"),
    *("overwrite", "prompts_limit", "resamples", "batch_size", "prompt_format", "dtype", "device"),
)


@dataclass(kw_only=True)
class CalibrateOptions(MeasureOptions):
    """Find the strength that a guide should have, and store it as an ARM's scale."""

    arm: str | None = None
    """The ARM, as FOLDER_OR_HUB_ID or OBJECTIVE=FOLDER_OR_HUB_ID."""

    instruct: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Instead of an ARM, one instruction: NAME="Use short words.", whose weight multiplies
    --strengths. Nothing is stored: pass the strength found yourself."""

    contrast: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Instead of an ARM, one contrast: NAME=TUNED:UNTUNED, likewise."""

    prompts: str
    """File of rows with `prompt` (text or chat messages), or of preference pairs; each different
    prompt is taken once. None that the ARM was trained on."""

    target_kl: float | None = None
    """Nats per generated token that the answers' distribution should be from the base's, mean over
    prompts (0.2 is a clear effect). Without it the one --scorer decides: the strength with the best
    mean score is taken. With it a --scorer is only shown."""

    tolerance: float = 0.05
    """How far the KL may be from --target-kl, as a share of it. Between two of --strengths it is
    interpolated, and measured, until it is within."""

    max_kl: float | None = None
    """Nats per token that the best score may cost at most; no limit by default."""

    max_loops: float = 0.1
    """Share of answers that may loop beyond the base's own for the best score to count."""

    strengths: str = "0,0.25,0.5,1,2,4"
    """Strengths to measure first, as if no scale were stored with the ARM."""

    preference: str | None = None
    """Of a conditioned ARM, such as `helpful=0.7,harmless=0.3`; by default every prompt is answered
    for each objective by itself, and the mean counts."""

    save: bool = False
    """Store the strength found as `scale` in the ARM's trimtab.json, so that strength 1 means it.
    Nothing else in the folder changes; without this nothing does."""

    output_dir: str | None = None
    """Folder for calibration.json and calibration.png."""

    overwrite: bool = False
    """Replace what is in the output directory."""

    batch_size: int = 16
    """Answers decoded together, whatever their strengths."""

    json: bool = False
    """Print calibration.json."""


def main(argv: Sequence[str]) -> int:
    """Parse, calibrate, show."""
    options = parse(CalibrateOptions, argv, "calibrate", DESCRIPTION)
    name, folder = split_arm(options.arm) if options.arm else (None, None)
    settings = {**_settings(options, name), **_scorer(options)}
    from trimtab.calibration.calibrate import calibrate
    from trimtab.calibration.plan import NoStrengthError

    quiet_libraries()
    try:
        with show.progress() as progress:
            measured = calibrate(
                options.base, folder, options.prompts, progress=progress, **settings
            )
    except NoStrengthError as error:
        _show(error.measured, options)
        raise
    _show(measured, options)
    return 0


def _settings(options: CalibrateOptions, name: str | None) -> dict[str, Any]:
    """The options as `calibrate` takes them, but for the scorer."""
    opposed = models_of(contrasts(options.contrast))
    models = ("base", *opposed) if options.arm is None else ("base", name or "arm")
    scoring = options.scoring()
    revisions = scoring["revisions"]
    Origins.of([*models, *scoring["scorers"]], options.trust_remote_code, revisions)
    return {
        **options.sampling().written(),
        **{key: getattr(options, key) for key in _PASSED},
        "name": name,
        "instruct": options.instruct,
        "contrast": options.contrast,
        "strengths": _strengths(options.strengths),
        "trust_remote_code": [one for one in options.trust_remote_code if one in models],
        "revisions": {one: revisions[one] for one in models if one in revisions},
    }


def _scorer(options: CalibrateOptions) -> dict[str, Any]:
    """The one scorer, made, and what it is called."""
    if not options.scorer:
        return {}
    specs = ScorerSpecs(**options.scoring())
    if len(specs.objectives()) > 1:
        raise ConfigError("several scorers", "one decides on a strength: give one --scorer")
    below = specs.less_is_better()
    [(objective, scorer)] = specs.load().items()
    return {"objective": objective, "cost": bool(below), "scorer": scorer}


def _strengths(text: str) -> list[float]:
    return [parse_strength(part.strip()) for part in text.split(",") if part.strip()]


def _show(measured: Calibration, options: CalibrateOptions) -> None:
    from trimtab.calibration import files

    if options.json:
        show.print_json(files.as_json(measured))
        return
    screen = show.console()
    columns, rows = files.columns(measured), files.rows(measured)
    lines = [[cell.replace(" [", "\n[") for cell in row] for row in rows]
    guide = measured.arm or measured.facts["name"]
    screen.print(show.table(f"{guide} against its strength", columns, lines))
    for note in files.notes(measured):
        screen.print(note, style="dim", markup=False)
    if measured.saved:
        screen.print(f"Stored scale {measured.scale:g} in {measured.arm}: strength 1 now means it.")
    elif measured.chosen and not measured.arm:
        screen.print(f"Pass it: --strength {measured.scale:g}.")
    elif measured.chosen:
        screen.print(f"Scale {measured.scale:g}; nothing is stored without --save.")
    if options.output_dir:
        folder = Path(options.output_dir)
        screen.print(f"Open {folder / files.PICTURE}.", soft_wrap=True)
