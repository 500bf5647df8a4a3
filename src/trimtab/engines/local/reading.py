"""How much of which prompts is read in one step."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.engines.local.rows import Row


def shares(rows: Sequence[Row], budget: int) -> list[int]:
    """Tokens that each stream of some rows reads now, at most.

    The oldest row has half of the budget, and what the others leave; they come in the order of
    what they have left, so that a short prompt does not wait for a long one. As each row becomes
    the oldest in time, none waits for ever.

    Args:
        rows: with prompts to read, the oldest first.
        budget: tokens, of all streams together; the oldest reads one more token in any case.
    """
    widths = [0] * len(rows)
    if not rows:
        return widths
    left = budget - _take(rows, widths, 0, budget // 2)
    for i in sorted(range(1, len(rows)), key=lambda i: rows[i].unread):
        left -= _take(rows, widths, i, left)
    _take(rows, widths, 0, left)
    widths[0] = max(widths[0], 1)
    return widths


def _take(rows: Sequence[Row], widths: list[int], i: int, room: int) -> int:
    """Let a row read more, within some room; returns the tokens that it comes to."""
    unread = [row.unread for streams in rows[i].streams for row in streams]
    width = widths[i]
    before = _cost(unread, width)
    while width < max(unread):
        reading = [n for n in unread if n > width]
        step = min(min(reading) - width, (room + before - _cost(unread, width)) // len(reading))
        if step <= 0:
            break
        width += step
    widths[i] = width
    return _cost(unread, width) - before


def _cost(unread: Sequence[int], width: int) -> int:
    return sum(min(n, width) for n in unread)
