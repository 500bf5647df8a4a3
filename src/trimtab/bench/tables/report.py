"""A table as it is written down: Markdown, numbers for a program, what may be claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trimtab.stats import Estimate


@dataclass(frozen=True)
class Report:
    """What a table says.

    Attributes:
        title: of the table.
        columns: heads; the first is the row's name.
        rows: texts.
        notes: lines beneath: what was measured, on how much, and what not to read into it.
        claims: what was expected, each with `confirmed`, `refuted` or `undecided` and its numbers.
        head: a line above, such as the judge's accuracy.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    claims: Sequence[Sequence[str]] = field(default_factory=list)
    head: str = ""

    def markdown(self) -> str:
        """All of it."""
        table = [self.columns, ["---"] * len(self.columns), *self.rows]
        parts = [self.head] if self.head else []
        parts.append("".join(f"| {' | '.join(line)} |\n" for line in table).rstrip())
        if self.claims:
            heads = [["expected", "found", ""], ["---"] * 3, *self.claims]
            parts.append("".join(f"| {' | '.join(line)} |\n" for line in heads).rstrip())
        parts += [" ".join(self.notes)] if self.notes else []
        return "\n\n".join(parts) + "\n"


def cell(estimate: Estimate | None, digits: int = 2) -> str:
    """A value with its interval."""
    if estimate is None:
        return "–"
    numbers = (round(x, digits) + 0.0 for x in (estimate.value, estimate.low, estimate.high))
    value, low, high = (f"{x:.{digits}f}" for x in numbers)  # no −0
    return f"{value} [{low}, {high}]"


def setting(ask: Mapping[str, float]) -> str:
    """How a way was asked, where that is not the base's own way."""
    own = (("temperature", 1.0), ("strength", 0.0))
    shown = [(name.replace("_", "-"), value) for name, value in ask.items()]
    return (
        ", ".join(f"{name} {value:.3g}" for name, value in shown if (name, value) not in own) or "–"
    )


def verdict(estimate: Estimate, *, above: float, allowed: bool = True) -> str:
    """Whether a value is above a bound, as far as its interval tells."""
    if not allowed:
        return "undecided (the judge)"
    if estimate.low > above:
        return "confirmed"
    return "refuted" if estimate.high < above else "undecided"
