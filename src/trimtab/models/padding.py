"""Token rows as padded rectangles, and their positions. N rows, T tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Side = Literal["left", "right"]


def pad_rows(
    rows: Sequence[tuple[list[int], list[int]]], pad_id: int, side: Side = "right"
) -> dict[str, Tensor]:
    """Rows of (prompt ids, response ids) as one rectangle.

    Args:
        rows: N rows.
        pad_id: the token that fills the rectangle; its value never matters.
        side: where the filling stands.

    Returns:
        `input_ids`, `attention_mask` and `response_mask`, each [N, T] int64; `response_mask` is 1
        on the tokens whose log-probs make the reward.
    """
    width = max(len(prompt) + len(response) for prompt, response in rows)

    def fill(row: list[int], value: int) -> list[int]:
        filling = [value] * (width - len(row))
        return row + filling if side == "right" else filling + row

    columns = {
        "input_ids": [fill(p + r, pad_id) for p, r in rows],
        "attention_mask": [fill([1] * len(p + r), 0) for p, r in rows],
        "response_mask": [fill([0] * len(p) + [1] * len(r), 0) for p, r in rows],
    }
    return {name: torch.tensor(values) for name, values in columns.items()}


def position_ids(attention_mask_NT: Tensor) -> Tensor:
    """Positions counted from each row's first real token: padding may stand on either side."""
    return (attention_mask_NT.cumsum(-1) - 1).clamp(min=0)
