"""Token rows as padded rectangles. B pairs, N rows, T tokens."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.data.samples import TokenSample
from trimtab.data.tokenize import TokenPair
from trimtab.models.padding import Side, pad_rows


@dataclass(frozen=True)
class PairCollator:
    """Token pairs as one batch of 2B rows: the B chosen rows, then the B rejected rows.

    Pairs that know their rewards under a reference bring them as `reference`, [2B].
    """

    pad_id: int
    side: Side = "right"

    def __call__(self, pairs: Sequence[TokenPair]) -> dict[str, Tensor]:
        """The columns of `pad_rows`, [2B, T]."""
        rows = [(p.prompt_ids, p.chosen_ids) for p in pairs]
        rows += [(p.prompt_ids, p.rejected_ids) for p in pairs]
        columns = pad_rows(rows, self.pad_id, self.side)
        known = [p.reference for p in pairs if p.reference is not None]
        if known:
            chosen, rejected = zip(*known, strict=True)
            columns["reference"] = torch.tensor([*chosen, *rejected])
        return columns


@dataclass(frozen=True)
class SampleCollator:
    """Scored responses as one batch of N rows, with `score` [N]."""

    pad_id: int

    def __call__(self, samples: Sequence[TokenSample]) -> dict[str, Tensor]:
        """The columns of `pad_rows`, [N, T], and the scores."""
        columns = pad_rows([(s.prompt_ids, s.response_ids) for s in samples], self.pad_id)
        columns["score"] = torch.tensor([row.sample.score for row in samples])
        return columns


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
