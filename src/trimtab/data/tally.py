"""What became of the rows of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from trimtab.errors import DataError


@dataclass
class RowTally:
    """What became of the rows of a data set: how many were used, which were not, and why.

    Attributes:
        rows: rows read.
        unusable: reason -> where the rows stand.
        noted: what is to be said of rows that are used -> where they stand.
        judged: objective -> number of pairs judged on it, where pairs are judged on several.
        layouts: layout -> number of its rows.
        unused: columns that nothing reads.
        several: whether pairs were made of several rows or of one row's several answers.
        malformed: those reasons in `unusable` for which data are refused unless asked otherwise.
    """

    rows: int = 0
    unusable: dict[str, list[str]] = field(default_factory=dict)
    noted: dict[str, list[str]] = field(default_factory=dict)
    judged: dict[str, int] = field(default_factory=dict)
    layouts: dict[str, int] = field(default_factory=dict)
    unused: dict[str, None] = field(default_factory=dict)
    several: bool = False
    malformed: set[str] = field(default_factory=set)

    def count(self, layout: str, unused: Iterable[str]) -> None:
        """Count one row of a layout, with those of its columns that nothing reads."""
        self.rows += 1
        self.layouts[layout] = self.layouts.get(layout, 0) + 1
        self.unused.update(dict.fromkeys(unused))

    def leave_out(self, reason: str, source: str) -> None:
        """Count one unusable row under its reason."""
        self.unusable.setdefault(reason, []).append(source)

    def leave_out_malformed(self, error: DataError, source: str) -> None:
        """Count one row for which data are refused unless asked otherwise."""
        reason = error.args[0].removeprefix(f"{source} ")
        self.leave_out(reason, source)
        self.malformed.add(reason)

    def note(self, what: str, source: str) -> None:
        """Count one row that is used, with a reservation."""
        self.noted.setdefault(what, []).append(source)

    def add(self, other: RowTally) -> None:
        """Count another data set's rows, too; `judged` stays that of this one."""
        self.rows += other.rows
        self.several |= other.several
        self.malformed |= other.malformed
        self.unused.update(other.unused)
        for layout, count in other.layouts.items():
            self.layouts[layout] = self.layouts.get(layout, 0) + count
        for reason, places in other.unusable.items():
            self.unusable.setdefault(reason, []).extend(places)
        for what, places in other.noted.items():
            self.noted.setdefault(what, []).extend(places)

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> number of rows left out."""
        return dict(Counter({reason: len(rows) for reason, rows in self.unusable.items()}))

    def lines(self, examples: int = 3) -> list[str]:
        """One line per reason, naming the first few rows, and one for columns not used."""
        unused = [f"columns not used: {', '.join(self.unused)}"] if self.unused else []
        return self.reasons(examples) + unused

    def reasons(self, examples: int = 3) -> list[str]:
        """One line per reason, naming the first few rows."""
        counts = [f"pairs judged on: {', '.join(f'{o} {n}' for o, n in self.judged.items())}"]
        said = [(f" left out: {reason}", rows) for reason, rows in self.unusable.items()]
        said += [(f": {what}", rows) for what, rows in self.noted.items()]
        unit = "pair" if self.several else "row"
        return counts[: len(self.judged)] + [
            f"{len(rows)} {unit if len(rows) == 1 else f'{unit}s'}{what} "
            f"({', '.join(rows[:examples])}" + (", …)" if len(rows) > examples else ")")
            for what, rows in said
        ]
