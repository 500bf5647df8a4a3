"""What a group has read of every request, for architectures that cannot share a slot cache.

Recurrent layers, ALiBi, attention outside transformers' interface: every request gets the
architecture's own cache and is read by itself. Exact, and slower than `SlotCaches` for a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.engines.local.slots import Tokens, log_probs, pending
from trimtab.engines.local.streams import Group
from trimtab.errors import ConfigError
from trimtab.models.padding import position_ids
from trimtab.models.renamed import cache_name


class OwnCaches:
    """The rows of one group, each request with the cache that its model makes (`GroupCache`).

    Raises:
        ConfigError: at the first `read`, with a model that makes none.
    """

    can_rewind = False

    def __init__(self, group: Group, slots: int, length: int) -> None:
        self.group = group
        self.computed = [[0] * len(group.streams) for _ in range(slots)]
        self._caches: list[Any] = [None] * slots
        self._masks: list[Any] = [None] * slots
        self._coefficients = [group.coefficients().to(group.device)] * slots

    def condition(self, slot: int, conditions: Mapping[str, Sequence[float]]) -> None:
        """As `SlotCaches.condition`."""
        self._coefficients[slot] = self.group.coefficients(conditions).to(self.group.device)

    def outgrown(self, slot: int, sequences: Sequence[Sequence[int]]) -> bool:
        """Never: requests end before (`Group.context`)."""
        return False

    def room(self, sequences: Sequence[Sequence[int]]) -> int | None:
        """No limit: nothing is drafted for these architectures."""
        return None

    def forward(
        self, first: int, tokens: Tokens, wanted: Sequence[int], *, positions: int | None = None
    ) -> dict[str, Tensor]:
        """As `SlotCaches.forward`."""
        hidden: dict[int, Tensor] = {}
        count = positions or max(wanted)
        for i, (slot_tokens, tail) in enumerate(zip(tokens, wanted, strict=True)):
            width = max(map(len, slot_tokens))
            if width:
                hidden_STH = self._forward_one(first + i, slot_tokens, width)
                at = [min(max(width - tail, 0) + m, width - 1) for m in range(count)]
                hidden[i] = hidden_STH[:, at]
        if not any(wanted):
            return {}
        nothing = torch.zeros_like(next(iter(hidden.values())))
        rows = torch.cat([hidden.get(i, nothing) for i in range(len(tokens))])
        coefficients_NJ = torch.cat(self._coefficients[first : first + len(tokens)])
        return log_probs(self.group, rows, [list(range(count))] * len(rows), coefficients_NJ)

    def _forward_one(self, slot: int, slot_tokens: Sequence[Sequence[int]], width: int) -> Tensor:
        """All at once into an empty cache, then token by token: few recurrent layers can take
        several tokens after a state."""
        if self._caches[slot] is None or width == 1:
            return self._forward(slot, slot_tokens, width)
        steps = [[row[t : t + 1] for row in slot_tokens] for t in range(width)]
        return torch.cat([self._forward(slot, step, 1) for step in steps], 1)

    def _forward(self, slot: int, slot_tokens: Sequence[Sequence[int]], width: int) -> Tensor:
        device = self.group.device
        ids = [[0] * (width - len(row)) + list(row) for row in slot_tokens]
        mask = torch.tensor(
            [[0] * (width - len(r)) + [1] * len(r) for r in slot_tokens], device=device
        )
        kept = self._masks[slot]
        self._masks[slot] = mask if kept is None else torch.cat([kept, mask], 1)
        self.group.open_rows(self._coefficients[slot], mask)
        options: dict[str, Tensor] = {}
        if "position_ids" in self.group.parameters:  # ALiBi models take none
            options["position_ids"] = position_ids(self._masks[slot])[:, -width:]
        attended = self._masks[slot]
        if self._masks_new_tokens and attended.shape[1] > width:
            attended = None
        output = self.group.lm.base_model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=attended,
            use_cache=True,
            **{self._cache_name: self._caches[slot]},
            **options,
        )
        self._caches[slot] = output.get(self._cache_name)
        if self._caches[slot] is None:
            raise self._without_cache()
        for stream, row in enumerate(slot_tokens):
            self.computed[slot][stream] += len(row)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _without_cache(self) -> ConfigError:
        return ConfigError(
            f"{type(self.group.lm).__name__} gives no cache of what it has read",
            "it cannot be decoded here: take a model of another architecture",
        )

    @property
    def _cache_name(self) -> str:
        return cache_name(self.group.parameters)

    @property
    def _masks_new_tokens(self) -> bool:
        """Whether a mask is laid over the new tokens alone: Mamba's is, which has no attention.

        Hybrids have positions, and ALiBi models no state.
        """
        stateful = bool(getattr(self.group.lm, "_is_stateful", False))
        return stateful and "position_ids" not in self.group.parameters

    def pending(
        self, slot: int, sequences: Sequence[Sequence[int]], drafts: Sequence[int] = ()
    ) -> list[list[int]]:
        """As `SlotCaches.unread`."""
        return pending(self.group, self.computed[slot], sequences, drafts)

    def reuse_prefix(self, slot: int, stream: int, ids: Sequence[int]) -> None:
        """Nothing: what a recurrent state has read cannot be shared in part."""

    def rewind(self, slot: int, lengths: Sequence[int]) -> None:
        """Never needed: nothing is drafted for these architectures."""

    def move(self, source: int, target: int) -> None:
        """As `SlotCaches.move`."""
        kept: list[list[Any]] = [self._caches, self._masks, self.computed, self._coefficients]
        for values in kept:
            values[target] = values[source]
        self.clear(source)

    def clear(self, slot: int) -> None:
        """As `SlotCaches.clear`."""
        self._caches[slot] = self._masks[slot] = None
        self.computed[slot] = [0] * len(self.group.streams)
