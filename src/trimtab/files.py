"""Files written whole or not at all, and output places that are never overwritten by surprise."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import OutputError

OTHER_MODEL = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json")
"""What a saved model replaces: an adapter beside a whole model would be loaded in its place, and
shards of a larger model would stay."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn "disk full" and "no permission", however a library spells them, into `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        reason = _storage_reason(error)
        if reason is None:
            raise
        raise OutputError(
            f"cannot write {where}: {reason}", "free some space or choose another place"
        ) from error


def _storage_reason(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in (*_FULL, errno.EACCES, errno.EROFS):
        return os.strerror(error.errno).lower()
    text = str(error)  # safetensors and torch report the system's words inside their own types
    words = ("No space left", "File too large", "Disk quota", "file write failed", "unexpected pos")
    return next((f"disk full ({text[:80]})" for w in words if w in text), None)


def require_fresh(directory: Path, *, overwrite: bool) -> None:
    """Refuse an output directory that holds something, unless it may be overwritten."""
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{directory} is a file", "name a directory")
    if directory.is_dir() and any(directory.iterdir()) and not overwrite:
        raise OutputError(
            f"{directory} is not empty", "choose another --output-dir, or pass --overwrite"
        )


@contextlib.contextmanager
def whole_directory(directory: Path, replaced: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to fill; its files appear under `directory` only when the block ends well.

    Existing files of the same names, and those that match the patterns `replaced`, make room;
    others stay. On any error nothing is left.
    """
    directory.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".saving-", dir=directory))
    try:
        with storage_errors(directory):
            yield staging
            for old in (path for pattern in replaced for path in directory.glob(pattern)):
                old.unlink()
            for path in sorted(staging.iterdir()):
                target = directory / path.name
                if target.is_dir():
                    shutil.rmtree(target)
                path.replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole: to a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.saving")
    try:
        with storage_errors(path), temporary.open("w", encoding="utf-8") as handle:
            handle.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
