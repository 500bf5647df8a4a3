"""Rows appended to a JSONL file by a job that may be killed at any moment and go on later.

Beside `out.jsonl` stands `out.jsonl.job.json` with the settings, so that a file is only ever
continued by the run that began it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from trimtab.errors import OutputError
from trimtab.files import storage_errors, sync, write_json

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""

Say = Callable[[str], None]
"""Told what a user should know, a line each."""


def unseen(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


class RowFile:
    """An output file that grows by whole rows, in order. Its user is the `files.only_writer`.

    Args:
        path: the JSONL file.
        settings: what the rows depend on; a file written with other settings is not continued.
        overwrite: start again where the file holds another job's rows.

    Raises:
        OutputError: a file that is not this job's, without `overwrite`.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, object], *, overwrite: bool = False
    ) -> None:
        self.path = path
        self._settings = json.loads(json.dumps(settings))
        self._manifest = path.with_name(path.name + ".job.json")
        if path.is_dir():
            raise OutputError(f"{path} is a folder", "name a file")
        self._fresh = not path.exists() or (overwrite and not self._is_ours())
        if not self._fresh and not self._is_ours():
            raise OutputError(
                f"{path} holds rows of another run", "choose another --output, or pass --overwrite"
            )
        self.done = 0 if self._fresh else len(_whole_rows(path)[0])

    def _is_ours(self) -> bool:
        try:
            return bool(json.loads(self._manifest.read_text()) == self._settings)
        except (OSError, ValueError):
            return False

    def __enter__(self) -> RowFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with storage_errors(self.path):
            if self._fresh:
                self.path.unlink(missing_ok=True)
                write_json(self._manifest, self._settings)
                self._fresh = False  # opened again, the job goes on
            else:
                os.truncate(self.path, _whole_rows(self.path)[1])
            self._handle = self.path.open("a", encoding="utf-8")
            sync(self.path.parent)
        return self

    def begin_again(self) -> None:
        """Make the next rows the first: what the file holds goes when it is opened."""
        self._fresh, self.done = True, 0

    def append(self, row: Mapping[str, object]) -> None:
        """Append one row; it is on disk when this returns."""
        with storage_errors(self.path):
            self._handle.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._handle.flush()
            os.fsync(self._handle.fileno())
        self.done += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.close()


@contextlib.contextmanager
def going_on() -> Iterator[None]:
    """Ctrl-C in a job that writes a `RowFile` says that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        hint = "run the same command again to go on where it stopped"
        raise KeyboardInterrupt(hint) from None


def _whole_rows(path: Path) -> tuple[list[bytes], int]:
    """Complete lines of a file, and the number of bytes they take; a torn last line is not one."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(), end
