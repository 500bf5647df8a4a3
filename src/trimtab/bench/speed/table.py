"""The speed tables: on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.bench.speed.measure import Row
from trimtab.bench.speed.rows import BASE_ROW

COLUMNS = [
    "",
    "ms/token",
    "x base",
    "lowest, highest",
    "tokens/s",
    "first token, ms",
    "memory, GiB",
]


def tables(rows: Sequence[Row], memory: Mapping[str, float]) -> dict[str, list[list[str]]]:
    """Title -> lines, a table per batch size and prompt length."""
    blocks: dict[str, list[list[str]]] = {}
    measured = (rows[0].batch, rows[0].prompt)  # memory is measured at the first point alone
    for row in rows:
        title = f"batch {row.batch}, prompts of {row.prompt} tokens, {row.repeats} repeats"
        blocks.setdefault(title, []).append(
            _line(row, memory if (row.batch, row.prompt) == measured else {})
        )
    return blocks


def _line(row: Row, memory: Mapping[str, float]) -> list[str]:
    peak = memory.get(row.name)
    share = f" ({peak / memory[BASE_ROW]:.2f}x)" if peak and BASE_ROW in memory else ""
    accepted = "" if row.accepted is None else f" ({100 * row.accepted:.0f} % kept)"
    return [
        row.name + accepted,
        f"{row.ms_per_token:.1f}",
        f"{row.ratio:.2f}",
        f"{row.ratio_low:.2f}, {row.ratio_high:.2f}",
        f"{row.tokens_per_second:.1f}",
        f"{row.first_token_ms:.0f}",
        f"{peak / 2**30:.2f}{share}" if peak else "–",
    ]


def as_markdown(rows: Sequence[Row], memory: Mapping[str, float]) -> str:
    """The tables in Markdown."""
    parts = []
    for title, lines in tables(rows, memory).items():
        table = [COLUMNS, ["---"] * len(COLUMNS), *lines]
        parts.append(f"{title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in table))
    return "\n".join(parts)
