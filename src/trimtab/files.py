"""Files written whole or not at all, by one writer, and never over something by surprise."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from trimtab.errors import OutputError

OTHER_MODEL = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json"),
    *("generation_config.json", "trimtab.json", "tokenizer*", "chat_template.jinja"),
    "gguf.json",
    *("additional_chat_templates", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
)
"""What a saved model replaces: an adapter beside a whole model would be loaded in its place, shards
of a larger model would stay, and so would another model's end of turn or chat template."""

MARKERS = ("config.json", "adapter_config.json", "results.json")
"""Files that say "a model is here" and, of a training run, "and it is finished": the first to go
and the last to come, so that a folder which has one is whole however a run ended."""

_STAGING, _LOCK = ".saving-", ".trimtab.lock"
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
    if directory.is_dir() and not overwrite and any(map(_counts, directory.iterdir())):
        raise OutputError(
            f"{directory} is not empty", "choose another --output-dir, or pass --overwrite"
        )


def _counts(path: Path) -> bool:
    """Whether a file is something to lose: not our own lock, nor what a killed run was writing."""
    return path.name != _LOCK and not path.name.startswith(_STAGING)


@contextlib.contextmanager
def only_writer(target: Path, *, folder: bool = False) -> Iterator[None]:
    """Keep every other process from writing the same output until the block ends.

    The lock is the system's, on a file beside the output (of a folder: in it). The file goes when
    the block ends; one that a killed process leaves behind holds nothing.

    Args:
        target: the output file or folder. Folders that are made for the lock go again if they stay
            empty.
        folder: the output is a folder.

    Raises:
        OutputError: another process writes it, or a place where nothing can be written.
    """
    where = target if folder else target.parent
    path = where / (_LOCK if folder else f".{target.name}.lock")
    made = make_folder(where)
    lock = FileLock(path, timeout=0.2)  # not 0: the one before may be about to remove its file
    try:
        with storage_errors(target):
            lock.acquire()
    except Timeout:
        raise OutputError(
            f"another run is writing {target}", "wait for it to end, or choose another place"
        ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: who opened it meanwhile sees that it is gone
        lock.release()
        for empty in made:
            with contextlib.suppress(OSError):
                empty.rmdir()


def make_folder(folder: Path) -> list[Path]:
    """Make a folder; returns it and those above it that were not there, the deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(path for path in (folder, *folder.parents) if path.exists())
        raise OutputError(f"{file} is a file", "name a directory") from None
    except FileNotFoundError as error:  # /proc, a dangling link
        raise OutputError(f"cannot make {folder} ({error.strerror})", "choose another") from None
    return missing


@contextlib.contextmanager
def whole_directory(directory: Path, replaced: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to fill; its files appear under `directory` only when the block ends well.

    Existing files of the same names, and those that match the patterns `replaced`, make room;
    others stay. On any error nothing is left. A kill, or a machine that stops, leaves the old
    files, the new ones, or no file of `MARKERS`. The caller is the `only_writer`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for stale in directory.glob(f"{_STAGING}*"):
        shutil.rmtree(stale, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=directory))
    try:
        with storage_errors(directory):
            yield staging
            _move_in(staging, directory, replaced)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move_in(staging: Path, directory: Path, replaced: Sequence[str]) -> None:
    """Move what is in `staging` into `directory`, in an order that a kill may cut anywhere."""
    for path in staging.rglob("*"):
        sync(path)
    sync(staging)
    new = {path.name for path in staging.iterdir()}
    old = {path.name for pattern in replaced for path in directory.glob(pattern)} - new
    for name in reversed(MARKERS):
        if name in new | old and (directory / name).exists():
            (directory / name).unlink()
            sync(directory)  # gone before anything it speaks for
    for name in sorted(old - {*MARKERS}):
        _remove(directory / name)
    for name in sorted(new - {*MARKERS}):
        _remove(directory / name, only_folders=True)
        (staging / name).replace(directory / name)
    for name in MARKERS:
        if name in new:
            sync(directory)  # there after all that it speaks for
            (staging / name).replace(directory / name)
    sync(directory)


def _remove(path: Path, *, only_folders: bool = False) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif not only_folders:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the system put a file, or the names in a folder, on disk (Windows opens no folder)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise  # some network file systems cannot do it for folders
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole: to a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.saving")
    try:
        with storage_errors(path):
            temporary.write_text(text, encoding="utf-8")
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
