"""Pictures: written with the Agg backend, so no display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trimtab.files import storage_errors
from trimtab.stats import Estimate

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
    controls: Sequence[Point] = (),
    less_is_better: tuple[bool, bool] = (False, False),
) -> None:
    """Draw a curve of settings with 95 % intervals, and the unguided base beside it.

    Args:
        path: where the picture goes.
        curve: the settings, in order.
        base: unguided.
        title: above.
        x_label: what the horizontal axis shows.
        y_label: what the vertical axis shows.
        controls: guides that have learned nothing.
        less_is_better: for x and y, whether the axis is turned round, so that up and right is
            always better.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([p.x.value for p in curve], [p.y.value for p in curve], color=BLUE, zorder=2)
    drawn = [(curve, BLUE, "o"), ([base], ORANGE, "s"), (controls, GREY, "D")]
    for points, color, marker in drawn:
        axes.errorbar(
            [p.x.value for p in points],
            [p.y.value for p in points],
            fmt=marker,
            color=color,
            zorder=3,
        )
        axes.errorbar(
            [p.x.value for p in points],
            [p.y.value for p in points],
            xerr=error_bars([p.x for p in points]),
            yerr=error_bars([p.y for p in points]),
            fmt="none",
            ecolor=color,
            elinewidth=0.6,
            alpha=0.5,
            zorder=1,
        )
    if less_is_better[0]:
        axes.invert_xaxis()
    if less_is_better[1]:
        axes.invert_yaxis()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.canvas.draw()  # places the axes, so that the names can find room
    _write_names(figure, axes, drawn)
    with storage_errors(path):
        figure.savefig(path)


def _write_names(figure: Any, axes: Any, drawn: Sequence[tuple[Sequence[Point], str, str]]) -> None:
    """Each point's label, where it covers no other one."""
    from trimtab.evaluation.label_places import along, around, as_boxes
    from trimtab.evaluation.marks import Mark, spot, write_marks

    to_pixels = axes.transData.transform
    marks = [
        Mark(point.label, spot(to_pixels, point.x.value, point.y.value), color)
        for points, color, _ in drawn
        for point in points
    ]
    curve = [mark.point for mark in marks[: len(drawn[0][0])]]
    lines = [along(start, end, 2.0) for start, end in pairwise(curve)]
    bars = [
        along(spot(to_pixels, *start), spot(to_pixels, *end), 0.5)
        for points, _, _ in drawn
        for p in points
        for start, end in (
            ((p.x.low, p.y.value), (p.x.high, p.y.value)),
            ((p.x.value, p.y.low), (p.x.value, p.y.high)),
        )
    ]
    write_marks(
        figure,
        axes,
        marks,
        hidden=around([mark.point for mark in marks], 7.0),
        lines=np.concatenate([as_boxes([]), *lines]),
        bars=np.concatenate([as_boxes([]), *bars]),
        size=8.5,
    )


def error_bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths of the error bars, below and above."""
    return [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]


class Timed(Protocol):
    """One way to decode at one point, as it was timed."""

    @property
    def name(self) -> str:
        """Of the way to decode."""

    @property
    def batch(self) -> int:
        """Requests together."""

    @property
    def prompt(self) -> int:
        """Tokens of each prompt."""

    @property
    def ratio(self) -> float:
        """Time per token, the base alone being 1."""


def speed_plot(path: Path, rows: Sequence[Timed]) -> None:
    """Draw each row's time per token as a multiple of the base alone, a panel per point."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = list(dict.fromkeys((row.batch, row.prompt) for row in rows))
    names = list(dict.fromkeys(row.name for row in rows))
    height = 1.4 + 0.3 * len(names)
    figure = Figure(figsize=(2.6 + 2.6 * len(points), height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for axes, point in zip(panels, points, strict=True):
        speeds = [row for row in rows if (row.batch, row.prompt) == point]
        at = [len(names) - names.index(row.name) for row in speeds]
        axes.barh(at, [row.ratio for row in speeds], color=BLUE, height=0.62)
        for y, row in zip(at, speeds, strict=True):
            axes.annotate(f" {row.ratio:.2f}", (row.ratio, y), va="center", fontsize=8)
        axes.axvline(1, color=GREY, linewidth=0.8)
        axes.set_xlim(0, 1.18 * max(row.ratio for row in speeds))
        axes.set_title(f"batch {point[0]}, prompt {point[1]}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks([len(names) - i for i in range(len(names))], names, fontsize=8)
    figure.supxlabel("time per token, base alone = 1", fontsize=9)
    with storage_errors(path):
        figure.savefig(path)
