"""Token rows as padded rectangles. B pairs, N rows, T tokens."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trimtab.data.tokenize import TokenPair

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


@dataclass(frozen=True)
class PairCollator:
    """Token pairs as one batch of 2B rows: the B chosen rows, then the B rejected rows."""

    pad_id: int
    side: Side = "right"

    def __call__(self, pairs: Sequence[TokenPair]) -> dict[str, Tensor]:
        """The columns of `pad_rows`, [2B, T]."""
        rows = [(p.prompt_ids, p.chosen_ids) for p in pairs]
        rows += [(p.prompt_ids, p.rejected_ids) for p in pairs]
        return pad_rows(rows, self.pad_id, self.side)


@dataclass(frozen=True)
class ComparisonCollator(PairCollator):
    """Pairs judged on several objectives: the columns of `PairCollator`, and how they were judged.

    Adds `verdicts` [B, K], 1 where the first response is better, 0 where the second is, NaN where
    not judged; and `identity` [B], a hash of the pair's tokens.
    """

    objectives: Sequence[str] = ()

    def __call__(self, pairs: Sequence[TokenPair]) -> dict[str, Tensor]:
        """The columns of a batch."""
        verdicts = [[_verdict(pair, name) for name in self.objectives] for pair in pairs]
        columns = PairCollator.__call__(self, pairs)
        columns["verdicts"] = torch.tensor(verdicts)
        columns["identity"] = torch.tensor([_identity(pair) for pair in pairs])
        return columns


def _verdict(pair: TokenPair, objective: str) -> float:
    better = pair.verdicts.get(objective)
    return float("nan") if better is None else 1.0 - better


def _identity(pair: TokenPair) -> int:
    return zlib.crc32(repr((pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)).encode())
