"""Pictures: written with the Agg backend, so no display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.evaluation.stats import Estimate
from trimtab.files import storage_errors

BLUE, ORANGE, GREY = "#2563a8", "#d9822b", "#777777"


@dataclass(frozen=True)
class Point:
    """One setting on a trade-off curve: its label and its mean score on both axes."""

    label: str
    x: Estimate
    y: Estimate


def tradeoff_plot(
    path: Path,
    curve: Sequence[Point],
    base: Point,
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> None:
    """Draw a curve of settings with 95 % intervals, and the unguided base beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([p.x.value for p in curve], [p.y.value for p in curve], color=BLUE, zorder=2)
    for points, color, marker in ((curve, BLUE, "o"), ([base], ORANGE, "s")):
        axes.errorbar(
            [p.x.value for p in points],
            [p.y.value for p in points],
            xerr=_arms([p.x for p in points]),
            yerr=_arms([p.y for p in points]),
            fmt=marker,
            color=color,
            ecolor=color,
            elinewidth=0.8,
            capsize=2,
            alpha=0.9,
            zorder=3,
        )
    for point in (*curve, base):
        axes.annotate(
            point.label,
            (point.x.value, point.y.value),
            xytext=(7, 7),
            textcoords="offset points",
            fontsize=8.5,
            color=ORANGE if point is base else BLUE,
        )
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    with storage_errors(path):
        figure.savefig(path)


def _arms(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of the error bars, below and above."""
    return [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
