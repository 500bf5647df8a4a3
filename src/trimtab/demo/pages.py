"""What the demo leaves behind: results.json, the trade-off picture and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.demo.material import Material
from trimtab.demo.story import (
    CHECKS,
    CONTROL,
    STRENGTH,
    Measured,
    Shown,
    Swept,
    mixed,
    side_by_side_settings,
)
from trimtab.engines.types import Completion
from trimtab.evaluation import page
from trimtab.evaluation.plots import Point, tradeoff_plot
from trimtab.files import write_json, write_text
from trimtab.stats import Estimate
from trimtab.training.plan import TrainResult
from trimtab.version import __version__


def columns(material: Material) -> list[str]:
    """Of the table."""
    return ["setting", *(o.column for o in material.objectives), *CHECKS]


def score_rows(swept: Swept, *, narrow: bool = False) -> list[list[str]]:
    """The table: setting, each objective's mean, and what shows what it cost, with intervals.

    Args:
        swept: what was measured.
        narrow: an interval stands under its number, and with the objectives' alone.
    """
    return [
        [
            name,
            *(_cell(e, "\n" if narrow else " ") for e in measured.scores.values()),
            *(_cell(e, "" if narrow else " ") for e in measured.checks),
        ]
        for name, measured in swept.items()
    ]


def _cell(e: Estimate, between: str) -> str:
    """A mean and, after what stands between, its interval; without that the mean alone."""
    digits = 0 if e.value >= 20 else 2
    interval = f"{between}[{e.low:.{digits}f}, {e.high:.{digits}f}]" if between else ""
    return f"{e.value:.{digits}f}{interval}"


def draw(path: Path, material: Material, swept: Swept) -> None:
    """The trade-off curve over preferences."""
    first, other = material.objectives
    curve = [
        _point(_label(material, weight), swept[mixed(material, weight).name])
        for weight in material.curve
    ]
    tradeoff_plot(
        path,
        curve,
        _point("unguided", swept["unguided"]),
        title=f"{material.about}, frozen, at {len(curve)} preferences "
        f"(numbers: weight of {first.name})",
        x_label=_axis(first.name, first.unit, first.less_is_better),
        y_label=_axis(other.name, other.unit, other.less_is_better),
        controls=[_point(name, swept[name]) for name in swept if name.startswith(CONTROL)],
        less_is_better=(first.less_is_better, other.less_is_better),
    )


def _axis(name: str, unit: str, less_is_better: bool) -> str:
    return f"{name}: {unit}{', turned round' if less_is_better else ''} →"


def _point(label: str, measured: Measured) -> Point:
    return Point(label, *measured.scores.values())


def _label(material: Material, weight: float) -> str:
    one, other = material.names
    return {0.0: f"{other} 1", 1.0: f"{one} 1"}.get(weight, f"{weight:g}")


def save_results(
    path: Path, material: Material, trained: Mapping[str, TrainResult], swept: Swept, *, seed: int
) -> dict[str, Any]:
    """Every number of the demo, with n, interval and seed."""
    results = {
        "trimtab": __version__,
        "model": material.about,
        "seed": seed,
        "strength": STRENGTH,
        "prompts": len(material.held_out),
        "sampling": dict(material.sampling),
        "training": {name: result.metrics for name, result in trained.items()},
        "settings": {name: asdict(measured) for name, measured in swept.items()},
    }
    write_json(path, results)
    return results


def save_pages(
    path: Path, material: Material, shown: Shown, swept: Swept, plot: Path, *, seed: int
) -> None:
    """The self-contained page."""
    settings = side_by_side_settings(material)
    sections = [
        page.paragraph(material.opening),
        page.heading("The same prompt, four ways"),
        page.paragraph(
            "Colour: what guidance changed. Blue tokens are those that the ARMs in force like more "
            "than what the base would have said on average at that place, red ones less. Point at "
            "a token for what else could have come: its probability under the base and steered, "
            "and what each ARM says of it. Same seed in every column. These prompts were picked by "
            "eye; the table below is over all."
        ),
        f'<p class="note">−{page.STRONGEST:g} nats <span class="scale"></span> '
        f"+{page.STRONGEST:g} nats</p>",
    ]
    for prompt, answers in shown.items():
        sections.append(page.paragraph(f"“{prompt}”"))
        cards = {s.name: _coloured(s.strength, s.preference, answers[s.name]) for s in settings}
        sections.append(page.cards(cards))
    n = len(material.held_out)
    sections += [
        page.heading("Scores on held-out prompts"),
        page.html_table(columns(material), score_rows(swept)),
        page.paragraph(
            f"Means with 95 % bootstrap intervals over {n} prompts whose subjects are in no "
            f"training pair; strength {STRENGTH:g}, seed {seed}, at most "
            f"{material.sampling['max_new_tokens']} tokens. Base NLL: nats per token of the answer "
            "under the base alone. Distinct-2: share of different pairs of words; it falls where "
            "an answer goes in a loop." + (_CONTROL if material.control else ""),
            note=True,
        ),
        page.heading("The trade-off"),
        page.picture(plot, "Mean scores along the preferences, with intervals"),
        page.heading("How the objectives are measured"),
        *(page.paragraph(f"{o.name}: {o.explained}") for o in material.objectives),
    ]
    write_text(path, page.page(f"Trimtab: {material.about}, steered", sections))


_CONTROL = (
    " Shuffled labels: guided, as hard as by that objective's ARM, by one trained alike on pairs "
    "whose labels a coin decided; what it changes is no preference, but the sharpening that any "
    "guide brings."
)


def _coloured(strength: float, preference: Mapping[str, float], completion: Completion) -> str:
    weights = {name: w * strength for name, w in preference.items() if w * strength > 0}
    return page.coloured_tokens(completion.tokens, weights)
