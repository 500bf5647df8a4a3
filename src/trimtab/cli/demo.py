"""`trimtab demo`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.cli.parse import parse, quiet_libraries
from trimtab.files import only_writer, require_fresh

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.engines.types import Completion

DESCRIPTION = "The whole story on embedded models: train two ARMs, steer a frozen model, measure."


@dataclass(kw_only=True)
class DemoOptions:
    """The whole story on embedded models."""

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
    """Train, steer, measure, write."""
    started = time.monotonic()
    from trimtab.cli import show
    from trimtab.demo import pages, story
    from trimtab.demo.prompts import HELD_OUT_PROMPTS
    from trimtab.demo.rules import UNITS

    quiet_libraries()
    screen = show.console()
    screen.print(
        "[bold]Trimtab demo[/] · a frozen 5.7 M-parameter chat model, two objectives, offline\n"
        "1. Train one small reward model (ARM) per objective on preference pairs.\n"
        "2. Fuse them with the frozen model, token by token, at the preference you ask for.\n"
        "3. Measure on prompts that no ARM has seen.\n"
    )
    with show.progress() as progress:
        trained = story.train_arms(
            output, seed=options.seed, overwrite=options.overwrite, progress=progress
        )
        engine = story.load_arms(output)
        shown = story.side_by_side(engine, seed=options.seed)
        swept = story.sweep(engine, seed=options.seed, progress=progress)
    for result in trained.values():
        accuracy, n = result.metrics["eval_accuracy"], result.metrics["eval_n"]
        screen.print(
            f"ARM [bold]{result.objective}[/]: {accuracy:.0%} of {n} validation pairs ranked right"
        )
    for prompt, answers in shown.items():
        _print_answers(screen, prompt, answers)
    columns = ["setting", *(UNITS[name] for name in story.OBJECTIVES)]
    title = f"Means over {len(HELD_OUT_PROMPTS)} held-out prompts [95 % intervals]"
    screen.print(show.table(title, columns, pages.score_rows(swept)))
    pages.save_results(output / "results.json", trained, swept, seed=options.seed)
    pages.draw(output / "tradeoff.png", swept)
    page = output / "report.html"
    pages.save_report(page, shown, swept, output / "tradeoff.png", seed=options.seed)
    screen.print(
        f"\nOpen [bold]{page}[/] (every token coloured by its reward) and "
        f"[bold]{output / 'tradeoff.png'}[/].\nTry it: trimtab chat --base {_model()} "
        + " ".join(f"--arm {name}={output / 'arms' / name}" for name in story.OBJECTIVES),
        soft_wrap=True,
    )
    screen.print(f"Done in {time.monotonic() - started:.0f} s.")


def _model() -> str:
    from trimtab.demo import MODEL

    return MODEL


def _print_answers(screen: Console, prompt: str, answers: Mapping[str, Completion]) -> None:
    """One prompt, every setting; cheerful words green, direct speech cyan."""
    from rich.panel import Panel
    from rich.text import Text

    from trimtab.demo.rules import CHEERFUL_WORDS

    screen.print(f"\n[bold]“{prompt}”[/]")
    for name, completion in answers.items():
        text = Text(completion.text)
        text.highlight_regex(r'"[^"\n]{2,}(?:"|$)', "cyan")
        text.highlight_words(
            [f" {word}" for word in CHEERFUL_WORDS], "bold green", case_sensitive=False
        )
        screen.print(Panel(text, title=name, title_align="left"))
