"""`trimtab bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, cast

import tyro

from trimtab.bench.speed.run import POINTS, Shape, bench_speed
from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.run import TABLES, Table, run_table
from trimtab.cli import show
from trimtab.cli.options import JsonOptions, ModelsOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.entries import parse_revisions
from trimtab.errors import ConfigError
from trimtab.models.types import Quantization

BENCHES = ("speed", *TABLES)
DESCRIPTION = "The price of guidance on this machine: time, memory, time to the first token."
DESCRIBED = {
    "alignment": "Every method against DPO and the base on your model and pairs, beside controls.",
    "latency": "Seconds for an answer, every method in one interleaved run, with what it counts.",
    "training": "Time, memory and accuracy against the number of pairs: ARM, reward model, DPO.",
    "weak-to-strong": "An ARM of your model's first layers guiding all of it, against DPO on it.",
    "accuracy": "ARM against trajectory reward model on human pairs, with the floors beside.",
    "multi-objective": "Fronts over preferences: one ARM per objective, one for all, soups, MOD.",
}


@dataclass(kw_only=True)
class SpeedOptions(JsonOptions, ModelsOptions):
    """The price of guidance on this machine: time, memory, time to the first token."""

    base: str = ""
    """The frozen base: a folder or a hub id; without it, random weights of --shape."""

    arm: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """An ARM of the base as OBJECTIVE=FOLDER_OR_HUB_ID; repeat the option for several."""

    draft_model: str | None = None
    """What drafts in the speculation rows, as for `trimtab generate`."""

    quantization: Quantization | None = None
    """Load the base with weights of this many bits, as for `trimtab generate`."""

    shape: Shape = "350m"
    """Shape of the random model."""

    rows: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Measure the rows whose name contains this; repeat the option for several. Each row holds its
    own weights: all rows of 350m take some 12 GiB in bfloat16."""

    points: list[str] = field(default_factory=lambda: [*POINTS])
    """Batch x prompt tokens."""

    new_tokens: int = 32
    """Tokens decoded for each request."""

    repeats: int = 5
    """Interleaved repeats after one to warm up; medians are reported."""

    memory: bool = True
    """Also measure each row's peak memory, in a process of its own."""

    output_dir: str | None = None
    """Folder for results.json, table.md and speed.png."""

    overwrite: bool = False
    """Replace the folder's results."""


@dataclass(kw_only=True)
class TableOptions(TableConfig, JsonOptions):
    """A table of methods."""


def main(argv: Sequence[str]) -> int:
    """Find the benchmark, measure, show.

    Raises:
        SystemExit: `--help`.
    """
    name, *rest = argv or [""]
    if name in ("-h", "--help"):
        print(_overview())
        raise SystemExit(0)
    if name not in BENCHES:
        raise ConfigError(f"no benchmark {name!r}", f"write trimtab bench {' or '.join(BENCHES)}")
    return _speed(rest) if name == "speed" else _table(name, rest)


def _overview() -> str:
    lines = [f"  {name:<16} {text}" for name, text in {"speed": DESCRIPTION, **DESCRIBED}.items()]
    return "\n".join(["usage: trimtab bench NAME [options], NAME one of", "", *lines])


def _table(name: str, argv: Sequence[str]) -> int:
    """Make a table and show it."""
    options = parse(TableOptions, argv, f"bench {name}", DESCRIBED[name])
    settings = {f.name: getattr(options, f.name) for f in fields(TableConfig)}
    quiet_libraries()
    with show.progress() as progress:
        found = run_table(cast(Table, name), TableConfig(**settings), progress, show.say)
    if options.json:
        show.print_json(asdict(found))
        return 0
    if found.head:
        print(found.head)
    show.console(wide=True).print(show.table(found.title, found.columns, found.rows))
    if found.claims:
        show.console(wide=True).print(show.table("", ("expected", "found", ""), found.claims))
    for note in found.notes:
        print(note)
    print(f"written to {options.output_dir}: table.md, plot.png, manifest.json, rows.jsonl")
    return 0


def _speed(argv: Sequence[str]) -> int:
    """Measure the price of guidance and show it."""
    options = parse(SpeedOptions, argv, "bench speed", DESCRIPTION)
    quiet_libraries()
    with show.progress() as progress:
        results = bench_speed(
            base=options.base,
            arms=options.arm,
            draft=options.draft_model,
            quantization=options.quantization,
            shape=options.shape,
            rows=options.rows,
            points=options.points,
            new_tokens=options.new_tokens,
            repeats=options.repeats,
            memory=options.memory,
            dtype=options.dtype,
            device=options.device,
            trust_remote_code=options.trust_remote_code,
            revisions=parse_revisions(options.revision),
            output_dir=options.output_dir,
            overwrite=options.overwrite,
            progress=progress,
        )
    _show(options, results)
    return 0


def _show(options: SpeedOptions, results: Mapping[str, Any]) -> None:
    from trimtab.bench.speed.measure import Row
    from trimtab.bench.speed.table import COLUMNS, tables

    rows, memory = [Row(**row) for row in results["rows"]], results["peak_memory_bytes"]
    if options.json:
        show.print_json(results)
        return
    for title, lines in tables(rows, memory).items():
        show.console().print(show.table(title, COLUMNS, lines))
    if options.output_dir:
        print(f"written to {options.output_dir}: results.json, table.md, speed.png")
