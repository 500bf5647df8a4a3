"""The picture of fronts: guides, base and reference point on each pair of objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.evaluation.label_places import Boxes, along, around, as_boxes
from trimtab.evaluation.marks import Mark, spot, write_marks
from trimtab.evaluation.plots import error_bars
from trimtab.files import storage_errors
from trimtab.stats import Estimate

INK = "#1c2330"


@dataclass(frozen=True)
class _Style:
    """Of a guide: what differs also in print and for the colour-blind (Okabe and Ito's colours).

    Guides that lie on each other stay visible: each is drawn smaller than those under it, and
    its line has gaps.
    """

    color: str
    marker: str
    size: float
    width: float
    dashes: Any

    @property
    def faded(self) -> tuple[str, float]:
        """For intervals."""
        return self.color, 0.3


_STYLES = (
    _Style("#0072b2", "o", 9.6, 2.2, "-"),
    _Style("#d55e00", "^", 7.4, 1.9, (0, (6, 2.5))),
    _Style("#009e73", "D", 5.6, 1.7, (0, (3, 2))),
    _Style("#a2387d", "v", 5.8, 1.5, (0, (7, 2, 1.5, 2))),
    _Style("#b07d00", "P", 7.0, 1.4, (0, (1.5, 1.5))),
    _Style("#3f9fd0", "X", 6.6, 1.3, (0, (2, 3))),
    _Style("#7a4b2a", "h", 6.4, 1.3, (0, (5, 1.5))),
    _Style("#5b4b9a", "p", 6.8, 1.3, (0, (1, 1))),
)


@dataclass(frozen=True)
class FrontLine:
    """One guide in a picture of fronts.

    Attributes:
        name: in the legend.
        points: objective -> mean in raw units, one per preference in their order.
        marks: number of a point -> what to write at it.
    """

    name: str
    points: Mapping[str, Sequence[Estimate]]
    marks: Mapping[int, str]


def front_plot(
    path: Path,
    fronts: Sequence[FrontLine],
    base: Mapping[str, Estimate],
    reference: Mapping[str, float],
    *,
    costs: Sequence[str],
    title: str,
    note: str = "",
) -> None:
    """Draw fronts with 95 % intervals: one picture for two objectives, a panel per pair for more.

    Better is always up and right: the axis of a cost runs backwards. With two objectives a line
    joins the points in the order of the preferences. A reference point that lies far outside is
    left out, and the legend says so.

    Args:
        path: of the PNG file.
        fronts: the guides.
        base: objective -> mean of the unguided base.
        reference: of the hypervolume, in raw units.
        costs: objectives of which less is better.
        title: above the picture.
        note: what the marks mean, below it.
    """
    with storage_errors(path):
        front_figure(fronts, base, reference, costs=costs, title=title, note=note).savefig(path)


def front_figure(
    fronts: Sequence[FrontLine],
    base: Mapping[str, Estimate],
    reference: Mapping[str, float],
    *,
    costs: Sequence[str],
    title: str,
    note: str = "",
) -> Any:
    """The picture as a matplotlib figure, with every mark in its place."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = list(combinations(base, 2))
    near = all(
        _is_near(reference[name], [base[name], *(e for f in fronts for e in f.points[name])])
        for name in base
    )
    shown = reference if near else None
    across = min(len(pairs), 3)
    down = -(-len(pairs) // across)
    size = (7.6, 5.6) if len(pairs) == 1 else (4.8 * across, 4.2 * down + 0.9)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(pairs) :]:
        axes.set_axis_off()
    for axes, (x, y) in zip(panels, pairs, strict=False):
        _front_panel(axes, fronts, base, shown, x, y, joined=len(pairs) == 1)
        _name_axes(axes, x, y, costs)
    _add_legend(figure, panels[0].get_legend_handles_labels()[0], note)
    figure.suptitle(title, fontsize=11)
    figure.canvas.draw()  # places the axes, so that the marks can find room
    figure.set_layout_engine("none")
    for axes, (x, y) in zip(panels, pairs, strict=False):
        marked = [(base[x].value, base[y].value), *([(shown[x], shown[y])] if shown else [])]
        _write_marks(figure, axes, fronts, marked, x, y, joined=len(pairs) == 1)
    return figure


def _add_legend(figure: Any, keys: Sequence[Any], note: str) -> None:
    """Below the panels, in as many columns as there is width for."""
    for columns in range(min(len(keys), 8), 0, -1):
        legend = figure.legend(
            handles=keys,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
            handlelength=2.6,
            columnspacing=1.5,
            title=note or None,
            title_fontsize=8.5,
        )
        width = legend.get_window_extent(figure.canvas.get_renderer()).width
        if width <= figure.bbox.width or columns == 1:
            return
        legend.remove()


def _front_panel(
    axes: Any,
    fronts: Sequence[FrontLine],
    base: Mapping[str, Estimate],
    reference: Mapping[str, float] | None,
    x: str,
    y: str,
    *,
    joined: bool,
) -> None:
    """The fronts seen on two objectives."""
    base_style = _Style(INK, "s", 7.0, 0.0, "none")
    _draw(axes, "base", [base[x]], [base[y]], base_style, order=20, joined=False)
    for i, front in enumerate(fronts):
        style = _STYLES[i % len(_STYLES)]
        _draw(axes, front.name, front.points[x], front.points[y], style, order=5 + i, joined=joined)
    shown = ([reference[x]], [reference[y]]) if reference else ([], [])
    label = "HV reference" if reference else "HV reference (outside)"
    axes.plot(*shown, "x", color=INK, markersize=9, markeredgewidth=1.6, label=label, zorder=2)
    axes.margins(0.1)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(
    axes: Any,
    name: str,
    xs: Sequence[Estimate],
    ys: Sequence[Estimate],
    style: _Style,
    *,
    order: int,
    joined: bool,
) -> None:
    """One guide: its intervals behind everything, its points and line above them."""
    at = [p.value for p in xs], [p.value for p in ys]
    bars = {"xerr": error_bars(xs), "yerr": error_bars(ys), "ecolor": style.faded}
    axes.errorbar(*at, **bars, fmt="none", elinewidth=0.7, zorder=1)
    axes.plot(
        *at,
        marker=style.marker,
        linestyle=style.dashes if joined else "none",
        linewidth=style.width,
        markersize=style.size,
        color=style.color,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=name,
        zorder=order,
    )


def _name_axes(axes: Any, x: str, y: str, costs: Sequence[str]) -> None:
    for name, set_label, flip in (
        (x, axes.set_xlabel, axes.xaxis.set_inverted),
        (y, axes.set_ylabel, axes.yaxis.set_inverted),
    ):
        set_label(f"{name} (cost: lower is better)" if name in costs else name)
        flip(name in costs)


def _is_near(value: float, estimates: Sequence[Estimate]) -> bool:
    """Whether a number is within the range of estimates, widened by itself on both sides."""
    low, high = min(e.low for e in estimates), max(e.high for e in estimates)
    return low - (high - low) <= value <= high + (high - low)


_SAME = 9.0  # pixels within which equal marks of two guides are one


def _marks(
    fronts: Sequence[FrontLine], spots: Sequence[Sequence[tuple[float, float]]]
) -> list[Mark]:
    marks: list[Mark] = []
    for i, (front, places) in enumerate(zip(fronts, spots, strict=True)):
        for number, text in front.marks.items():
            mark = Mark(text, places[number], _STYLES[i % len(_STYLES)].color)
            for j, other in enumerate(marks):
                if other.text == text and math.dist(other.point, mark.point) <= _SAME:
                    marks[j] = Mark(text, other.point, INK)
                    break
            else:
                marks.append(mark)
    return marks


def _write_marks(
    figure: Any,
    axes: Any,
    fronts: Sequence[FrontLine],
    others: Sequence[tuple[float, float]],
    x: str,
    y: str,
    *,
    joined: bool,
) -> None:
    """Write each front's marks where there is room, with a line to the point where it is far."""
    to_pixels = axes.transData.transform
    spots = [
        [spot(to_pixels, a.value, b.value) for a, b in zip(f.points[x], f.points[y], strict=True)]
        for f in fronts
    ]
    points = around([spot for front_spots in spots for spot in front_spots], 7.0)
    marks_of_others = around([spot(to_pixels, *at) for at in others], 11.0)
    write_marks(
        figure,
        axes,
        _marks(fronts, spots),
        hidden=np.concatenate([points, marks_of_others]),
        lines=_lines(spots) if joined else as_boxes([]),
        bars=_bars(to_pixels, fronts, x, y),
        size=8.5 if joined else 7.5,
    )


def _lines(spots: Sequence[Sequence[tuple[float, float]]]) -> Boxes:
    """Boxes along the fronts' lines."""
    pieces = [
        along(start, end, 2.0) for front_spots in spots for start, end in pairwise(front_spots)
    ]
    return np.concatenate([as_boxes([]), *pieces])


def _bars(to_pixels: Any, fronts: Sequence[FrontLine], x: str, y: str) -> Boxes:
    """Boxes over the fronts' intervals."""
    boxes = []
    for front in fronts:
        for a, b in zip(front.points[x], front.points[y], strict=True):
            for start, end in (
                ((a.low, b.value), (a.high, b.value)),
                ((a.value, b.low), (a.value, b.high)),
            ):
                corners = np.array([spot(to_pixels, *start), spot(to_pixels, *end)])
                boxes.append([*(corners.min(0) - 0.5), *(corners.max(0) + 0.5)])
    return as_boxes(boxes)
