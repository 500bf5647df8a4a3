"""What a table does, one job after the other; what each gave is a row of `rows.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    with file:
        for number, job in enumerate(jobs[file.done :], file.done):
            progress(f"{work.config.output_dir}: {job.name}", number, len(jobs))
            start = time.perf_counter()
            found = job.run(work)
            row = {"job": job.name, "seconds": time.perf_counter() - start, **found}
            file.append(row)
            work.rows[job.name] = row
    progress("done", len(jobs), len(jobs))
