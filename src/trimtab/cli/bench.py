"""`trimtab bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from trimtab.arms.named import named_arms
from trimtab.cli.options import ModelsOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.entries import parse_revisions
from trimtab.errors import ConfigError
from trimtab.files import only_writer, require_fresh, storage_errors, write_json, write_text
from trimtab.models.origins import Origins
from trimtab.models.types import Quantization

if TYPE_CHECKING:
    from trimtab.bench.speed import Row

BENCHES = ("speed",)
DESCRIPTION = "The price of guidance on this machine: time, memory, time to the first token."


@dataclass(kw_only=True)
class SpeedOptions(ModelsOptions):
    """The price of guidance on this machine: time, memory, time to the first token."""

    base: str = ""
    """The frozen base: a folder or a hub id; without it, random weights of --shape."""

    arm: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """An ARM of the base as OBJECTIVE=FOLDER_OR_HUB_ID; repeat the option for several."""

    draft_model: str | None = None
    """What drafts in the speculation rows, as for `trimtab generate`."""

    quantization: Quantization | None = None
    """Load the base with weights of this many bits, as for `trimtab generate`."""

    shape: Literal["5m", "350m", "7b"] = "350m"
    """Shape of the random model."""

    rows: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Measure the rows whose name contains this; repeat the option for several. Each row holds its
    own weights: all rows of 350m take some 12 GiB in bfloat16."""

    points: list[str] = field(default_factory=lambda: ["1x32", "8x32", "32x32", "1x512"])
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

    json: bool = False
    """Print the results as JSON."""


def main(argv: Sequence[str]) -> int:
    """Find the benchmark, measure, show, write."""
    name, *rest = argv or [""]
    if name in ("-h", "--help"):  # there is one benchmark so far
        name, rest = "speed", ["--help"]
    if name not in BENCHES:
        raise ConfigError(f"no benchmark {name!r}", f"write trimtab bench {' or '.join(BENCHES)}")
    options = parse(SpeedOptions, rest, "bench speed", DESCRIPTION)
    points = [_point(text) for text in options.points]
    if options.new_tokens < 2 or options.repeats < 1:
        raise ConfigError("nothing to measure", "give --new-tokens 2 or more, --repeats 1 or more")
    if not options.base and (options.arm or options.draft_model or options.quantization):
        raise ConfigError("--arm, --draft-model and --quantization need a base", "add --base MODEL")
    if not points:
        raise ConfigError("--points is empty", "write BATCHxPROMPT, such as 8x32")
    if not options.output_dir:
        return _speed(options, points)
    folder = Path(options.output_dir)
    with only_writer(folder, folder=True):
        require_fresh(folder, overwrite=options.overwrite)
        return _speed(options, points)


def _point(text: str) -> tuple[int, int]:
    batch, by, prompt = text.partition("x")
    if not by or not batch.isdecimal() or not prompt.isdecimal() or "0" in (batch, prompt):
        raise ConfigError(f"--points {text}", "write BATCHxPROMPT, such as 8x32")
    return int(batch), int(prompt)


def _speed(options: SpeedOptions, points: list[tuple[int, int]]) -> int:
    from trimtab.bench.machine import conditions
    from trimtab.bench.rows import OwnModels, RandomModels, wanted
    from trimtab.bench.speed import measure, peak_memory
    from trimtab.cli import show
    from trimtab.models.devices import default_device, require_device

    quiet_libraries()
    device = require_device(options.device) if options.device else default_device()
    models: Any
    if options.base:
        revisions = parse_revisions(options.revision)
        arms = named_arms(options.arm, revisions)
        Origins.of(["base", "draft", *arms], options.trust_remote_code, revisions)
        own = {name: r for name, r in revisions.items() if name in ("base", "draft")}
        models = OwnModels(options.base, arms, {**_load_options(options), "revisions": own})
    else:
        dtype = "bfloat16" if options.dtype == "auto" else options.dtype
        models = RandomModels(options.shape, dtype, device)
    makers = models.makers()
    names = wanted(makers, options.rows)
    with show.progress() as progress:
        rows = measure(
            {name: makers[name] for name in names},
            models.prompts,
            points,
            new_tokens=options.new_tokens,
            repeats=options.repeats,
            progress=progress,
        )
        memory: dict[str, float] = {}
        for done, name in enumerate(names if options.memory else [], 1):
            peak = peak_memory(models, name, *points[0], options.new_tokens)
            memory |= {} if peak is None else {name: peak}
            progress("measuring memory", done, len(names))
    report = {
        "conditions": conditions(device),
        "settings": asdict(options),
        "rows": [asdict(row) for row in rows],
        "peak_memory_bytes": memory,
    }
    _show(options, report, rows, memory)
    return 0


def _load_options(options: SpeedOptions) -> dict[str, Any]:
    return {
        "dtype": options.dtype,
        "device": options.device,
        "trust_remote_code": options.trust_remote_code,
        "draft": options.draft_model,
        "quantization": options.quantization,
    }


def _show(
    options: SpeedOptions, report: dict[str, Any], rows: Sequence[Row], memory: dict[str, float]
) -> None:
    from trimtab.bench.table import COLUMNS, as_markdown, tables
    from trimtab.cli import show
    from trimtab.evaluation.plots import speed_plot

    if options.output_dir:
        folder = Path(options.output_dir)
        with storage_errors(folder):
            write_text(folder / "table.md", as_markdown(rows, memory))
            speed_plot(folder / "speed.png", rows)
            write_json(folder / "results.json", report)
    if options.json:
        show.print_json(report)
        return
    for title, lines in tables(rows, memory).items():
        show.console().print(show.table(title, COLUMNS, lines))
    if options.output_dir:
        print(f"written to {options.output_dir}: results.json, table.md, speed.png")
