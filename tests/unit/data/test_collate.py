"""Rectangles of padded rows, written out by hand."""

from __future__ import annotations

import pytest
import torch

from trimtab.data.collate import PairCollator
from trimtab.data.tokenize import TokenPair
from trimtab.models.padding import pad_rows, position_ids

ROWS = [([5, 6], [7]), ([8], [9, 10, 11])]


def test_padding_on_the_right() -> None:
    batch = {name: column.tolist() for name, column in pad_rows(ROWS, 0).items()}
    assert batch == {
        "input_ids": [[5, 6, 7, 0], [8, 9, 10, 11]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]],
        "response_mask": [[0, 0, 1, 0], [0, 1, 1, 1]],
    }


def test_padding_on_the_left() -> None:
    batch = {name: column.tolist() for name, column in pad_rows(ROWS, 0, "left").items()}
    assert batch == {
        "input_ids": [[0, 5, 6, 7], [8, 9, 10, 11]],
        "attention_mask": [[0, 1, 1, 1], [1, 1, 1, 1]],
        "response_mask": [[0, 0, 0, 1], [0, 1, 1, 1]],
    }


def test_the_mask_goes_by_place_not_by_token() -> None:
    # The padding token may be a real one (GPT-2 pads with its end-of-text).
    batch = pad_rows([([7], [7]), ([7], [1, 7])], pad_id=7)
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_positions_count_from_the_first_real_token() -> None:
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_real_tokens_have_the_same_positions_on_either_side(side: str) -> None:
    mask = pad_rows(ROWS, 0, side)["attention_mask"]  # type: ignore[arg-type]
    found = position_ids(mask)
    assert [found[i][mask[i].bool()].tolist() for i in range(2)] == [[0, 1, 2], [0, 1, 2, 3]]


def test_a_batch_holds_the_chosen_rows_then_the_rejected() -> None:
    pairs = [TokenPair([1], [2, 3], [4]), TokenPair([5], [6], [7])]
    batch = PairCollator(pad_id=0)(pairs)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 6, 0], [1, 4, 0], [5, 7, 0]]
    assert batch["response_mask"].tolist() == [[0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0]]
