"""`trimtab data`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from trimtab.cli.options import JsonOptions, LayoutOptions
from trimtab.cli.parse import parse, quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console
    from rich.padding import Padding

    from trimtab.evaluation.data_facts import DataFacts
    from trimtab.evaluation.rendered import Rendered
    from trimtab.stats import Estimate

DESCRIPTION = "Show what would be read of preference data, before anything is trained on them."


@dataclass(kw_only=True)
class DataOptions(LayoutOptions, JsonOptions):
    """Show what would be read of preference data: layout, rows, objectives, lengths, one pair."""

    data: Annotated[list[str], tyro.conf.Positional]
    """Preference files, folders of `datasets` or hub ids, in any layout of docs/data.md;
    NAME=FILE names the objective of a file that names none."""

    model: str | None = None
    """Folder or hub id of the model to be trained: lengths in its tokens, the pair in its chat
    template. Only its tokenizer is loaded."""

    trust_remote_code: bool = False
    """Run tokenizer code that comes with the model."""


def main(argv: Sequence[str]) -> int:
    """Read and show."""
    words = [word for word in argv if word != "--data"]  # as other commands want it
    options = parse(DataOptions, words, "data", DESCRIPTION)
    from trimtab.cli import show
    from trimtab.evaluation.data_facts import inspect_data

    quiet_libraries()
    facts = inspect_data(
        options.data,
        model=options.model,
        columns=options.columns,
        pairs_per_prompt=options.pairs_per_prompt,
        trust_remote_code=options.trust_remote_code,
    )
    if options.json:
        show.print_json(_as_json(facts))
        return 0
    screen = show.console()
    _facts(screen, facts)
    _objectives(screen, facts)
    _agreement(screen, facts.agreement)
    _lengths(screen, facts)
    _example(screen, facts.example)
    screen.print()
    screen.print(f"Train on it: {_how_to_train(options, facts)}", soft_wrap=True, markup=False)
    return 0


def _as_json(facts: DataFacts) -> dict[str, Any]:
    rows = facts.rows
    as_json = asdict(facts)
    as_json["rows"] = {
        "read": rows.rows,
        "layouts": rows.layouts,
        "left_out": rows.counts,
        "malformed": sorted(rows.malformed),
        "columns_not_used": list(rows.unused),
    }
    as_json["agreement"] = {
        name: {**asdict(share), "value": share.value if share.n else None}
        for name, share in facts.agreement.items()
    }
    return as_json


def _facts(screen: Console, facts: DataFacts) -> None:
    from rich.table import Table
    from rich.text import Text

    rows, grid = facts.rows, Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")

    def fact(name: str, text: str) -> None:
        grid.add_row(name, Text(text))

    layouts = [f"{name} ({n:,} rows)" for name, n in rows.layouts.items()]
    fact("layout", ", ".join(layouts if len(layouts) > 1 else rows.layouts))
    fact("rows", f"{rows.rows:,}")
    fact("pairs", f"{facts.pairs:,} that can be used")
    if facts.repeated:
        fact("", f"{facts.repeated:,} of them repeat an earlier one")
    for number, (reason, places) in enumerate(rows.unusable.items()):
        some = ", ".join(places[:2]) + (", …" if len(places) > 2 else "")
        bad = "; train refuses these without --skip-bad-rows" if reason in rows.malformed else ""
        fact("" if number else "left out", f"{len(places):,}: {reason} ({some}){bad}")
    if rows.unused:
        fact("not used", f"the columns {', '.join(rows.unused)}")
    kinds = [("of several turns", facts.several_turns), ("with a system turn", facts.with_system)]
    more = [f"{count:,} {what}" for what, count in kinds if count]
    fact("prompts", ", ".join([f"{facts.prompts:,} different", *more]))
    screen.print(grid)
    screen.print()


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} – {estimate.high:.2f})" if estimate.n else "–"


def _objectives(screen: Console, facts: DataFacts) -> None:
    from trimtab.cli import show

    rows = [
        (
            name or "(none is named)",
            *(f"{n:,}" for n in (counts.pairs, *counts.splits.values())),
            _interval(counts.longer),
        )
        for name, counts in facts.objectives.items()
    ]
    columns = ("objective", "pairs", "train", "valid.", "test", "longer is better")
    screen.print(show.table("pairs by objective and split", columns, rows))


def _agreement(screen: Console, agreement: Mapping[str, Estimate]) -> None:
    from trimtab.cli import show

    rows = [(name, _interval(share), f"{share.n:,}") for name, share in agreement.items()]
    if rows:
        columns = ("", "agree", "pairs")
        screen.print(show.table("agreement, on pairs that both decide", columns, rows))


def _lengths(screen: Console, facts: DataFacts) -> None:
    from trimtab.cli import show

    some = "" if facts.measured == facts.pairs else f", {facts.measured:,} pairs"
    limit = " (--max-length)" if facts.unit == "tokens" else ""
    names = {"prompt": "prompt", "answer": "longer answer", "pair": f"both{limit}"}
    rows = [
        (names[name], *(f"{n:,}" for n in counts.values()))
        for name, counts in facts.lengths.items()
    ]
    title = f"lengths in {facts.unit}{some}"
    screen.print(show.table(title, ("", "median", "95 %", "longest"), rows))
    if facts.unit == "words":
        screen.print("--model NAME counts its tokens and shows its chat template.")
    screen.print("In brackets: 95 % intervals, as wide as if each prompt had but one pair.\n")


def _example(screen: Console, pair: Rendered) -> None:
    from rich.text import Text

    objective = f" for {pair.objective}" if pair.objective else ""
    screen.print(Text(f"one pair, {pair.source}; what stands between » and « is rewarded", "bold"))
    counts = [f" ({n} tokens)" for n in pair.tokens] or ["", "", ""]
    parts = [("prompt", pair.prompt, False), (f"better{objective}", pair.better, True)]
    parts.append(("worse", pair.worse, True))
    for (name, text, rewarded), count in zip(parts, counts, strict=True):
        screen.print(Text(f"{name}{count}", "bold"))
        screen.print(_marked(_cut(text), rewarded))


def _marked(text: str, rewarded: bool) -> Padding:
    from rich.padding import Padding
    from rich.text import Text

    shown = Text.assemble("»", (text, "green"), "«") if rewarded else Text(text, "dim")
    return Padding(shown, (0, 0, 0, 2))


def _cut(text: str, most: int = 600) -> str:
    """A long text without its middle."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} [… {len(text) - most:,} characters …] {text[-half:]}"


def _how_to_train(options: DataOptions, facts: DataFacts) -> str:
    command = ["trimtab", "train", "--model", options.model or "MODEL", "--data", *options.data]
    if options.columns:
        command += ["--columns", options.columns]
    if options.pairs_per_prompt:
        command += ["--pairs-per-prompt", str(options.pairs_per_prompt)]
    if names := [name for name in facts.objectives if name]:
        command += ["--objectives", ",".join(names)]
    return shlex.join([*command, "--output-dir", "arms"])
