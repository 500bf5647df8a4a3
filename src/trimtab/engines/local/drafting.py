"""Drafters: who proposes tokens for the fused distribution to accept or refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.choosing import Settings, shape, uniforms
from trimtab.engines.local.group_cache import GroupCache
from trimtab.engines.local.rows import Row
from trimtab.engines.local.streams import DRAFT, Group
from trimtab.engines.speculation import DRAFT_LANE, DraftLength

NGRAM: Literal["ngram"] = "ngram"


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


class Drafter(Protocol):
    """Proposes tokens."""

    def propose(
        self,
        rows: Sequence[Row | None],
        lengths: Sequence[int],
        settings: Settings,
        caches: Sequence[GroupCache],
    ) -> Draft:
        """A draft of at most `lengths` tokens per slot."""


class NgramDrafter:
    """Proposes what followed the last few tokens the last time they occurred."""

    def propose(
        self,
        rows: Sequence[Row | None],
        lengths: Sequence[int],
        settings: Settings,
        caches: Sequence[GroupCache],
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
    """Samples from small models: ARMs, whose log-probs are needed anyway, a draft model, or both.

    The target is π_b · Π π_i^{w_i}. The draft model stands in for the base and for those ARMs that
    are not in this group; without one the group's ARMs stand in for the base.

    Args:
        index: the group's place among all groups.
        group: what it runs through.
        arms: names of all ARMs, in the order of the weights.
    """

    def __init__(self, index: int, group: Group, arms: Sequence[str]) -> None:
        self._index = index
        self._arms = [name for name in arms if name in group.index]
        self._columns = [arms.index(name) for name in self._arms]
        self._has_draft = DRAFT in group.index

    def propose(
        self,
        rows: Sequence[Row | None],
        lengths: Sequence[int],
        settings: Settings,
        caches: Sequence[GroupCache],
    ) -> Draft:
        """A draft of `lengths` tokens per slot; ARMs also read the last of them."""
        cache, also_last = caches[self._index], bool(self._arms)
        blank: list[list[int]] = [[] for _ in cache.group.streams]
        drafts: list[list[int]] = [[] for _ in rows]
        logqs: list[Tensor] = []
        logps: list[dict[str, Tensor]] = []
        longest = max(lengths)
        for k in range(longest + also_last):
            reads = [n + also_last if row else 0 for row, n in zip(rows, lengths, strict=True)]
            tokens = [
                cache.pending(slot, row.sequences[self._index], drafts[slot])
                if row and k < n
                else blank
                for slot, (row, n) in enumerate(zip(rows, reads, strict=True))
            ]
            logps.append(cache.forward(0, tokens, [int(k < n) for n in reads]))
            if k == longest:
                break
            logqs.append(shape(settings, self._guess(logps[-1], settings)))
            uniform_B = uniforms(rows, 1, DRAFT_LANE, logqs[-1].device, ahead=k)[:, 0]
            picked_B = fusion.choose(
                logqs[-1], settings.temperature_B, uniform_B, samples=settings.samples
            )
            for slot, token in enumerate(picked_B.tolist()):
                if k < lengths[slot]:
                    drafts[slot].append(token)
        kept = {name: torch.cat([logp[name] for logp in logps], 1) for name in self._arms}
        return Draft(drafts, torch.stack(logqs, 1), kept)

    def _guess(self, logps: dict[str, Tensor], settings: Settings) -> Tensor:
        """The drafting distribution before temperature and filters, [B, V]."""
        device = settings.temperature_B.device
        weights_BK = settings.weights_BK[:, self._columns]
        own_B1 = weights_BK.sum(-1, keepdim=True)
        missing_B1 = 1 + settings.weights_BK.sum(-1, keepdim=True) - own_B1
        arm_logps = [logps[name][:, 0].to(device) for name in self._arms]
        if self._has_draft:
            first_BV = logps[DRAFT][:, 0].to(device)
            mixed_BV = missing_B1 * first_BV
        else:  # the ARMs stand in for what is missing, in proportion to their weights
            even_BK = torch.full_like(weights_BK, 1 / len(arm_logps))
            shares_BK = torch.where(own_B1 > 0, weights_BK / own_B1, even_BK)
            weights_BK = weights_BK + missing_B1 * shares_BK
            first_BV = arm_logps[0]
            mixed_BV = torch.zeros_like(first_BV)
        for i, logp_BV in enumerate(arm_logps):
            weight_B1 = weights_BK[:, i : i + 1]
            mixed_BV = mixed_BV + torch.where(weight_B1 == 0, 0.0, weight_B1 * logp_BV)
        return fusion.normalised(mixed_BV, first_BV)


@dataclass(frozen=True)
class Speculation:
    """How to speculate.

    Attributes:
        drafter: who proposes tokens.
        length: makes the controller of one row's draft length.
    """

    drafter: Drafter
    length: Callable[[], DraftLength]
