"""What a table does, one job after the other; what each gave is a row of `rows.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.material import Material
from trimtab.bench.tables.rates import Rates
from trimtab.errors import ConfigError
from trimtab.jobs import Progress, RowFile
from trimtab.scoring.score_files import read_jsonl

Row = Mapping[str, Any]


@dataclass
class Work:
    """What the jobs of a table share.

    Attributes:
        config: the table's options.
        base: folder of the frozen base.
        judge: folder of what the judge is trained from; "" without one.
        material: pairs and prompts.
        rows: name of a job -> what it gave.
    """

    config: TableConfig
    base: str
    judge: str
    material: Material
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of the table."""
        return Path(self.config.output_dir)

    def model(self, name: str) -> str:
        """Folder of a model that is, or will be, trained here."""
        return str(self.folder / "models" / name)


class Job(Protocol):
    """One thing that a table does."""

    @property
    def name(self) -> str:
        """No other job of the table has it."""

    def seconds(self, work: Work, rates: Rates) -> float:
        """About how long it takes."""

    def run(self, work: Work) -> dict[str, Any]:
        """Do it; what is worth writing down. Called again, it does it again."""


class Apart:
    """A job that runs in a process of its own and wants nothing of its neighbours."""


def carry_out(jobs: Sequence[Job], work: Work, file: RowFile, progress: Progress) -> None:
    """Do what the file lacks; a killed run goes on with the job that it was at.

    Raises:
        ConfigError: the file is of jobs by other names.
    """
    for job, row in zip(jobs, read_jsonl(file.path) if file.done else (), strict=False):
        if row["job"] != job.name:
            raise ConfigError(
                f"{file.path} has {row['job']} where {job.name} is due", "--overwrite"
            )
        work.rows[job.name] = row
    number = file.done
    with file, ThreadPoolExecutor(work.config.at_once) as pool:
        for together in _groups(jobs[number:], work.config.at_once):
            names = ", ".join(job.name for job in together)
            progress(f"{work.config.output_dir}: {names}", number, len(jobs))
            each = pool.map if len(together) > 1 else map
            for row in each(partial(_row, work), together):
                file.append(row)
                work.rows[row["job"]] = row
            number += len(together)
    progress("done", len(jobs), len(jobs))


def _groups(jobs: Sequence[Job], most: int) -> Iterator[Sequence[Job]]:
    """The jobs in order; neighbours that run apart from each other up to so many together."""
    for apart, neighbours in groupby(jobs, key=lambda job: isinstance(job, Apart)):
        group, size = [*neighbours], most if apart else 1
        yield from (group[at : at + size] for at in range(0, len(group), size))


def _row(work: Work, job: Job) -> dict[str, Any]:
    start = time.perf_counter()
    found = job.run(work)
    return {"job": job.name, "seconds": time.perf_counter() - start, **found}
