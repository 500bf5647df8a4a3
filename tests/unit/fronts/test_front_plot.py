"""Pictures of fronts: texts never overlap or leave the axes, and no guide hides another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from trimtab.evaluation.label_places import Wanted, around, as_boxes, overlapping, place
from trimtab.fronts.files import marks_of
from trimtab.fronts.lattice import lattice
from trimtab.fronts.plot import FrontLine, front_figure
from trimtab.stats import Estimate

Shape = Callable[[int, float], tuple[float, float]]

SHAPES: dict[str, Shape] = {  # (number of the guide, share from 0 to 1) -> point
    "arcs": lambda i, t: ((2 + i) * math.sin(t * 1.57), (2 + i) * math.cos(t * 1.57)),
    "one line": lambda i, t: (t, 1 - t),
    "nearly one line": lambda i, t: (t + i / 200, 1 - t),
    "hooks at one corner": lambda i, t: (math.sin(2.6 * t) + i / 50, math.cos(2.6 * t)),
    "steps": lambda i, t: (round(3 * t) + i / 9, 3 - round(3 * t)),
    "one point each": lambda i, t: (float(i), float(-i)),
    "one point": lambda i, t: (1.0, 1.0),
    "far apart": lambda i, t: (1e6 * i + t, 1e-6 * t),
}


def near(value: float, width: float) -> Estimate:
    return Estimate(value, value - width, value + width, 40)


def drawn(names: Sequence[str], guides: int, at: Callable[[int, Any], Sequence[float]]) -> Any:
    """The picture of so many guides at the preferences of a lattice."""
    preferences = lattice(names, 0.1 if len(names) == 2 else 0.25)
    marks = marks_of(preferences, names)
    fronts = []
    for i in range(guides):
        points = [at(i, preference) for preference in preferences]
        means = {n: [near(p[k], 0.05) for p in points] for k, n in enumerate(names)}
        fronts.append(FrontLine(f"guide {i}", means, marks))
    base = {name: near(0.4, 0.05) for name in names}
    reference = dict.fromkeys(names, 0.2)
    found = front_figure(fronts, base, reference, costs=[], title="A title", note="A note")
    found.canvas.draw()
    return found


def texts(axes: Any) -> list[Any]:
    return [text for text in axes.texts if text.get_gid() == "mark"]


def require_legible(figure: Any, axes: Any) -> None:
    """No text on another one, on a point or out of the axes."""
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    boxes = [text.get_window_extent(renderer) for text in texts(axes)]
    for box in boxes:
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1, (frame, box)
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1, (frame, box)
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other), (one, other)
    for line in axes.lines:
        if str(line.get_label()).startswith(("guide", "base")):
            for x, y in axes.transData.transform(np.column_stack(line.get_data())):
                assert not any(box.contains(x, y) for box in boxes), (x, y)


@pytest.mark.parametrize("guides", [1, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_marks_of_two_objectives(shape: str, guides: int) -> None:
    figure = drawn(["good", "brief"], guides, lambda i, p: SHAPES[shape](i, p["good"]))
    [axes] = [axes for axes in figure.axes if axes.lines]
    require_legible(figure, axes)
    said = [text.get_text() for text in texts(axes)]
    assert set(said) == {"good", "brief", "0.5:0.5"}
    if shape in ("one line", "one point"):
        assert len(said) == 3  # one for all guides
    if shape == "arcs":
        assert len(said) == 3 * guides


@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_marks_of_three_objectives(spread: float) -> None:
    names = ["good", "brief", "warm"]
    shift = np.random.default_rng(0).normal(size=(4, 3)) * spread
    figure = drawn(names, 4, lambda i, p: [p[n] + s for n, s in zip(names, shift[i], strict=True)])
    panels = [axes for axes in figure.axes if axes.lines]
    assert len(panels) == 3
    for axes in panels:
        require_legible(figure, axes)
        assert {t.get_text() for t in texts(axes)} == {*names, "0.5:0.25:0.25"}


def test_guides_that_lie_on_each_other_stay_visible() -> None:
    """Of each of four equal fronts a hundred pixels of its own colour are left."""
    figure = drawn(["good", "brief"], 4, lambda i, p: SHAPES["one line"](i, p["good"]))
    [axes] = [axes for axes in figure.axes if axes.lines]
    frame = axes.get_window_extent()
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1, :, :3] / 255
    inside = pixels[int(frame.y0) : int(frame.y1), int(frame.x0) : int(frame.x1)]
    lines = [line for line in axes.lines if str(line.get_label()).startswith("guide")]
    assert len({(line.get_marker(), line.get_color()) for line in lines}) == 4
    for line in lines:
        alike = np.abs(inside - to_rgb(line.get_color())).max(axis=-1) < 0.04
        assert alike.sum() > 100, line.get_label()


def test_intervals_are_behind_all_points() -> None:
    figure = drawn(["good", "brief"], 4, lambda i, p: SHAPES["arcs"](i, p["good"]))
    [axes] = [axes for axes in figure.axes if axes.lines]
    bars = [container.lines[2] for container in axes.containers]
    assert len(bars) == 5  # with the base's
    top = max(part.get_zorder() for own in bars for part in own)
    points = [line for line in axes.lines if str(line.get_label()).startswith(("guide", "base"))]
    assert top < min(line.get_zorder() for line in points)
    assert all(part.get_linewidth()[0] <= 0.8 for own in bars for part in own)
    assert all(part.get_colors()[0][3] <= 0.35 for own in bars for part in own)


def test_preferences_without_ends_are_written_as_weights() -> None:
    chosen = [{"a": 0.9, "b": 0.1}, {"a": 0.3, "b": 0.7}, {"a": 0.0, "b": 1.0}]
    assert marks_of(chosen, ["a", "b"]) == {0: "0.9:0.1", 1: "0.3:0.7", 2: "b"}
    assert marks_of(chosen[:1], ["a", "b"]) == {0: "0.9:0.1"}


def test_places_by_hand() -> None:
    """A label takes the nearest place; then the next; where there is no room it has none."""
    label, nothing = Wanted((50.0, 50.0), (20.0, 8.0)), as_boxes([])
    [alone] = place([label], (0, 0, 100, 100), hidden=nothing, lines=nothing, bars=nothing)
    assert alone is not None and alone.box == (58, 46, 78, 54) and alone.leader is None
    wall = as_boxes([[55, 0, 100, 100]])
    [left] = place([label], (0, 0, 100, 100), hidden=wall, lines=nothing, bars=nothing)
    assert left is not None and left.box[2] <= 55 and overlapping(left.box, wall) == 0
    far = as_boxes([[25, 25, 75, 75]])
    [led] = place([label], (0, 0, 100, 100), hidden=far, lines=nothing, bars=nothing)
    assert led is not None and led.leader is not None and overlapping(led.box, far) == 0
    full = around([(50, 50)], 50)
    assert place([label], (0, 0, 100, 100), hidden=full, lines=nothing, bars=nothing) == [None]
