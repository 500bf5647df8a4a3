"""Verdicts from scores, and pairs that are read and written back as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab.data.loading import read_comparisons, read_pairs
from trimtab.data.prompts import prompts_sha256, read_prompts
from trimtab.data.rows import pairs_of
from trimtab.errors import DataError
from trimtab.scoring.labelling import labelled, read_for_labelling
from trimtab.scoring.labels import agreement, agreement_with_kept, label_of, verdict_counts


@pytest.mark.parametrize(
    ("scores", "label", "of_a_cost"),
    [
        ((2.0, 1.0), 0, 1), ((1.0, 2.0), 1, 0), ((1.0, 1.0), None, None),
        ((None, 1.0), None, None), ((1.0, None), None, None), ((-3.0, -2.0), 1, 0),
    ],
)  # fmt: skip
def test_label_of(scores: Any, label: int | None, of_a_cost: int | None) -> None:
    assert label_of(scores) == label
    assert label_of(scores, cost=True) == of_a_cost


def test_counts_by_hand() -> None:
    labels: list[Any] = [{"a": 0, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 1}, {"a": None, "b": 0},
                         {"a": None, "b": None}]  # fmt: skip
    scores: list[Any] = [{"a": (2, 1), "b": (1, 0)}] * 3 + [
        {"a": (1, 1), "b": (1, 0)},
        {"a": (None, 1), "b": (2, 2)},
    ]
    assert verdict_counts(labels, scores, "a") == {
        "chosen": 2,
        "rejected": 1,
        "tie": 1,
        "missing": 1,
    }
    assert verdict_counts(labels, scores, "b") == {
        "chosen": 2,
        "rejected": 2,
        "tie": 1,
        "missing": 0,
    }
    found = agreement(labels, ["a", "b"])
    assert {pair: (e.value, e.n) for pair, e in found.items()} == {
        "chosen and a": (2 / 3, 3), "chosen and b": (0.5, 4), "a and b": (2 / 3, 3),
    }  # fmt: skip


SAID = [{"role": "user", "content": "hello"}]
DIALOGUE = "\n\nHuman: hello\n\nAssistant: {}"
ROWS: list[Any] = [
    {"prompt": "the cat", "chosen": "sat", "rejected": "ran"},
    {"prompt": SAID, "chosen": "yes", "rejected": "no"},
    {
        "prompt": SAID,
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    },
    {"chosen": DIALOGUE.format("yes"), "rejected": DIALOGUE.format("no")},
    {"chosen": "the cat 1 sat", "rejected": "the cat 1 ran"},
    {"text": ["the cat 1 ran", "the cat 1 sat"], "score": [0, 1]},
    {"prompt": "the cat", "chosen": "sat", "rejected": "ran", "labels": {"a": 1, "b": None}},
    {"prompt": "the cat", "chosen": "sat", "rejected": "ran", "scores": {"a": [1, 1]}},
    {"prompt": "the cat", "chosen": "sat", "rejected": "ran", "objective": "b"},
]


@pytest.mark.parametrize("row", ROWS)
def test_a_labelled_row_is_read_as_it_was(row: Any, tmp_path: Path) -> None:
    """Label 0 keeps the sides, label 1 turns them, a null one says nothing."""
    [pair], _ = read_for_labelling([str(write_jsonl(tmp_path / "rows.jsonl", [row]))])
    made = labelled(pair, {"a": (2.0, 1.0), "b": (1.0, 2.0), "c": (1.0, 1.0)}, costs=[])
    assert made["labels"] == {"a": 0, "b": 1, "c": None}
    assert made["scores"] == {"a": [2.0, 1.0], "b": [1.0, 2.0], "c": [1.0, 1.0]}
    found = list(pairs_of(json.loads(json.dumps(made)), pair.source))
    assert [(p.objective, p.chosen, p.rejected) for p in found] == [
        ("a", pair.chosen, pair.rejected),
        ("b", pair.rejected, pair.chosen),
    ]
    assert {(json.dumps(p.prompt), p.verbatim) for p in found} == {
        (json.dumps(pair.prompt), pair.verbatim)
    }
    path = write_jsonl(tmp_path / "labelled.jsonl", [made])
    assert len(read_pairs([str(path)], "a")[0]) == 1
    with pytest.raises(DataError, match="no objective 'c'"):
        read_pairs([str(path)], "c")


def test_the_verdicts_of_a_row_do_not_turn_its_sides(tmp_path: Path) -> None:
    pairs, _ = read_for_labelling([str(write_jsonl(tmp_path / "rows.jsonl", ROWS[-3:]))])
    assert [(p.chosen, p.rejected, p.objective) for p in pairs] == [("sat", "ran", "")] * 3


def test_verdicts_are_kept_and_the_rest_judged(tmp_path: Path) -> None:
    """Scorers say a: chosen, b: rejected; a label, a score and a file's name say otherwise."""
    rows = [
        ROWS[0], {**ROWS[0], "labels": {"a": 1, "b": None, "z": 0}},
        {**ROWS[0], "labels": {"a": None, "b": None}},
        {**ROWS[0], "scores": {"b": [3, 1], "a": [1, 1]}},
        {"text": ["the cat 1 ran", "the cat 1 sat"], "score": [0, 1]},
        {"text": ["the cat 1 ran", "the cat 1 sat"], "score": [1, 1], "labels": None},
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    pairs, _ = read_for_labelling([f"b={path}"], keep_labels=True)
    made = [labelled(pair, {"a": (2.0, 1.0), "b": (1.0, 2.0)}, costs=[]) for pair in pairs]
    assert [(row["labels"], row.get("kept")) for row in made] == [
        ({"a": 0, "b": 0}, ["b"]), ({"a": 1, "b": 1, "z": 0}, ["a", "z"]),
        ({"a": 0, "b": 1}, None), ({"a": 0, "b": 0}, ["b"]),
        ({"a": 0, "b": 0}, ["b"]), ({"a": 0, "b": 1}, None),  # turned round; a tie
    ]  # fmt: skip
    assert [row["chosen"][-3:] for row in made[-2:]] == ["sat", "ran"]
    again = read_comparisons([str(write_jsonl(tmp_path / "made.jsonl", made))])[0]
    assert [pair.verdicts for pair in again] == [row["labels"] for row in made]
    kept = [{name: row["labels"][name] for name in row.get("kept", ())} for row in made]
    for costs, agreed in (([], 0.0), (["a", "b"], 1.0)):
        found = agreement_with_kept(kept, [row["scores"] for row in made], costs)
        assert {n: (e.value, e.n) for n, e in found.items()} == {"a": (agreed, 1), "b": (agreed, 3)}
    with pytest.raises(DataError, match=r"rows.jsonl:1 names no objective"):
        read_for_labelling([str(path)], keep_labels=True)


def test_a_kept_label_without_scores_is_no_tie() -> None:
    labels: list[Any] = [{"a": 1}, {"a": None}]
    counts = verdict_counts(labels, [{"a": (None, None)}, {"a": (1.0, None)}], "a")
    assert counts == {"chosen": 0, "rejected": 1, "tie": 0, "missing": 1}


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    bad = [{**ROWS[0], "chosen": ""}, {**ROWS[0], "rejected": "sat"}]
    path = str(write_jsonl(tmp_path / "rows.jsonl", [ROWS[0], *bad]))
    pairs, report = read_for_labelling([path])
    assert len(pairs) == 1 and report.rows == 3
    assert report.counts == {"one side is empty": 1, "both sides are the same": 1}
    only = str(write_jsonl(tmp_path / "bad.jsonl", bad[:1]))
    with pytest.raises(DataError, match=r"no usable pair in .*one side is empty"):
        read_for_labelling([only])


# --- prompts ------------------------------------------------------------------------------------


def test_prompts_of_every_kind_once_each(tmp_path: Path) -> None:
    rows = [{"prompt": "the cat", "id": 1}, {"prompt": SAID}, *ROWS[:4], *ROWS[6:]]
    path = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    found, report = read_prompts(path)
    assert found == ["the cat", SAID]
    assert report.rows == len(rows) and not report.counts
    assert read_prompts(path, 1)[0] == ["the cat"]
    assert prompts_sha256(found) != prompts_sha256(found[::-1])


def test_prompts_that_cannot_be_used(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[0], "prompt": "the dog", "chosen": ""}]
    found, report = read_prompts(str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    assert found == ["the cat"] and report.counts == {"one side is empty": 1}
    for row, said in (
        ({"id": 1}, "rows.jsonl:1 has no `prompt`; give text or messages"),
        ({"prompt": 3}, "neither text nor chat messages"),
        (ROWS[4], "rows.jsonl:1 has no `prompt` of its own; give a file of prompts"),
        ({**ROWS[0], "chosen": ""}, "no usable prompt in"),
        ({**ROWS[0], "prompt": ""}, "the prompt is empty"),
    ):
        path = str(write_jsonl(tmp_path / "rows.jsonl", [row]))
        with pytest.raises(DataError, match=said):
            read_prompts(path)
