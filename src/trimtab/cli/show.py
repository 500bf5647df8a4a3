"""What commands show: tables, JSON, progress bars on a terminal and lines elsewhere."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

Report = Callable[[str, int, int], None]


def console(*, wide: bool = False) -> Console:
    """The console for results.

    Args:
        wide: lines may be long where nobody has to see them on a terminal.
    """
    return Console(highlight=False, width=200 if wide and not sys.stdout.isatty() else None)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; the first column is left-aligned, the others right, but for `response`."""
    built = Table(
        title=title or None, title_justify="left", title_style="bold", header_style="bold"
    )
    for number, column in enumerate(columns):
        side: JustifyMethod = "right" if number and column != "response" else "left"
        built.add_column(column, justify=side, overflow="fold")
    for row in rows:
        built.add_row(*map(Text, row))  # as it stands: an answer may hold [tags]
    return built


def print_json(value: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(line: str) -> None:
    """One line for people, on stderr."""
    print(line, file=sys.stderr)


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """A function (what, done, total) that draws one bar per `what`, on stderr.

    Without a terminal it prints a line for every tenth.
    """
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


def _lines() -> Report:
    said: dict[str, int] = {}

    def tell(what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if said.get(what) != tenth:
            said[what] = tenth
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    return tell
