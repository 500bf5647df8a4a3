"""The rows of a group, for architectures that cannot share shelves.

Recurrent layers, ALiBi, attention outside transformers' interface: every row gets the cache of its
architecture and is read by itself. Exact, and slower than `PackedRows` for a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.engines.local.group_cache import Entry, log_probs
from trimtab.engines.local.stream_rows import StreamRow
from trimtab.engines.local.streams import Group
from trimtab.engines.local.transfer import on_device
from trimtab.errors import ConfigError
from trimtab.models.renamed import cache_name


class OwnCaches:
    """The rows of one group, each with the cache that its model makes (`GroupCache`).

    Raises:
        ConfigError: at the first `forward`, with a model that makes none.
    """

    can_rewind = False

    def __init__(self, group: Group) -> None:
        self.group = group
        self._caches: dict[StreamRow, Any] = {}

    def forward(self, entries: Sequence[Entry], positions: int = 1) -> Tensor:
        """As `GroupCache.forward`."""
        hidden: list[Tensor] = []
        at: list[list[int]] = []
        for entry in entries:
            if entry.wanted:
                n = len(hidden) * positions
                at.append([*range(n, n + positions)])
                hidden_TH = self._forward_row(entry)[-entry.wanted :]
                hidden.append(_filled_up(hidden_TH, positions))
            else:
                self._forward_row(entry)
        if not hidden:
            return torch.empty(0)
        rows = [entry.row for entry in entries if entry.wanted]
        return log_probs(self.group, torch.cat(hidden), rows, at)

    def _forward_row(self, entry: Entry) -> Tensor:
        """All at once into an empty cache, then token by token: few recurrent layers can take
        several tokens after a state. [T, H]."""
        if self._caches.get(entry.row) is None or len(entry.ids) == 1:
            return self._forward(entry.row, entry.ids)
        return torch.cat([self._forward(entry.row, [token]) for token in entry.ids])

    def _forward(self, row: StreamRow, ids: Sequence[int]) -> Tensor:
        device, end = self.group.device, row.computed + len(ids)
        self.group.open_rows(on_device([row.coefficients] * len(ids), device))
        options: dict[str, Any] = {}
        if "position_ids" in self.group.parameters:  # ALiBi models take none
            options["position_ids"] = torch.arange(row.computed, end, device=device)[None]
        if not (self._masks_new_tokens and row.computed):
            options["attention_mask"] = torch.ones(1, end, dtype=torch.long, device=device)
        output = self.group.lm.base_model(
            input_ids=on_device([list(ids)], device),
            use_cache=True,
            **{self._cache_name: self._caches.get(row)},
            **options,
        )
        cache = output.get(self._cache_name)
        if cache is None:
            raise ConfigError(
                f"{type(self.group.lm).__name__} gives no cache of what it has read",
                "it cannot be decoded here: take a model of another architecture",
            )
        self._caches[row] = cache
        row.computed = end
        hidden: Tensor = output.last_hidden_state
        return hidden[0]

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

    def outgrown(self, row: StreamRow) -> bool:
        """Never: requests end before (`Group.context`)."""
        return False

    def room(self, row: StreamRow) -> int | None:
        """No limit: nothing is drafted for these architectures."""
        return None

    def rewind(self, row: StreamRow, length: int) -> None:
        """What was computed beyond a length cannot be taken back: the row is read anew."""
        if row.computed > length:
            self.drop(row)

    def expect(self, row: StreamRow) -> None:
        """Nothing: see `reuse_prefix`."""

    def reuse_prefix(self, row: StreamRow) -> None:
        """Nothing: what a recurrent state has read cannot be shared in part."""

    def release(self, row: StreamRow) -> None:
        """As `GroupCache.release`."""
        self.drop(row)

    def drop(self, row: StreamRow) -> None:
        """As `GroupCache.drop`."""
        self._caches.pop(row, None)
        row.computed = 0

    def shrink(self) -> None:
        """Nothing is kept."""


def _filled_up(hidden_TH: Tensor, positions: int) -> Tensor:
    """The last one again, until there are so many."""
    more = positions - len(hidden_TH)
    return torch.cat([hidden_TH, hidden_TH[-1:].expand(more, -1)]) if more else hidden_TH
