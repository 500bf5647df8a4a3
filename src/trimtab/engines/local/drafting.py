"""Drafters: who proposes tokens for the fused distribution to accept or refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.choosing import Settings, shape, uniforms
from trimtab.engines.local.rows import Row
from trimtab.engines.local.streams import Group
from trimtab.engines.speculation import DRAFT_LANE, guess

DRAFT = "draft"
NGRAM = "ngram"


@dataclass(frozen=True)
class Draft:
    """What was proposed for some slots.

    Attributes:
        tokens: per slot, base ids; possibly none.
        logq_BKV: log-probs they were drawn from; None if each was certain.
        logps: log-probs of the ARM streams that drafting has already read, [B, K + 1, V].
    """

    tokens: list[list[int]]
    logq_BKV: Tensor | None = None
    logps: dict[str, Tensor] = field(default_factory=dict)


class NgramDrafter:
    """Proposes what followed the last few tokens the last time they occurred."""

    group: int | None = None

    def propose(
        self, rows: Sequence[Row | None], lengths: Sequence[int], settings: Settings, states: Any
    ) -> Draft:
        """A draft of at most `lengths` tokens per slot."""
        return Draft(
            [
                continuation(row.sequences[0][0], length) if row and length else []
                for row, length in zip(rows, lengths, strict=True)
            ]
        )


def continuation(ids: Sequence[int], length: int, longest: int = 3) -> list[int]:
    """What followed the latest earlier occurrence of the last 3, 2 or 1 tokens."""
    for n in range(min(longest, len(ids) - 1), 0, -1):
        last = list(ids[-n:])
        for at in range(len(ids) - n - 1, -1, -1):
            if list(ids[at : at + n]) == last:
                return list(ids[at + n : at + n + length])
    return []


class ModelDrafter:
    """Samples from a small model: an ARM, whose log-probs are needed anyway, or a separate one.

    Args:
        index: the group's place among all groups.
        group: what it runs through.
        arms: names of the ARMs, in the order of the weights.
    """

    def __init__(self, index: int, group: Group, arms: Sequence[str]) -> None:
        self._index = index
        self.group: int | None = index
        self._is_arm = DRAFT not in group.index
        self._names = [name for name in arms if name in group.index] or [DRAFT]
        self._columns = [arms.index(name) for name in self._names] if self._is_arm else []

    def propose(
        self, rows: Sequence[Row | None], lengths: Sequence[int], settings: Settings, states: Any
    ) -> Draft:
        """A draft of `lengths` tokens per slot; an ARM also reads the last of them."""
        state = states[self._index]
        drafts: list[list[int]] = [[] for _ in rows]
        logqs: list[Tensor] = []
        logps: list[dict[str, Tensor]] = []
        longest = max(lengths)
        for k in range(longest + self._is_arm):
            reads = [n + self._is_arm if row else 0 for row, n in zip(rows, lengths, strict=True)]
            active = [k < n for n in reads]
            tokens = [
                state.unread(slot, row.sequences[self._index], drafts[slot]) if row and go else []
                for slot, (row, go) in enumerate(zip(rows, active, strict=True))
            ]
            tokens = [own or [[]] * len(state.group.streams) for own in tokens]
            logps.append(state.read(0, tokens, [int(go) for go in active]))
            if k == longest:
                break
            logq_BV = shape(settings, self._guess(logps[-1], settings))
            logqs.append(logq_BV)
            uniform_B = uniforms(rows, 1, DRAFT_LANE, logq_BV.device, ahead=k)[:, 0]
            picked_B = fusion.choose(
                logq_BV, settings.temperature_B, uniform_B, samples=settings.samples
            )
            for slot, token in enumerate(picked_B.tolist()):
                if k < lengths[slot]:
                    drafts[slot].append(token)
        kept = (
            {name: torch.cat([logp[name] for logp in logps], 1) for name in self._names}
            if self._is_arm
            else {}
        )
        return Draft(drafts, torch.stack(logqs, 1), kept)

    def _guess(self, logps: dict[str, Tensor], settings: Settings) -> Tensor:
        """The drafting distribution before temperature and filters, [B, V]."""
        device = settings.temperature_B.device
        found = [logps[name][:, 0].to(device) for name in self._names]
        power_B = 1 + settings.weights_BK.sum(-1)
        if not self._is_arm:
            return guess(found[0], power_B)
        weights_BK = settings.weights_BK[:, self._columns]
        total_B1 = weights_BK.sum(-1, keepdim=True)
        even_BK = torch.full_like(weights_BK, 1 / len(found))
        shares_BK = torch.where(total_B1 > 0, weights_BK / total_B1, even_BK)
        mixed_BV = sum(shares_BK[:, i : i + 1] * logp for i, logp in enumerate(found))
        return guess(torch.as_tensor(mixed_BV), power_B)
