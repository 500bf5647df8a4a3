"""Output files that grow by whole rows and survive a kill at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.errors import OutputError
from trimtab.jobs import RowFile

SETTINGS = {"seed": 1, "stop": ("a", "b")}


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with rows 0 and 1."""
    path = tmp_path / "deep" / "out.jsonl"
    with RowFile(path, SETTINGS) as job:
        job.append({"row": 0, "text": "é\u2028"})
        job.append({"row": 1})
    return path


def test_a_job_goes_on_where_it_stopped(path: Path) -> None:
    job = RowFile(path, SETTINGS)
    assert job.done == 2
    with job:
        job.append({"row": 2})
    assert [row["row"] for row in rows_by_newline(path)] == [0, 1, 2]


def rows_by_newline(path: Path) -> list[Any]:
    """splitlines() of a text also cuts at U+2028, which JSON may hold."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


@pytest.mark.parametrize("torn", [b'{"row": 2', b'{"row": 2}', b"\xc3"])
def test_a_torn_last_line_is_done_again(path: Path, torn: bytes) -> None:
    # Even a line that would parse is torn without its newline: its row may have been longer.
    with path.open("ab") as handle:
        handle.write(torn)
    job = RowFile(path, SETTINGS)
    assert job.done == 2
    with job:
        job.append({"row": "again"})
    assert [row["row"] for row in rows_by_newline(path)] == [0, 1, "again"]


def test_looking_at_a_job_changes_nothing(path: Path) -> None:
    with path.open("ab") as handle:
        handle.write(b"torn")
    before = path.read_bytes()
    RowFile(path, SETTINGS)
    RowFile(path, {"seed": 2}, overwrite=True)
    assert path.read_bytes() == before


def test_a_file_of_another_run_is_refused(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"holds rows of another run; .*--overwrite"):
        RowFile(path, {**SETTINGS, "seed": 2})
    assert path.read_bytes() == before


@pytest.mark.parametrize("manifest", [None, "not JSON"])
def test_a_file_that_no_job_owns_is_refused(path: Path, manifest: str | None) -> None:
    owner = path.with_name("out.jsonl.job.json")
    owner.unlink()
    if manifest is not None:
        owner.write_text(manifest)
    with pytest.raises(OutputError, match="another run"):
        RowFile(path, SETTINGS)


def test_overwrite_starts_again_but_not_over_ones_own_rows(path: Path) -> None:
    assert RowFile(path, SETTINGS, overwrite=True).done == 2
    job = RowFile(path, {"seed": 2}, overwrite=True)
    assert job.done == 0
    with job:
        job.append({"row": "new"})
    assert rows(path) == [{"row": "new"}]
    assert RowFile(path, {"seed": 2}).done == 1


def test_a_job_may_be_opened_several_times(tmp_path: Path) -> None:
    # `score` opens it once a batch: the second opening must not start the file again.
    job = RowFile(tmp_path / "out.jsonl", SETTINGS)
    for i in range(3):
        with job:
            job.append({"row": i})
    assert [row["row"] for row in rows(tmp_path / "out.jsonl")] == [0, 1, 2]


def test_a_folder_is_no_row_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        RowFile(tmp_path, SETTINGS)
