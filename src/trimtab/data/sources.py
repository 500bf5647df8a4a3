"""Rows out of files and hub data sets, each with the place where it stands."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from trimtab.errors import DataError, MissingFileError, first_line

Row = dict[str, Any]

FORMATS = "JSON, JSONL, CSV, TSV, Parquet or Arrow; text plain or .gz or .xz"
_UNREADABLE = (UnicodeDecodeError, OSError, zlib.error, lzma.LZMAError, EOFError, csv.Error)
_NAMED = re.compile(r"^([A-Za-z_][\w-]*)=(.+)$")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?$")


def read_rows(source: str | os.PathLike[str]) -> Iterator[tuple[str, Row]]:
    """Yield `(place, row)` from a file or a hub data set.

    Args:
        source: a JSON (list of objects), JSONL, CSV, TSV, Parquet or Arrow file, text plain, `.gz`
            or `.xz`; a folder that `datasets` saved, `FOLDER` (split `train` where there are
            several) or `FOLDER:split`; or a hub id, `owner/name` (split `train`) or
            `owner/name:split`. `NAME=` before it is passed over.

    Raises:
        MissingFileError: no such file, and no hub data set of that name can be had.
        DataError: an empty file, a line that is not JSON, an unknown format.
    """
    source = split_name(source)[1]
    path = Path(source)
    if (saved := saved_folder(source)) is not None:
        yield from _numbered(path.name, _read_saved(saved))
    elif path.is_dir():
        raise DataError(f"{path} is a folder", "name the data files in it")
    elif path.is_file():
        yield from _numbered(path.name, _read_file(path))
    elif _looks_like_path(str(source)):
        raise MissingFileError(f"no such file: {source}", "check the path")
    else:
        yield from _numbered(str(source), _read_hub(str(source)))


def fingerprint(sources: Sequence[str | os.PathLike[str]]) -> str:
    """SHA-256 over the bytes of the files, in order (over the name, for a hub data set)."""
    digest = hashlib.sha256()
    for entry in sources:
        source = split_name(entry)[1]
        path, saved = Path(source), saved_folder(source)
        for file in [path] if path.is_file() else saved_files(saved) if saved else []:
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        if not path.is_file() and not saved:
            digest.update(str(source).encode())
    return digest.hexdigest()


def split_name(source: str | os.PathLike[str]) -> tuple[str, str]:
    """`NAME=FILE` as name and file; a source without a name has the name ""."""
    named = _NAMED.match(str(source))
    if named is None or Path(source).exists():
        return "", str(source)
    return named[1], named[2]


def saved_folder(source: str | os.PathLike[str]) -> Path | None:
    """The folder of one split that `datasets.save_to_disk` wrote; None where there is none.

    Raises:
        DataError: several splits, and none of them is called as asked.
    """
    name, split = str(source), ""
    if not Path(name).is_dir():
        name, _, split = name.rpartition(":")
    folder = Path(name)
    if not name or not folder.is_dir():
        return None
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        if (split or "train") not in splits:
            raise DataError(
                f"{folder} has no split {split or 'train'!r}",
                f"write one of {', '.join(f'{folder}:{s}' for s in splits)}",
            )
        return folder / (split or "train")
    return folder if (folder / "state.json").is_file() and not split else None


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a folder that `datasets.save_to_disk` wrote, in order."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        files = []
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{folder} is no whole folder of `save_to_disk`", "save it again")
    return files


def _numbered(name: str, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[str, Row]]:
    count = 0
    for number, row in rows:
        place = f"{name}:{number}"
        if not isinstance(row, dict):
            raise DataError(f"{place} is {type(row).__name__}, not an object", "one object per row")
        count += 1
        yield place, row
    if not count:
        raise DataError(f"{name} is empty", "give a file with at least one row")


def _looks_like_path(source: str) -> bool:
    suffixes = {s.lower() for s in Path(source).suffixes}
    known = {".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".xz", ".txt"}
    return bool(suffixes & known) or not _HUB_ID.match(source)


def _read_file(path: Path) -> Iterator[tuple[int, Row]]:
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty", "give a file with at least one row")
    suffixes = [s.lower() for s in path.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in (".gz", ".xz") else ""
    kind = suffixes[-1] if suffixes else ""
    if kind == ".parquet":
        yield from _read_parquet(path)
        return
    if kind == ".arrow":
        yield from _read_arrow([path])
        return
    try:
        with _open_text(path, packing) as handle:
            if kind in (".jsonl", ".ndjson"):
                yield from _read_jsonl(path.name, handle)
            elif kind == ".json":
                yield from _read_json(path.name, handle)
            elif kind in (".csv", ".tsv"):
                yield from _read_csv(path.name, handle, tabs=kind == ".tsv")
            else:
                raise DataError(f"{path.name} has no known data format", f"use {FORMATS}")
    except _UNREADABLE as error:
        raise DataError(f"{path.name} cannot be read: {error}", f"use {FORMATS}, UTF-8") from error


def _open_text(path: Path, packing: str) -> IO[str]:
    encoding = "utf-8-sig"  # a byte-order mark is no part of the first column's name
    if packing == ".gz":
        return cast(IO[str], gzip.open(path, "rt", encoding=encoding, newline=""))
    if packing == ".xz":
        return lzma.open(path, "rt", encoding=encoding, newline="")
    return path.open(encoding=encoding, newline="")


def _read_jsonl(name: str, handle: IO[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(handle, 1):
        if line.strip():
            yield number, _loads(line, f"line {number} of {name}")


def _read_json(name: str, handle: IO[str]) -> Iterator[tuple[int, Row]]:
    text = handle.read()
    try:
        rows = _loads(text, name)
    except DataError:
        first, _, rest = text.lstrip().partition("\n")
        if rest and first.startswith("{") and first.rstrip().endswith("}"):
            raise DataError(f"{name} holds JSON lines", "rename it to end in .jsonl") from None
        raise
    if not isinstance(rows, list):
        raise DataError(f"{name} holds {type(rows).__name__}, not a list", "give a list of objects")
    yield from enumerate(rows, 1)


def _loads(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a long number, deep nesting
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at column {error.colno}"
        raise DataError(
            f"{where} is not JSON ({reason})",
            "mend or delete it" if where.startswith("line ") else "mend the file",
        ) from None


def _read_csv(name: str, handle: IO[str], *, tabs: bool) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)  # a long chat is no error
    header = handle.readline()
    mark = "\t" if tabs else _delimiter(header)
    # with tabs many write quotes as they stand: what would be cut at one is an error, not a guess
    reader = csv.DictReader(chain([header], handle), delimiter=mark, strict=tabs)
    for row in reader:
        if None in row:
            raise DataError(
                f"line {reader.line_num} of {name} has more cells than the header",
                "put texts with commas, semicolons, tabs or line ends into quotes",
            )
        yield reader.line_num, {key: value for key, value in row.items() if key}


def _delimiter(header: str) -> str:
    """What parts the columns: the one of comma, semicolon and tab that is most in the header."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(",;\t", key=bare.count)


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path.name} is not a Parquet file ({error})", "check the file") from None
    rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
    yield from enumerate(map(_without_maps, rows), 1)


