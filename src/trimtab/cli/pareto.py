"""`trimtab pareto`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import tyro

from trimtab.cli.options import SamplingOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.cli.scorer_options import ScorerOptions, named_entries
from trimtab.errors import ConfigError
from trimtab.files import only_writer
from trimtab.jobs import RowFile, going_on
from trimtab.models.types import PromptFormat
from trimtab.steering import Steering, parse_strength

if TYPE_CHECKING:
    from trimtab.data.report import RowReport
    from trimtab.fronts.report import Design, Reference
    from trimtab.fronts.sweep import Sweep
    from trimtab.scoring.score_files import ScoreFile
    from trimtab.scoring.scorer import Scorer

DESCRIPTION = "Sweep preferences: fronts of guides, their hypervolume and mean inner product."


@dataclass(kw_only=True)
class ParetoOptions(ScorerOptions, SamplingOptions):
    """Sweep preferences: fronts of guides, their hypervolume and mean inner product."""

    base: str
    """The frozen base: a folder or a hub id; unguided, it is always measured too."""

    guide: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """What is compared, as NAME=FOLDER or NAME=FOLDER@STRENGTH; repeat the option for several. The
    folder is one conditioned ARM, or holds one ARM per objective in its sub-folders; `{seed}` in it
    stands for each of --seeds. The others are compared with the first."""

    soup: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """The same, but the LoRA ARMs in the folder are averaged into one (rewarded soup)."""

    prompts: str
    """File of rows with `prompt` (text or chat messages), or of preference pairs; each different
    prompt is taken once."""

    output_dir: str
    """Where responses, scores, front.json, table.md and front.png go. A killed run goes on where it
    stopped; a finished one only reports again."""

    prompts_limit: int | None = None
    """Take this many prompts, from the beginning of the file."""

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

    resamples: int = 2000
    """Bootstrap resamples of the prompts behind every interval."""

    prompt_format: PromptFormat = "auto"
    """How a plain-text prompt is read: as one user turn, as it stands, or by the tokenizer."""

    overwrite: bool = False
    """Replace what another run left in the output directory. Responses that are this run's own
    are kept."""

    json: bool = False
    """Print front.json."""


def main(argv: Sequence[str]) -> int:
    """Check everything, answer, score, report."""
    options = parse(ParetoOptions, argv, "pareto", DESCRIPTION)
    objectives = options.objectives()
    reference = _checked(options, objectives)
    sweep, design, unusable = _plan(options, objectives)
    scorers = options.scorers()  # the last, as one may have to be fetched
    from trimtab.fronts.files import write_report
    from trimtab.fronts.report import front_report

    folder = Path(options.output_dir)
    with only_writer(folder, folder=True):
        with going_on():
            records = _records(options, sweep, design, scorers, unusable)
        report = front_report(
            records,
            design,
            normalize=options.normalize,
            reference=reference,
            resamples=options.resamples,
        )
        write_report(folder, report)
    _show(report, options)
    return 0


def _checked(options: ParetoOptions, objectives: Sequence[str]) -> Reference:
    """Refuse numbers that mean nothing; returns the reference point."""
    if len(objectives) < 2:
        raise ConfigError("one objective makes no front", "give --scorer for two or more")
    if not options.guide and not options.soup:
        raise ConfigError("no guide to measure", "give --guide NAME=FOLDER")
    least = {"batch_size": 1, "prompts_limit": 1, "max_responses": 1, "resamples": 100}
    for name, number in least.items():
        given = getattr(options, name)
        if given is not None and given < number:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} is {given}", f"it must be {number} or more")
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise ConfigError("--seeds are none, or one twice", "give each seed once")
    return _reference(options.reference, objectives)


def _reference(text: str, objectives: Sequence[str]) -> Reference:
    if text in ("worst", "base"):
        return cast(Literal["worst", "base"], text)
    hint = "write worst, base, or a number for each: " + ",".join(f"{o}=0" for o in objectives)
    numbers: dict[str, float] = {}
    for name, value in named_entries(text.split(","), "--reference", "helpful=0").items():
        try:
            numbers[name] = float(value)
        except ValueError:
            raise ConfigError(f"--reference has {value!r} for {name!r}", hint) from None
    if set(numbers) != set(objectives) or not all(map(math.isfinite, numbers.values())):
        raise ConfigError(f"cannot use --reference {text}", hint)
    return numbers


def _plan(options: ParetoOptions, objectives: Sequence[str]) -> tuple[Sweep, Design, RowReport]:
    """What to do, checked before any model is loaded."""
    from trimtab.data.prompts import read_prompts
    from trimtab.fronts.guides import read_guides
    from trimtab.fronts.report import Design
    from trimtab.fronts.sweep import Sweep
    from trimtab.models.folder import check_folder
    from trimtab.models.origins import parse_revisions

    costs, sampling = options.cost_names(objectives), options.sampling()
    check_folder(options.base, what="base model")
    revisions = parse_revisions(options.revision)
    guides = read_guides(
        options.guide,
        options.soup,
        objectives=objectives,
        seeds=options.seeds,
        strength=parse_strength(options.strength),
        revisions=revisions,
    )
    options.require_names("base", *(name for guide in guides for name in guide.names))
    prompts, unusable = read_prompts(options.prompts, options.prompts_limit)
    points = _preferences(options, objectives, len(guides), len(prompts))
    sweep = Sweep(
        base=options.base,
        guides=guides,
        preferences=points,
        seeds=options.seeds,
        prompts=prompts,
        sampling=sampling,
        prompt_format=options.prompt_format,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        batch_size=options.batch_size,
        revision=revisions.get("base"),
    )
    names = [guide.name for guide in guides]
    return sweep, Design(names, objectives, costs, points, options.seeds, len(prompts)), unusable


def _preferences(
    options: ParetoOptions, objectives: Sequence[str], guides: int, prompts: int
) -> list[Mapping[str, float]]:
    """The points of the sweep, once they are known to be within the budget."""
    from trimtab.fronts.lattice import lattice, lattice_size
    from trimtab.fronts.sweep import require_within_budget

    chosen = [Steering.of(objectives, text).preference for text in options.preference]
    for i, point in enumerate(chosen):
        if point in chosen[:i]:
            raise ConfigError(f"--preference {options.preference[i]} is given twice", "drop one")
    require_within_budget(
        guides,
        len(options.seeds),
        len(chosen) or lattice_size(len(objectives), options.preference_step),
        prompts,
        most=options.max_responses,
        max_new_tokens=options.max_new_tokens,
    )
    return chosen or [*lattice(objectives, options.preference_step)]


def _records(
    options: ParetoOptions,
    sweep: Sweep,
    design: Design,
    scorers: Mapping[str, Scorer],
    unusable: RowReport,
) -> list[dict[str, Any]]:
    """Answer and score what is not done yet; returns all rows."""
    from trimtab.cli import show
    from trimtab.fronts import files as front_files
    from trimtab.fronts.sweep import SCORES, own_file, respond, responses_file
    from trimtab.scoring.score_files import made_again, missing, score_answers, score_files

    folder, settings = Path(options.output_dir), sweep.settings()
    responses = responses_file(folder, settings, overwrite=options.overwrite)

    def place(objective: str) -> Path:
        return folder / SCORES.format(objective)

    def files() -> list[ScoreFile]:
        return own_file(lambda: score_files(place, settings, scorers, overwrite=options.overwrite))

    _try_out(sweep, responses, files())
    for line in unusable.lines():
        print(line, file=sys.stderr)

    def write_manifest(*, answering: bool) -> None:
        counts = unusable.counts
        front_files.write_manifest(folder, sweep, design, scorers, counts, answering=answering)

    def begun() -> None:
        front_files.forget_scores(folder)
        write_manifest(answering=True)

    with show.progress() as progress:
        respond(sweep, responses, progress, begun=begun)
        scores = files()
        for line in made_again(scores):
            print(line, file=sys.stderr)
        if any(file.lacks_some(sweep.size) for file in scores):
            front_files.forget_results(folder)
        write_manifest(answering=False)
        found = score_answers(scores, list(front_files.answers_of(folder)), progress)
    for line in missing(scores, found):
        print(line, file=sys.stderr)
    return front_files.write_records(folder, found)


def _try_out(sweep: Sweep, responses: RowFile, files: Sequence[ScoreFile]) -> None:
    """Find out what cannot work before the first response is made, as far as that is cheap."""
    from trimtab.fronts.sweep import require_vocabularies
    from trimtab.scoring.scorer import PROBE

    quiet_libraries()
    unanswered = responses.done < sweep.size
    if unanswered:
        require_vocabularies(sweep)
    for file in files:
        if unanswered:  # what is not known yet is longer than this
            places = [f"prompt {i}" for i in range(1, len(sweep.prompts) + 1)]
            file.scorer.check(sweep.prompts, [PROBE] * len(places), places=places)
        if unanswered or file.lacks_some(sweep.size):
            file.scorer.probe(sweep.prompts[0])


def _show(report: Mapping[str, Any], options: ParetoOptions) -> None:
    from trimtab.cli import show
    from trimtab.fronts import table

    for line in table.warnings(report):
        print(line, file=sys.stderr)
    if options.json:
        show.print_json(report)
        return
    screen = show.console()
    names, folder = ", ".join(report["objectives"]), Path(options.output_dir)
    columns, rows = table.columns(report), table.rows(report)
    heads = (f"fronts on {names} (HV and MIP: more is better)", "what they rest on")
    for title, picked in zip(heads, ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8)), strict=True):
        lines = [[row[i].replace(" [", "\n[") for i in picked] for row in rows]
        screen.print(show.table(title, [columns[i] for i in picked], lines))
    for note in table.notes(report):
        screen.print(note, style="dim", markup=False)
    screen.print(f"Open {folder / 'front.png'} and {folder / 'table.md'}.", soft_wrap=True)
