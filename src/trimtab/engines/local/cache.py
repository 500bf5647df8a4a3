"""Keys and values of every row, allocated once and written in place.

N rows, L positions, H heads of D features. No step copies or pads what is stored: a forward
writes its new positions and attends over a view.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache


class SlotCache(Cache):
    """Preallocated keys and values with a length of its own for every row.

    What lies beyond a row's length is never read, so a row is shortened, reused or rolled back by
    changing a number. One spare position per row takes the writes of padding.

    Args:
        rows: N.
        length: L, positions that can be read.
        dtype: of what is stored; attention over it runs in this type.
    """

    def __init__(self, rows: int, length: int, dtype: torch.dtype) -> None:
        super().__init__(layers=[])
        self.length, self.dtype = length, dtype
        self._rows = rows
        self._stored: dict[int, tuple[Tensor, Tensor]] = {}
        self._first = self._count = self._upto = 0
        self._at_M: Tensor

    def open(self, first: int, positions_NT: Tensor, upto: int) -> None:
        """Choose what the next forward writes and sees.

        Args:
            first: its first row; the others follow.
            positions_NT: where each new token goes; L and beyond is thrown away.
            upto: positions that are attended over (and masked) in every row.
        """
        self._first, self._count, self._upto = first, len(positions_NT), upto
        rows_N1 = torch.arange(first, first + self._count, device=positions_NT.device)[:, None]
        kept_NT = positions_NT.clamp(max=self.length)
        self._at_M = (rows_N1 * (self.length + 1) + kept_NT).flatten()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store [N, H, T, D] and return views on all that the rows can see, [N, H, upto, D]."""
        if layer_idx not in self._stored:
            self._stored[layer_idx] = (self._allocate(key_states), self._allocate(value_states))
        keys, values = self._stored[layer_idx]
        return self._write(keys, key_states), self._write(values, value_states)

    def _allocate(self, like: Tensor) -> Tensor:
        # zeros: a masked position has weight 0, and 0 times garbage could be NaN
        shape = (self._rows, self.length + 1, like.shape[1], like.shape[3])
        return like.new_zeros(shape, dtype=self.dtype)

    def _write(self, stored: Tensor, new_NHTD: Tensor) -> Tensor:
        heads, features = stored.shape[2:]
        flat = new_NHTD.transpose(1, 2).reshape(-1, heads, features).to(self.dtype)
        stored.view(-1, heads, features).index_copy_(0, self._at_M, flat)
        return stored[self._first : self._first + self._count, : self._upto].transpose(1, 2)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Make the first positions of one row those of another."""
        for keys, values in self._stored.values():
            keys[target, :length] = keys[source, :length]
            values[target, :length] = values[source, :length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions and masks are always given, so no model needs to count."""
        return 0
