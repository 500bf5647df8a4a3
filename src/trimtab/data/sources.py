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
from pathlib import Path
from typing import IO, Any, cast

from trimtab.errors import DataError, MissingFileError

Row = dict[str, Any]

FORMATS = "JSON, JSONL, CSV or Parquet, plain or .gz or .xz"
_UNREADABLE = (UnicodeDecodeError, OSError, zlib.error, lzma.LZMAError, EOFError, csv.Error)
_NAMED = re.compile(r"^([A-Za-z_][\w-]*)=(.+)$")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.-]+)?$")


def read_rows(source: str | os.PathLike[str]) -> Iterator[tuple[str, Row]]:
    """Yield `(place, row)` from a file or a hub data set.

    Args:
        source: a JSON (list of objects), JSONL, CSV or Parquet file, plain, `.gz` or `.xz`; or a
            hub id, `owner/name` (split `train`) or `owner/name:split`. `NAME=` before it names
            the objective of rows that name none.

    Raises:
        MissingFileError: no such file, and no hub data set of that name can be had.
        DataError: an empty file, a line that is not JSON, an unknown format.
    """
    objective, source = split_name(source)
    if objective:
        for place, row in read_rows(source):
            named = any(row.get(column) for column in ("objective", "labels", "scores"))
            yield place, row if named else {**row, "objective": objective}
        return
    path = Path(source)
    if path.is_dir():
        raise DataError(f"{path} is a folder", "name the data files in it")
    if path.is_file():
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
        path = Path(source)
        if path.is_file():
            with path.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        else:
            digest.update(str(source).encode())
    return digest.hexdigest()


def split_name(source: str | os.PathLike[str]) -> tuple[str, str]:
    """`NAME=FILE` as name and file; a source without a name has the name ""."""
    found = _NAMED.match(str(source))
    if found is None or Path(source).exists():
        return "", str(source)
    return found[1], found[2]


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
    known = {".json", ".jsonl", ".csv", ".parquet", ".gz", ".xz", ".txt"}
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
    try:
        with _open_text(path, packing) as handle:
            if kind in (".jsonl", ".ndjson"):
                yield from _read_jsonl(path.name, handle)
            elif kind == ".json":
                yield from _read_json(path.name, handle)
            elif kind == ".csv":
                yield from _read_csv(path.name, handle)
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


def _read_csv(name: str, handle: IO[str]) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)  # a long chat is no error
    reader = csv.DictReader(handle)
    for row in reader:
        if None in row:
            raise DataError(
                f"line {reader.line_num} of {name} has more cells than the header",
                "put texts with commas or line ends into quotes",
            )
        yield reader.line_num, {key: value for key, value in row.items() if key}


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path.name} is not a Parquet file ({error})", "check the file") from None
    number = 0
    for batch in file.iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield number, _without_maps(row)


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
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingFileError(
            f"no file and no hub data set {name!r} ({reason})", "check the path or the hub id"
        ) from error
    yield from enumerate((dict(row) for row in rows), 1)
