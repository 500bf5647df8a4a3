"""`trimtab pareto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from trimtab.cli import show
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.cli.scorer_options import MeasureOptions

DESCRIPTION = "Sweep preferences: fronts of guides, their hypervolume and mean inner product."


@dataclass(kw_only=True)
class ParetoOptions(MeasureOptions):
    """Sweep preferences: fronts of guides, their hypervolume and mean inner product."""

    base: str
    """The frozen base: a folder or a hub id; unguided, it is always measured too."""

    guide: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """What is compared, as NAME=FOLDER or NAME=FOLDER@STRENGTH; repeat the option for several. The
    folder is one conditioned ARM, or holds one ARM per objective in its sub-folders; `{seed}` in it
    stands for each of --seeds. The others are compared with the first."""

    soup: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """The same, but the LoRA ARMs in the folder are averaged into one (rewarded soup)."""

    policies: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """The same, but the folder holds a policy per objective (DPO models, say), which are decoded
    together in the base's place (MOD); their strength is 1 or less."""

    combine: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """How the policies of a guide are decoded together, as NAME=forward-kl: `fusion` (the reverse
    KL, the default), `forward-kl`, `soup` or `factor-soup`, as for `trimtab generate`."""

    instruct: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A guide without training, called `instructions`: OBJECTIVE="Be as helpful as you can." for
    every objective, with a weight before the text where it is not 1. GUIDE.OBJECTIVE="..." names
    another guide. Repeat the option."""

    contrast: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A guide of the differences of two models, called `contrasts`: OBJECTIVE=TUNED:UNTUNED for
    every objective, or GUIDE.OBJECTIVE=TUNED:UNTUNED. Repeat the option."""

    prompts: str
    """File of rows with `prompt` (text or chat messages), or of preference pairs; each different
    prompt is taken once."""

    output_dir: str
    """Where responses, scores, front.json, table.md and front.png go. A killed run goes on where it
    stopped; a finished one only reports again."""

    preference_step: float = 0.1
    """Step of the preferences: 0.1 measures 11 of two objectives, 66 of three."""

    preference: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """A preference to measure, such as `helpful=0.7,harmless=0.3`, instead of all of a step;
    repeat the option for several."""

    strength: float = 1.0
    """How hard a guide pulls (1/β of the papers) that names no strength of its own."""

    seeds: list[int] = field(default_factory=lambda: [0])
    """Sampling seeds. Prompt number i is sampled with 100003 seed + i by every guide at every
    preference."""

    seed: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = 0
    """No option here: --seeds is."""

    batch_size: int = 32
    """Responses decoded together, whatever their preferences."""

    max_responses: int = 20000
    """Refuse a sweep of more responses than this."""

    normalize: Literal["base", "none"] = "base"
    """`base`: HV and MIP are in standard deviations of the base's own answers, with their mean as
    zero. `none`: in the scorers' units."""

    reference: str = "worst"
    """Reference point of the hypervolume: `worst` (the worst mean on each objective over all guides
    and the base), `base` (the base's means), or numbers in the scorers' own units, such as
    `helpful=0,harmless=-1`."""

    overwrite: bool = False
    """Replace what another run left in the output directory. Responses that are this run's own
    are kept."""

    json: bool = False
    """Print front.json."""


def main(argv: Sequence[str]) -> int:
    """Parse, sweep, show."""
    options = parse(ParetoOptions, argv, "pareto", DESCRIPTION)
    scoring = options.scoring()
    from trimtab.fronts.run import pareto

    quiet_libraries()
    with show.progress() as progress:
        front = pareto(
            base=options.base,
            guides=options.guide,
            soups=options.soup,
            policies=options.policies,
            combine=options.combine,
            instruct=options.instruct,
            contrast=options.contrast,
            prompts=options.prompts,
            output_dir=options.output_dir,
            prompts_limit=options.prompts_limit,
            preference_step=options.preference_step,
            preferences=options.preference,
            strength=options.strength,
            seeds=options.seeds,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            stop=options.stop,
            batch_size=options.batch_size,
            max_responses=options.max_responses,
            normalize=options.normalize,
            reference=options.reference,
            resamples=options.resamples,
            prompt_format=options.prompt_format,
            overwrite=options.overwrite,
            progress=progress,
            say=show.say,
            **scoring,
        )
    _show(front, options)
    return 0


def _show(front: Mapping[str, Any], options: ParetoOptions) -> None:
    from trimtab.fronts import table

    for line in table.warnings(front):
        show.say(line)
    if options.json:
        show.print_json(front)
        return
    screen = show.console()
    names, folder = ", ".join(front["objectives"]), Path(options.output_dir)
    columns, rows = table.columns(front), table.rows(front)
    heads = (f"fronts on {names} (HV and MIP: more is better)", "what they rest on")
    for title, picked in zip(heads, ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8)), strict=True):
        lines = [[row[i].replace(" [", "\n[") for i in picked] for row in rows]
        screen.print(show.table(title, [columns[i] for i in picked], lines))
    for note in table.notes(front):
        screen.print(note, style="dim", markup=False)
    screen.print(f"Open {folder / 'front.png'} and {folder / 'table.md'}.", soft_wrap=True)
