"""Pairs judged on several objectives: read from rows, counted, and put into batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import examples, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data.collate import ComparisonCollator, PairCollator
from trimtab.data.loading import read_comparisons
from trimtab.data.pairs import Comparison
from trimtab.data.tally import RowTally
from trimtab.data.tokenize import TokenPair
from trimtab.errors import DataError

TEXTS = {"prompt": "the cat", "chosen": "happy", "rejected": "sad"}


def read(
    tmp_path: Path, *rows: dict[str, Any], wanted: tuple[str, ...] = (), **options: Any
) -> tuple[list[Comparison], list[str], RowTally]:
    """Read rows, to each of which two texts are added."""
    path = write_jsonl(tmp_path / "rows.jsonl", [{**TEXTS, **row} for row in rows])
    return read_comparisons([str(path)], wanted, **options)


def verdicts(pairs: list[Comparison]) -> list[dict[str, int]]:
    return [dict(pair.verdicts) for pair in pairs]


# --- how a row is judged ------------------------------------------------------------------------


def test_labels_are_the_index_of_the_better_response(tmp_path: Path) -> None:
    pairs, objectives, tally = read(
        tmp_path, {"labels": {"helpful": 0, "harmless": 1}}, {"labels": {"helpful": 1}}
    )
    assert verdicts(pairs) == [{"helpful": 0, "harmless": 1}, {"helpful": 1}]
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("happy", "sad")] * 2
    assert [pair.source for pair in pairs] == ["rows.jsonl:1", "rows.jsonl:2"]
    assert objectives == ["helpful", "harmless"]
    assert tally.judged == {"helpful": 2, "harmless": 1}
    assert (tally.rows, tally.counts) == (2, {})
    assert tally.lines() == ["pairs judged on: helpful 2, harmless 1"]


def test_scores_say_which_is_better_and_a_tie_is_no_verdict(tmp_path: Path) -> None:
    """Row 1: 3 > 1 is the first, 2 < 2.5 the second. Row 2 ties on `a`. Row 3 ties on both."""
    pairs, _, tally = read(
        tmp_path,
        {"scores": {"a": [3, 1], "b": [2, 2.5]}},
        {"scores": {"a": [1, 1.0], "b": [-1, -2]}},
        {"scores": {"a": [1, 1], "b": [0, 0]}},
    )
    assert verdicts(pairs) == [{"a": 0, "b": 1}, {"b": 0}]
    assert tally.judged == {"a": 1, "b": 2}
    assert tally.counts == {"a tie on every objective": 1}
    assert tally.lines()[1] == "1 row left out: a tie on every objective (rows.jsonl:3)"


def test_a_row_with_an_objective_is_judged_on_that_one(tmp_path: Path) -> None:
    pairs, objectives, tally = read(tmp_path, {"objective": "b"}, {"objective": "a"})
    assert verdicts(pairs) == [{"b": 0}, {"a": 0}]
    assert objectives == ["b", "a"]
    assert tally.judged == {"b": 1, "a": 1}


def test_missing_labels_are_not_judged(tmp_path: Path) -> None:
    """Parquet fills a struct with nulls: they are no labels. A row of nulls alone is counted."""
    pairs, _, tally = read(
        tmp_path,
        {"labels": {"a": 0, "b": None}},
        {"labels": {"a": None, "b": 1}},
        {"labels": {"a": None, "b": None}},
    )
    assert verdicts(pairs) == [{"a": 0}, {"b": 1}]
    assert tally.judged == {"a": 1, "b": 1}
    assert tally.counts == {"judged on no objective": 1}


def test_files_that_are_named(tmp_path: Path) -> None:
    """`NAME=FILE` is for rows that name nothing; what a row says of itself counts more."""
    one = write_jsonl(tmp_path / "one.jsonl", [TEXTS, {**TEXTS, "objective": "c"}])
    two = write_jsonl(tmp_path / "two.jsonl", [TEXTS, {**TEXTS, "labels": {"a": 1}}])
    pairs, objectives, tally = read_comparisons([f"a={one}", f"b={two}"])
    assert verdicts(pairs) == [{"a": 0}, {"c": 0}, {"b": 0}, {"a": 1}]
    assert objectives == ["a", "c", "b"]
    assert tally.judged == {"a": 2, "c": 1, "b": 1}


# --- which objectives ---------------------------------------------------------------------------


def test_the_objectives_stand_in_the_order_asked_for(tmp_path: Path) -> None:
    """By default in the order in which the data name them; others are passed over."""
    rows = [{"labels": {"b": 0, "a": 1}}, {"labels": {"c": 1, "a": 0}}, {"objective": "b"}]
    assert read(tmp_path, *rows)[1] == ["b", "a", "c"]
    pairs, objectives, tally = read(tmp_path, *rows, wanted=("c", "a"))
    assert objectives == ["c", "a"]
    assert verdicts(pairs) == [{"a": 1}, {"c": 1, "a": 0}]  # the third row says nothing of them
    assert list(tally.judged.items()) == [("c", 1), ("a", 2)]
    assert tally.rows == 3


def test_an_objective_that_no_row_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"have no label for funny, kind; they have: a, b$"):
        read(tmp_path, {"labels": {"a": 0, "b": 1}}, wanted=("a", "funny", "kind"))


def test_objectives_of_which_no_row_has_any(tmp_path: Path) -> None:
    """The error says what the data do have, as where some are found."""
    with pytest.raises(DataError, match="they have: a, b"):
        read(tmp_path, {"labels": {"a": 0, "b": 1}}, wanted=("funny", "kind"))


def test_no_usable_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no usable pair in .*one side is empty"):
        read(tmp_path, {"chosen": " ", "objective": "a"})


# --- rows that are refused ----------------------------------------------------------------------


@pytest.mark.parametrize("label", [2, -1, 0.5, "1", "helpful", [0], float("nan")])
def test_labels_outside_0_and_1(tmp_path: Path, label: object) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:2 has label .* for 'a'; a label is 0 ") as e:
        read(tmp_path, {"labels": {"a": 0}}, {"labels": {"b": 1, "a": label}})
    assert repr(label) in str(e.value)


@pytest.mark.parametrize("scores", [[1], [1, 2, 3], 1.5, ["1", "2"], [None, 1], [1, float("nan")]])
def test_scores_that_are_not_two_numbers(tmp_path: Path, scores: object) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1 has scores .* for 'a'; give two numbers"):
        read(tmp_path, {"scores": {"a": scores}})


@pytest.mark.parametrize("row", [{}, {"objective": ""}, {"objective": None}])
def test_a_row_that_names_no_objective(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:2 names no objective; write --data NAME=FILE"):
        read(tmp_path, {"objective": "a"}, row)


def test_skipping_bad_rows_counts_them_by_their_reason(tmp_path: Path) -> None:
    pairs, _, tally = read(
        tmp_path,
        {"labels": {"a": 3}},
        {},
        {"rejected": None, "objective": "a"},
        {"chosen": "", "objective": "a"},
        {"objective": "a"},
        {},
        skip_bad_rows=True,
    )
    assert [pair.source for pair in pairs] == ["rows.jsonl:5"]
    assert tally.unusable == {
        "has label 3 for 'a'": ["rows.jsonl:1"],
        "names no objective": ["rows.jsonl:2", "rows.jsonl:6"],
        "has no `rejected`": ["rows.jsonl:3"],
        "one side is empty": ["rows.jsonl:4"],
    }
    assert tally.rows == 6 and tally.judged == {"a": 1}


# --- batches ------------------------------------------------------------------------------------

PAIRS = [
    TokenPair([1], [2, 3], [4], {"a": 0, "b": 1}),
    TokenPair([5], [6], [7], {"b": 0}),
    TokenPair([8, 9], [6], [7, 7], {"c": 1}),
]


def test_verdicts_of_a_batch() -> None:
    """1 where the first is better (index 0), 0 where the second is (index 1), NaN if not judged."""
    batch = ComparisonCollator(0, objectives=("a", "b"))(PAIRS)
    nan = float("nan")
    expected = torch.tensor([[1.0, 0.0], [nan, 1.0], [nan, nan]])
    torch.testing.assert_close(batch["verdicts"], expected, equal_nan=True, rtol=0, atol=0)
    assert batch["verdicts"].dtype == torch.float32
    plain = PairCollator(0)(PAIRS)
    assert plain.keys() | {"verdicts", "identity"} == batch.keys()
    assert all(torch.equal(batch[name], column) for name, column in plain.items())


def test_a_pair_is_known_by_its_tokens() -> None:
    """Whatever else is in the batch, whichever side is padded, and however it was judged.

    As the prompt [1] and the responses [2, 3] and [4] are written, so is their CRC-32:
    crc32(b"([1], [2, 3], [4])") = 3418420406.
    """
    collate = ComparisonCollator(0, objectives=("a",))
    together = collate(PAIRS)["identity"]
    assert together.dtype == torch.int64
    assert together[0].item() == 3418420406
    alone = [collate([pair])["identity"].item() for pair in reversed(PAIRS)]
    assert together.tolist() == alone[::-1]
    other = ComparisonCollator(3, "left", objectives=("c", "b"))
    assert torch.equal(other(PAIRS)["identity"], together)
    judged = TokenPair([1], [2, 3], [4], {"c": 1})
    assert collate([judged])["identity"] == together[0]


tokens = st.lists(st.integers(0, 3), max_size=3)


@examples(60)
@given(st.lists(st.tuples(tokens, tokens, tokens), min_size=2, max_size=8, unique_by=str))
def test_pairs_of_other_tokens_are_others(rows: list[tuple[list[int], ...]]) -> None:
    """Also where a token moves from one part to the next: ([1], [2], []) and ([1, 2], [], [])."""
    batch = ComparisonCollator(0)([TokenPair([9, *row[0]], *row[1:]) for row in rows])
    assert len(set(batch["identity"].tolist())) == len(rows)


def test_half_a_character_of_a_pair_judged_on_several(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:2 has a `chosen` with half a character"):
        read(tmp_path, {"labels": {"a": 0}}, {"labels": {"a": 0}, "chosen": "\ud83d"})
