"""Rows out of every kind of file, and what is said when a file cannot be read."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab.data import sources
from trimtab.data.sources import fingerprint, read_rows
from trimtab.errors import DataError, MissingFileError

ROWS = [
    {"prompt": 'a, "b"\nc', "chosen": "é", "rejected": "😀"},
    {"prompt": "d", "chosen": "e", "rejected": "f"},
]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


def write_csv(path: Path, rows: list[dict[str, str]], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet"])
def test_plain_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif name.endswith(".csv"):
        write_csv(path, ROWS)
    else:
        text = JSONL if name.endswith("l") else json.dumps(ROWS)
        path.write_text(text, encoding="utf-8")
    assert read(path) == ROWS


def test_a_parquet_map_is_an_object(tmp_path: Path) -> None:
    """Left as the list of pairs that it comes as, such labels would say nothing."""
    import pyarrow
    import pyarrow.parquet

    maps = pyarrow.array([[("a", 0), ("b", None)], []], pyarrow.map_("string", "int64"))
    deep = pyarrow.array([[{"m": [("x", 1)]}], None], pyarrow.list_(
        pyarrow.struct([("m", pyarrow.map_("string", "int64"))])))  # fmt: skip
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"labels": maps, "deep": deep}), path)
    assert read(path) == [
        {"labels": {"a": 0, "b": None}, "deep": [{"m": {"x": 1}}]},
        {"labels": [], "deep": None},
    ]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
@pytest.mark.parametrize("kind", [".json", ".jsonl"])
def test_packed_files(tmp_path: Path, kind: str, suffix: str, pack: Any) -> None:
    text = JSONL if kind == ".jsonl" else json.dumps(ROWS)
    path = tmp_path / f"rows{kind}{suffix}"
    path.write_bytes(pack(text.encode()))
    assert read(path) == ROWS


def test_places_name_the_line_and_blank_lines_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert list(read_rows(path)) == [("rows.jsonl:1", {"a": 1}), ("rows.jsonl:3", {"a": 2})]


def test_csv_cells_are_the_texts_that_they_hold(tmp_path: Path) -> None:
    """What a cell spells is read where its column is, the same for every kind of file."""
    cells = {"labels": '{"helpful": 1}', "chosen": '{"a": 1}', "p": "{x", "q": ""}
    assert read(write_csv(tmp_path / "rows.csv", [cells])) == [cells]


def test_a_csv_row_with_more_cells_than_the_header_is_refused(tmp_path: Path) -> None:
    """An unquoted comma would cut the text in silence."""
    path = tmp_path / "rows.csv"
    path.write_text("prompt,chosen\na,b\na,b, c\n")
    with pytest.raises(DataError, match=r"line 3 of rows\.csv has more cells than the header"):
        read(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000], ids=["deep", "long number"])
def test_json_that_python_cannot_read_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1}}\n{{"a": {text}}}\n')
    with pytest.raises(DataError, match=r"line 2 of rows\.jsonl is not JSON"):
        read(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path, name: str) -> None:
    # Spreadsheets write one. Left in, the first column would be called "\ufeffprompt", and every
    # row would pass as one with an implicit prompt.
    path = tmp_path / name
    if name == "rows.csv":
        write_csv(path, ROWS[1:], encoding="utf-8-sig")
    else:
        path.write_text(json.dumps(ROWS[1] if name == "rows.jsonl" else ROWS[1:]), "utf-8-sig")
    assert read(path) == ROWS[1:]


def test_a_line_that_is_not_json_is_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": \n{"a": 4}\n')
    with pytest.raises(DataError, match=r"line 3 of rows\.jsonl is not JSON"):
        read(path)


def test_a_row_that_is_no_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n[1, 2]\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2 is list"):
        read(path)


EMPTY = {"rows.jsonl": "", "blank.jsonl": "\n\n", "rows.json": "[]", "rows.csv": "prompt,chosen\n"}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(EMPTY[name])
    with pytest.raises(DataError, match=f"{name} is empty"):
        read(path)


BROKEN: dict[str, bytes] = {
    "rows.json": b'{"a": 1}',  # an object, not a list
    "rows.txt": b"hello",
    "latin.jsonl": '{"a": "é"}'.encode("latin-1"),
    "rows.jsonl.gz": b"no gzip at all",
    "torn.jsonl.gz": gzip.compress(JSONL.encode())[:-12],
    # A good header and rubbish after it: zlib complains in a type of its own.
    "rubbish.jsonl.gz": gzip.compress(b"")[:10] + b"\xff" * 40,
    "rows.jsonl.xz": b"no xz at all",
    "rows.parquet": b"no parquet at all",
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(DataError, match=name):
        read(path)


def test_a_missing_file_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_read_hub", lambda name: pytest.fail(f"asked the hub: {name}"))
    for name in (tmp_path / "none.jsonl", "none.json", "./none/here", "data/none.csv.gz"):
        with pytest.raises(MissingFileError, match="no such file"):
            read(Path(name) if isinstance(name, Path) else name)  # type: ignore[arg-type]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize(("name", "split"), [("owner/set", "train"), ("owner/set:test", "test")])
def test_a_hub_id_names_repository_and_split(
    monkeypatch: pytest.MonkeyPatch, name: str, split: str
) -> None:
    import datasets

    asked: list[tuple[str, str]] = []

    def load_dataset(repository: str, split: str) -> list[dict[str, str]]:
        asked.append((repository, split))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_rows(name)) == [(f"{name}:1", ROWS[0]), (f"{name}:2", ROWS[1])]
    assert asked == [("owner/set", split)]


def test_a_hub_id_that_cannot_be_had_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(repository: str, split: str) -> None:
        raise ConnectionError("offline\nwith a second line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(MissingFileError, match=r"no hub data set 'owner/set' \(offline\)"):
        list(read_rows("owner/set"))


def test_the_fingerprint_goes_by_content_and_order(tmp_path: Path) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    a.write_text("1")
    b.write_text("2")
    c.write_text("1")
    assert fingerprint([a, b]) == fingerprint([c, b])
    assert fingerprint([a, b]) != fingerprint([b, a])
    assert fingerprint(["owner/x"]) != fingerprint(["owner/y"])


def test_a_long_cell_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"  # above the csv module's own limit of 131072 characters
    path.write_bytes(b"prompt,chosen\n" + b"a" * 140_000 + b",b\n")
    [(_, row)] = read_rows(path)
    assert len(row["prompt"]) == 140_000


def test_json_lines_under_a_json_name(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.json", ROWS)
    with pytest.raises(
        DataError, match=r"rows\.json holds JSON lines; rename it to end in \.jsonl"
    ):
        read(path)
