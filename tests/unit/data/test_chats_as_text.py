"""Chats that arrive as text are read, in every kind of file alike; JSON that is no chat stays."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_jsonl

from trimtab.data.chats import text_of
from trimtab.data.literals import read_literal
from trimtab.data.loading import read_comparisons, read_pairs
from trimtab.data.pairs import Pair
from trimtab.data.prompts import read_prompts
from trimtab.data.rows import pairs_of
from trimtab.errors import DataError
from trimtab.scoring.labelling import read_for_labelling

USER = {"role": "user", "content": 'Say "hi",\nit\'s } {1} null'}
HELLO = {"role": "assistant", "content": "Hello"}
AWAY = {"role": "assistant", "content": "Go away"}


def array(messages: list[dict[str, Any]]) -> Any:
    found = np.empty(len(messages), dtype=object)
    found[:] = messages
    return found


SPELT: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "JSON": json.dumps,
    "JSON within JSON": lambda messages: json.dumps(json.dumps(messages)),
    "pandas": str,
    "numpy": lambda messages: str(array(messages)),
    "numpy repr": lambda messages: repr(array(messages)),
    "with keys of nothing": lambda messages: str([{"name": None, **m} for m in messages]),
    "with JSON names": lambda messages: str([{**m, "name": None} for m in messages]).replace(
        "None}", "null}"
    ),
}


@pytest.mark.parametrize("spelling", SPELT)
def test_a_chat_as_text_is_that_chat(spelling: str) -> None:
    spell = SPELT[spelling]
    expected = Pair([USER], "Hello", "Go away", "", "f:1")
    row = {"chosen": spell([USER, HELLO]), "rejected": spell([USER, AWAY])}
    assert list(pairs_of(row, "f:1")) == [expected]
    row = {"prompt": spell([USER]), "chosen": spell([HELLO]), "rejected": spell([AWAY])}
    assert list(pairs_of(row, "f:1")) == [expected]
    assert list(pairs_of({**row, "prompt": USER["content"]}, "f:1")) == [expected]
    row = {"prompt": spell([USER]), "chosen": "Hello", "rejected": "Go away"}
    assert list(pairs_of(row, "f:1")) == [expected]
    row = {"text": [spell([USER, AWAY]), spell([USER, HELLO])], "score": "[0, 1]"}
    assert list(pairs_of(row, "f:1")) == [expected]


STAYS = [
    '{"a": 1}', "[1, 2]", '["a", "b"]', "[]", '"Hello," she said.', '"Hello"', "[x] done", "{x",
    '[{"a": 1}, {"a": 2}]', '[{"role": "engineer", "content": "builds"}]', '[{"role": "user"}]',
    '{"from": "Rome", "value": 3}', "[{'k': 1}\n {'k': 2}]", "(see above)", "array([1, 2])",
    '{"role": "Chief", "content": "speech"}', "[{ broken",
]  # fmt: skip


@pytest.mark.parametrize("text", STAYS)
def test_an_answer_in_json_stays_a_text(text: str) -> None:
    row = {"prompt": "p", "chosen": text, "rejected": "b"}
    assert list(pairs_of(row, "f:1")) == [Pair("p", text, "b", "", "f:1")]


REFUSED = {
    "cut off": str([USER, HELLO])[:-3],
    "shortened by numpy": "[{'role': 'user', 'content': 'a'}\n ...\n {'role': 'user', 'content': "
    "'b'}]",
    "shortened by numpy's repr": "array([{'role': 'user', 'content': 'a'}, ..., {'role': 'user', "
    "'content': 'b'}], dtype=object)",
    "code": "[{'role': 'user', 'content': print('a')}]",
    "one message": str(HELLO),
    "a message without content": str([USER, {"role": "assistant"}]),
    "ShareGPT": str([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]),
    "turned around": str({"role": ["user", "assistant"], "content": ["a", "b"]}),
    "content in parts": str([{"role": "user", "content": [{"type": "text", "text": "a"}]}]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
def test_a_chat_that_cannot_be_read_is_refused(name: str, column: str) -> None:
    row = {"prompt": "p", "chosen": str([USER, HELLO]), "rejected": str([USER, AWAY])}
    with pytest.raises(DataError, match=rf"^f:1 has a `{column}` that ") as caught:
        list(pairs_of({**row, column: REFUSED[name]}, "f:1"))
    assert caught.value.hint


def test_a_text_against_a_chat_as_text_is_refused() -> None:
    row = {"prompt": "p", "chosen": str([USER, HELLO]), "rejected": "Go away"}
    with pytest.raises(DataError, match="`rejected` that is neither text nor chat messages"):
        list(pairs_of(row, "f:1"))


def test_nothing_is_evaluated() -> None:
    for text in ("__import__('os').getcwd()", "[x for x in (1,)]", "1 + 1", "f'{1}'"):
        with pytest.raises(ValueError, match="no literal"):
            read_literal(text)
    deep = "[{" * 100_000
    assert text_of(deep, "f:1", "chosen") == deep


def test_json_counts_before_python() -> None:
    r"""In JSON "\ud83d\ude00" is one emoji; in Python it would be two halves."""
    assert read_literal(r'["\ud83d\ude00", null]') == ["😀", None]


# --- every kind of file -------------------------------------------------------------------------

ROWS: list[dict[str, str]] = [
    {"prompt": "p", "chosen": '{"a": 1}', "rejected": "[1, 2]", "labels": '{"x": 0, "y": 1}'},
    {"prompt": "p", "chosen": str([HELLO]), "rejected": str([AWAY]), "labels": "{'x': 1}"},
    {"prompt": str([USER]), "chosen": "yes", "rejected": "no", "labels": '{"x": 0, "y": null}'},
]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    kind = path.suffixes[0]
    if kind == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind == ".csv":
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        text = lines if kind == ".jsonl" else json.dumps(rows)
        pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffixes[-1], bytes)
        path.write_bytes(pack(text.encode()))
    return path


NAMES = ["r.json", "r.jsonl", "r.csv", "r.parquet", "r.json.xz", "r.jsonl.gz"]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_file_gives_the_same(tmp_path: Path, name: str) -> None:
    path = str(write(tmp_path / name, ROWS))
    found, objectives, _ = read_comparisons([path])
    assert [(p.prompt, p.chosen, p.rejected, dict(p.verdicts)) for p in found] == [
        ("p", '{"a": 1}', "[1, 2]", {"x": 0, "y": 1}),
        ([{"role": "user", "content": "p"}], "Hello", "Go away", {"x": 1}),
        ([USER], "yes", "no", {"x": 0}),
    ]
    assert objectives == ["x", "y"]
    assert [p.chosen for p in read_pairs([path], "x")[0]] == ['{"a": 1}', "Go away", "yes"]
    assert len(read_for_labelling([path])[0]) == 3
    assert read_prompts(path)[0] == ["p", [{"role": "user", "content": "p"}], [USER]]


@pytest.mark.parametrize("name", NAMES)
def test_scores_as_text_tie_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
    """Read as text they would say nothing, and the chosen side would count as the better one."""
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    rows = [{**row, "scores": '{"x": [1, 2]}'}, {**row, "scores": "{'x': [1, 1], 'y': [2, 1]}"}]
    pairs, tally = read_pairs([str(write(tmp_path / name, rows))], "x")
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("b", "a")]
    assert tally.counts == {"a tie on 'x'": 1}


def test_labels_that_cannot_be_read_are_refused() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "labels": '{"x": 0'}
    with pytest.raises(DataError, match="f:1 has `labels` that cannot be read"):
        list(pairs_of(row, "f:1"))


# --- half a character ---------------------------------------------------------------------------

HALF = "Hello \ud83d"
GOOD: dict[str, Any] = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt": HALF},
        {"chosen": HALF},
        {"rejected": HALF},
        {"prompt": [{"role": "user", "content": HALF}]},
        {"prompt": json.dumps([{"role": "user", "content": HALF}])},
        {"prompt": None, "chosen": "the \ud83d a", "rejected": "the \ud83d b"},
        {"tools": [{"function": {"name": HALF}}]},
        {"objective": HALF},
        {"labels": {HALF: 1}},
    ],
)
def test_half_a_character_makes_a_bad_row(tmp_path: Path, bad: dict[str, Any]) -> None:
    path = str(write_jsonl(tmp_path / "rows.jsonl", [GOOD, {**GOOD, **bad}, GOOD]))
    said = r"rows\.jsonl:2 has a `\w+` with half a character \(a lone surrogate\)"
    with pytest.raises(DataError, match=said):
        read_pairs([path])
    pairs, tally = read_pairs([path], skip_bad_rows=True)
    assert [pair.source for pair in pairs] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert list(tally.unusable.values()) == [["rows.jsonl:2"]]
    if "labels" not in bad and "objective" not in bad:
        with pytest.raises(DataError, match=said):
            read_prompts(path)


def test_a_whole_emoji_is_no_half(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{**GOOD, "chosen": "Hello 😀"}])
    assert "\\ud83d\\ude00" in path.read_text()  # as JSON writes it
    assert read_pairs([str(path)])[0][0].chosen == "Hello 😀"
