"""The picture of fronts: guides, base and reference point on each pair of objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from trimtab.evaluation.plots import BLUE, GREY, ORANGE, error_bars
from trimtab.evaluation.stats import Estimate
from trimtab.files import storage_errors

INK = "#1c2330"
_STYLES = (  # of guides: colours that differ in print too, each with a marker of its own
    (BLUE, "o"), (ORANGE, "^"), ("#2f8f5b", "D"), ("#a83279", "v"), ("#7a5c2e", "P"), (GREY, "X"),
)  # fmt: skip
_OFFSETS = (  # of a label from its point: points to the right, points up, the side that is aligned
    (6, 8, "left"), (-6, 8, "right"), (6, -8, "left"), (-6, -8, "right"), (9, 0, "left"),
    (-9, 0, "right"), (6, 16, "left"), (-6, 16, "right"), (6, -16, "left"), (-6, -16, "right"),
    (0, 13, "center"), (0, -13, "center"), (12, 26, "left"), (-12, 26, "right"), (12, -26, "left"),
    (-12, -26, "right"),
)  # fmt: skip


@dataclass(frozen=True)
class FrontLine:
    """One guide in a picture of fronts.

    Attributes:
        name: in the legend.
        points: objective -> mean in raw units, one per preference in their order.
        ends: what to write at the first and the last point.
    """

    name: str
    points: Mapping[str, Sequence[Estimate]]
    ends: tuple[str, str]


def front_plot(
    path: Path,
    fronts: Sequence[FrontLine],
    base: Mapping[str, Estimate],
    reference: Mapping[str, float],
    *,
    costs: Sequence[str],
    title: str,
) -> None:
    """Draw fronts with 95 % intervals: one picture for two objectives, a panel per pair for more.

    Better is always up and right: the axis of a cost runs backwards. With two objectives a line
    joins the points in the order of the preferences. A reference point that lies far outside is
    left out, and the legend says so.
    """
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
    size = (7.6, 5.4) if len(pairs) == 1 else (4.6 * across, 3.9 * down + 0.8)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes in panels[len(pairs) :]:
        axes.set_axis_off()
    for axes, (x, y) in zip(panels, pairs, strict=False):
        _front_panel(axes, fronts, base, shown, x, y, joined=len(pairs) == 1)
        _name_axes(axes, x, y, costs)
    reference_mark, *guides = panels[0].get_legend_handles_labels()[0]
    keys = [*guides, reference_mark]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=min(len(keys), 6), frameon=False, fontsize=9
    )
    figure.suptitle(title, fontsize=11)
    with storage_errors(path):
        figure.canvas.draw()  # places the axes, so that the labels can find room
        if len(pairs) == 1:
            _label_ends(figure, panels[0], fronts, base, *pairs[0])
        figure.savefig(path)


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
    lines = [(f.name, f.points[x], f.points[y]) for f in fronts]
    drawn = [("base", [base[x]], [base[y]]), *lines]
    for i, (name, xs, ys) in enumerate(drawn):
        color, marker = (INK, "s") if i == 0 else _STYLES[(i - 1) % len(_STYLES)]
        axes.errorbar(
            [p.value for p in xs],
            [p.value for p in ys],
            xerr=error_bars(xs),
            yerr=error_bars(ys),
            fmt=marker,
            linestyle="-" if joined else "none",
            linewidth=1.4,
            markersize=7 if i == 0 else 5,
            color=color,
            ecolor=_faded(color),
            elinewidth=0.8,
            label=name,
            zorder=4 if i == 0 else 3,
        )
    shown = ([reference[x]], [reference[y]]) if reference else ([], [])
    label = "HV reference" if reference else "HV reference (outside)"
    axes.plot(*shown, "x", color=INK, markersize=9, markeredgewidth=1.6, label=label, zorder=2)
    axes.margins(0.09)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


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


def _faded(color: str) -> tuple[str, float]:
    return color, 0.45


def _label_ends(
    figure: Any,
    axes: Any,
    fronts: Sequence[FrontLine],
    base: Mapping[str, Estimate],
    x: str,
    y: str,
) -> None:
    """Write each front's ends where there is room: off points, lines and labels, or not at all.

    A place off the error bars too is taken where there is one.
    """
    renderer = figure.canvas.get_renderer()
    place = axes.transData.transform
    spots = {f.name: list(zip(f.points[x], f.points[y], strict=True)) for f in fronts}
    centre = place((base[x].value, base[y].value))
    bars, taken = [], [_box(centre, centre, 6.0)]
    for own in spots.values():
        marks = [place((a.value, b.value)) for a, b in own]
        taken += [_box(mark, mark, 5.0) for mark in marks]
        for start, end in pairwise(marks):
            taken += [_box(m := start + (end - start) * i / 20, m, 1.0) for i in range(1, 20)]
        for a, b in own:
            bars.append(_box(place((a.low, b.value)), place((a.high, b.value))))
            bars.append(_box(place((a.value, b.low)), place((a.value, b.high))))
    frame = axes.get_window_extent(renderer)
    for i, front in enumerate(fronts):
        color, own = _STYLES[i % len(_STYLES)][0], spots[front.name]
        for text, (a, b) in zip(front.ends, (own[0], own[-1]), strict=True):
            for blocked in ([*taken, *bars], taken):
                box = _write(axes, renderer, text, (a.value, b.value), color, frame, blocked)
                if box is not None:
                    taken.append(box)
                    break


def _write(
    axes: Any,
    renderer: Any,
    text: str,
    point: tuple[float, float],
    color: str,
    frame: Any,
    blocked: Sequence[Any],
) -> Any:
    """Write beside a point, inside the frame and off what is blocked; the text's box, or None."""
    from matplotlib.patheffects import withStroke

    for right, up, side in _OFFSETS:
        note = axes.annotate(
            text,
            point,
            xytext=(right, up),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=8.5,
            color=color,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=5,
        )
        box = note.get_window_extent(renderer)
        inside = (
            frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 <= box.y1 <= frame.y1
        )
        if inside and not any(box.overlaps(other) for other in blocked):
            return box
        note.remove()
    return None


def _box(start: Any, end: Any, margin: float = 0.5) -> Any:
    """The rectangle around two places, in pixels."""
    from matplotlib.transforms import Bbox

    (left, right), (low, high) = (sorted(pair) for pair in zip(start, end, strict=True))
    return Bbox.from_extents(left - margin, low - margin, right + margin, high + margin)
