"""Where the labels of a picture go: pure geometry, in pixels (x to the right, y up).

A label never covers another one or what it must not hide, and never leaves the frame; among the
places that remain it takes the one that is nearest to its point and crosses least.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]  # [N, 4]: left, low, right, high
Spot = tuple[float, float]

DIRECTIONS = 16
STEP = 4.0  # pixels between two rings of candidate places
NEAR = 22.0  # a label that is further than this from its point needs a line to it


@dataclass(frozen=True)
class Wanted:
    """A label to place: its point, and the width and height of its text."""

    point: Spot
    size: Spot


@dataclass(frozen=True)
class Placed:
    """A label's box (left, low, right, high), and the end of its line, where it needs one."""

    box: tuple[float, float, float, float]
    leader: Spot | None

    @property
    def centre(self) -> Spot:
        """Of the box."""
        left, low, right, high = self.box
        return (left + right) / 2, (low + high) / 2


def as_boxes(boxes: Sequence[Sequence[float]]) -> Boxes:
    """Boxes as an array [N, 4], also where there are none."""
    return np.asarray(boxes, dtype=float).reshape(-1, 4)


def around(points: Sequence[Spot], margin: float) -> Boxes:
    """A square about each point."""
    return as_boxes([(x - margin, y - margin, x + margin, y + margin) for x, y in points])


def along(start: Spot, end: Spot, margin: float) -> Boxes:
    """Small squares along a line, one every four pixels."""
    count = max(2, math.ceil(math.dist(start, end) / 4))
    shares = [i / count for i in range(count + 1)]
    spots = [tuple(a + (b - a) * s for a, b in zip(start, end, strict=True)) for s in shares]
    return around([(x, y) for x, y in spots], margin)


def overlapping(box: Sequence[float], boxes: Boxes) -> int:
    """How many boxes a box has some area in common with."""
    left, low, right, high = box
    meets = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < high)
    return int((meets & (boxes[:, 3] > low)).sum())


def place(
    labels: Sequence[Wanted],
    frame: Sequence[float],
    *,
    hidden: Boxes,
    lines: Boxes,
    bars: Boxes,
    reach: float = 140.0,
) -> list[Placed | None]:
    """A place for each label, or None where there is no room within reach.

    Args:
        labels: those with the least room near by are placed first.
        frame: left, low, right, high of where labels may be.
        hidden: boxes that no label may cover: points.
        lines: boxes along lines, which a label had better not cover.
        bars: likewise of intervals.
        reach: pixels from a point to its label at most.
    """
    places: list[Placed | None] = [None] * len(labels)
    taken = hidden
    left = list(range(len(labels)))
    while left:
        options = {i: _free(labels[i], frame, taken, (lines, bars), reach) for i in left}
        i = min(left, key=lambda i: (sum(cost < NEAR for cost, _ in options[i]), i))
        left.remove(i)
        if not options[i]:
            continue
        places[i] = chosen = min(options[i], key=lambda option: option[0])[1]
        taken = np.concatenate([taken, as_boxes([chosen.box])])
        if chosen.leader is not None:
            taken = np.concatenate([taken, along(labels[i].point, chosen.leader, 1.0)])
    return places


def _free(
    label: Wanted,
    frame: Sequence[float],
    taken: Boxes,
    crossed: tuple[Boxes, Boxes],
    reach: float,
) -> list[tuple[float, Placed]]:
    """Places that cover nothing which is taken, each with its cost: the near ones and the best."""
    free: list[tuple[float, Placed]] = []
    best = math.inf
    for gap, box in _candidates(label, reach):
        if gap > max(NEAR, best):  # a cost is the gap and more: nothing further is better
            break
        inside = (
            frame[0] <= box[0] and box[2] <= frame[2] and frame[1] <= box[1] and box[3] <= frame[3]
        )
        if not inside or overlapping(box, taken):
            continue
        leader = _nearest(label.point, box) if gap > NEAR else None
        lines, bars = (overlapping(box, boxes) for boxes in crossed)
        cost = gap + 3.0 * min(lines, 8) + 8.0 * min(bars, 4)
        if leader is not None:
            path = along(label.point, leader, 0.5)[2:-1]
            cost += 12.0 + 6.0 * sum(overlapping(spot, taken) > 0 for spot in path)
        free.append((cost, Placed(box, leader)))
        best = min(best, cost)
    return free


def _candidates(
    label: Wanted, reach: float
) -> Iterator[tuple[float, tuple[float, float, float, float]]]:
    """Boxes on rings around a label's point, with their distance from it."""
    (x, y), (width, height) = label.point, label.size
    for ring in range(1, int(reach / STEP)):
        gap = 4.0 + STEP * ring
        for i in range(DIRECTIONS):
            right, up = (
                math.cos(2 * math.pi * i / DIRECTIONS),
                math.sin(2 * math.pi * i / DIRECTIONS),
            )
            at = x + right * (gap + width / 2), y + up * (gap + height / 2)
            yield (
                gap,
                (at[0] - width / 2, at[1] - height / 2, at[0] + width / 2, at[1] + height / 2),
            )


def _nearest(point: Spot, box: Sequence[float]) -> Spot:
    """The place of a box that is nearest to a point."""
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3])