def _read_saved(folder: Path) -> Iterator[tuple[int, Row]]:
    yield from _read_arrow(saved_files(folder))


def _read_arrow(files: Sequence[Path]) -> Iterator[tuple[int, Row]]:
    """Rows of Arrow files, which `datasets` writes as streams, and others as files."""
    import pyarrow

    def rows() -> Iterator[Row]:
        for path in files:
            with pyarrow.memory_map(str(path)) as source:
                try:
                    batches = iter(pyarrow.ipc.open_stream(source))
                except pyarrow.ArrowInvalid:
                    file = pyarrow.ipc.open_file(source)
                    batches = map(file.get_batch, range(file.num_record_batches))
                for batch in batches:
                    yield from map(_without_maps, batch.to_pylist())

    try:
        yield from enumerate(rows(), 1)
    except (pyarrow.ArrowInvalid, OSError) as error:
        names = ", ".join(path.name for path in files[:3])
        raise DataError(f"{names} is not Arrow data ({error})", "check the file") from None


def _without_maps(value: Any) -> Any:
    """An Arrow map comes as a list of tuples, which nothing else gives: as the object it is."""
    if isinstance(value, dict):
        return {key: _without_maps(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if value and all(isinstance(item, tuple) for item in value):
        return {key: _without_maps(item) for key, item in value}
    return [_without_maps(item) for item in value]


def _read_hub(name: str) -> Iterator[tuple[int, Row]]:
    import datasets

    repository, _, split = name.partition(":")
    try:
        rows = datasets.load_dataset(repository, split=split or "train")
    except Exception as error:  # the hub client raises a zoo of types: all mean "not to be had"
        raise MissingFileError(
            f"no file and no hub data set {name!r} ({first_line(error)})",
            "check the path or the hub id",
        ) from error
    yield from enumerate((dict(row) for row in rows), 1)
