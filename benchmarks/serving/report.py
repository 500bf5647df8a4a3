"""README.md's numbers, from the JSON of each part."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any


def put_in(readme: Path, part: str, result: dict[str, Any]) -> None:
    """What a part found, into its place in a page."""
    begin, end = f"<!-- {part}: written by run.py -->", f"<!-- end of {part} -->"
    place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    where = result["conditions"]
    about = f"{where['device']}, {where['cores']} cores, {where['date']}, {result['seconds']:.0f} s"
    failed = [check for check, held in result["checks"].items() if not held]
    told = f"**Not so:** {'; '.join(failed)}." if failed else "Every check held."
    whole = f"{begin}\n{TEXTS[part](result)}\n\n{told} {about}.\n{end}"
    readme.write_text(place.sub(lambda _: whole, readme.read_text()))


def _table(head: str, rows: dict[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([f"| {head} | |", "| --- | --- |", *lines])


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _equal(found: dict[str, Any]) -> str:
    return _table(
        f"{found['streams']} streams at once, {found['hung_up']} of which hang up",
        {
            "compared with their single-request results": found["compared"],
            "the same": found["same"],
            "parted where the best two are within 1e-4": found["parted_where_two_are_close"],
            "different": found["different"],
            "cut short": found["cut"],
            "time for all together": _seconds(found["together_s"]),
            "nothing ran or waited after the last stream, within": _seconds(found["idle_after_s"]),
            "after kill -9: listening again within": _seconds(found["killed_and_back_s"]),
            "streams that saw the kill": f"{found['killed_streams_seen_as_cut']} of "
            f"{found['killed_streams']}",
            "the same answer after it": "yes" if found["same_after_restart"] else "no",
        },
    )


def _soak(found: dict[str, Any]) -> str:
    memory = found["rss_mib"]
    marks = [memory[0], memory[len(memory) // 2], memory[-1]]
    rows = {
        f"{found['requests']} requests, of these": "",
        **found["outcomes"],
        "memory after the first twentieth, half, all (MiB)": ", ".join(f"{m:.0f}" for m in marks),
        "growth from the third quarter to the last": (
            f"{100 * found['growth_from_third_to_last_quarter']:.1f} %"
        ),
    }
    return _table("came to what they should", rows)


def _throughput(found: dict[str, Any]) -> str:
    rates = found["tokens_a_second"]
    counts = list(next(iter(rates.values())))
    head = f"| tokens/s | {' | '.join(f'{count} clients' for count in counts)} |"
    lines = [head, "| --- |" + " --- |" * len(counts)]
    lines += [
        f"| {name} | {' | '.join(_middle(by_count[count]) for count in counts)} |"
        for name, by_count in rates.items()
    ]
    left_out = [f"- {what}: {why.splitlines()[-1]}" for what, why in found["not_measured"].items()]
    return "\n".join([*lines, *(["", "Not measured:", "", *left_out] if left_out else [])])


def _middle(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else "–"


TEXTS = {"equal": _equal, "soak": _soak, "throughput": _throughput}
