"""Texts at the points of a picture, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.evaluation.label_places import Boxes, Placed, Wanted, place


@dataclass(frozen=True)
class Mark:
    """A text at a point in pixels."""

    text: str
    point: tuple[float, float]
    color: str


def write_marks(
    figure: Any,
    axes: Any,
    marks: Sequence[Mark],
    *,
    hidden: Boxes,
    lines: Boxes,
    bars: Boxes,
    size: float,
) -> None:
    """Write marks beside their points, with a line to the point where there is no room near it.

    Args:
        figure: drawn once, so that its axes have their place.
        axes: where the points are.
        marks: what is written; one for which there is no room is left out.
        hidden: boxes, in pixels, that no text may cover: the points.
        lines: boxes along lines, which a text had better not cover.
        bars: likewise of intervals.
        size: of the font, points.
    """
    renderer = figure.canvas.get_renderer()
    notes = [_note(axes, mark, size) for mark in marks]
    boxes = [note.get_window_extent(renderer) for note in notes]
    frame = axes.get_window_extent(renderer)
    places = place(
        [Wanted(m.point, (b.width + 8, b.height + 2)) for m, b in zip(marks, boxes, strict=True)],
        (frame.x0 + 2, frame.y0 + 2, frame.x1, frame.y1),
        hidden=hidden,
        lines=lines,
        bars=bars,
    )
    back = axes.transData.inverted().transform
    for note, mark, placed in zip(notes, marks, places, strict=True):
        if placed is None:
            note.remove()
            continue
        note.set_position(back(placed.centre))
        _lead(axes, back, mark, placed)


def spot(to_pixels: Any, x: float, y: float) -> tuple[float, float]:
    """A point of the data in pixels."""
    right, up = to_pixels((x, y))
    return float(right), float(up)


def _note(axes: Any, mark: Mark, size: float) -> Any:
    from matplotlib.patheffects import withStroke

    note = axes.text(
        0.5,
        0.5,
        mark.text,
        ha="center",
        va="center",
        fontsize=size,
        color=mark.color,
        path_effects=[withStroke(linewidth=2.2, foreground="white")],
        zorder=30,
        gid="mark",
    )
    note.set_in_layout(False)
    return note


def _lead(axes: Any, back: Any, mark: Mark, placed: Placed) -> None:
    """A thin line from a point to its text, where the text is not beside it."""
    if placed.leader is None:
        return
    ends = [back(mark.point), back(placed.leader)]
    axes.plot(
        *zip(*ends, strict=True),
        color=mark.color,
        linewidth=0.6,
        alpha=0.8,
        zorder=4,
        scalex=False,
        scaley=False,
    )
