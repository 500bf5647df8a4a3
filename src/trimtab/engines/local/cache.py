"""Keys and values of one forward: written to the shelves, and what its tokens may look at.

A forward has M new tokens of any number of rows, packed one row after the other without padding.
H heads of D features, L stored positions, R rows, T tokens of each.

What depends on the numbers of one forward alone is in tensors; all else is the forward's layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from trimtab.engines.local.shelves import Shelf

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Span:
    """Where the new tokens of one row go.

    Attributes:
        shelf: where the row lies.
        slot: its place there.
        before: tokens that it has already.
        count: its new tokens.
    """

    shelf: Shelf
    slot: int
    before: int
    count: int


@dataclass
class Run:
    """Rows in adjacent slots with equally many new tokens: one call of attention.

    Attributes:
        start: of their tokens among the M.
        shelf: where they lie.
        first: slot of the first.
        befores: per row, tokens that it has already.
        count: new tokens of each, T.
        upto: positions that are looked at, L.
        masks: per kind of layer, added to the scores, [R, 1, T, L]; None where all is seen.
    """

    start: int
    shelf: Shelf
    first: int
    befores: list[int]
    count: int
    upto: int = 0
    masks: dict[str, Tensor | None] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        """Behind their tokens."""
        return self.start + len(self.befores) * self.count

    def open(self, sees: Sees, positions_M: Tensor, dtype: torch.dtype) -> None:
        """Make the masks from the tokens' positions."""
        self.upto = self.shelf.length if sees.all_stored else max(self.befores) + self.count
        at_RT = positions_M[self.start : self.stop].view(len(self.befores), self.count)
        for kind in sees.kinds:
            window = sees.window if kind == SLIDING else None
            alike = self.count == 1 and len(set(self.befores)) == 1 and not sees.all_stored
            none = alike and (window is None or self.upto <= window)
            self.masks[kind] = None if none else self._mask(window, at_RT, dtype)

    def _mask(self, window: int | None, at_RT: Tensor, dtype: torch.dtype) -> Tensor:
        at_L = torch.arange(self.upto, device=at_RT.device)
        hidden_RTL = at_L > at_RT[..., None]
        if window is not None:
            hidden_RTL |= at_L <= at_RT[..., None] - window
        mask = torch.zeros(hidden_RTL.shape, dtype=dtype, device=at_RT.device)
        return mask.masked_fill_(hidden_RTL, float("-inf"))[:, None]


@dataclass(frozen=True)
class Sees:
    """What the tokens of a forward look at.

    Attributes:
        kinds: of layers.
        window: of sliding attention.
        all_stored: run over whole slots, and mask what is not a row's yet: then the layout of a
            forward does not change while rows grow.
    """

    kinds: Sequence[str]
    window: int | None
    all_stored: bool = False


class Sight(Tensor):
    """An attention mask for a model to hand on: it carries what `attend` needs.

    Attributes:
        cache: of the forward.
        kind: of the layers that it is for.
    """

    cache: PackedCache
    kind: str
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # what is made of it is none


class PackedCache(Cache):
    """What a model takes for its cache: `attend` writes new keys and values to their places.

    Args:
        spans: per row, in the order of the tokens.
        sees: what they look at.
        positions_M: of the tokens.
        at_M: each token's place on its shelf (`places`).
        dtype: of what is stored; attention over it runs in this type.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        sees: Sees,
        positions_M: Tensor,
        at_M: Tensor,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(layers=[])
        self.dtype, self.layer = dtype, 0
        self.runs = _runs(spans)
        for run in self.runs:
            run.open(sees, positions_M, dtype)
        self._writes = [(shelf, slice(i, j), at_M[i:j]) for shelf, i, j in _by_shelf(spans)]
        self._kinds = sees.kinds

    def sights(self) -> Any:
        """For the model's `attention_mask`: one, or one per kind of layer."""
        made = {kind: self._sight(kind) for kind in self._kinds}
        return made if len(made) > 1 else made[self._kinds[0]]

    def _sight(self, kind: str) -> Sight:
        sight = torch.zeros(1, 1, 1, 1).as_subclass(Sight)
        sight.cache, sight.kind = self, kind
        return sight

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """What a layer says is new; some expand it before they attend, and that is stored."""
        self.layer = layer_idx
        return key_states, value_states

    def write(self, key: Tensor, value: Tensor) -> None:
        """Store the current layer's new keys and values, [1, H, M, D]."""
        for shelf, tokens, at_N in self._writes:
            shelf.layer(self.layer, key, value, self.dtype)
            for stored, new in ((shelf.keys, key), (shelf.values, value)):
                new_NHD = new[0, :, tokens].transpose(0, 1).to(self.dtype)
                flat = stored[self.layer].view(-1, *stored[self.layer].shape[2:])
                flat.index_copy_(0, at_N, new_NHD)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions and masks are always given, so no model needs to count."""
        return 0


def _runs(spans: Sequence[Span]) -> list[Run]:
    runs: list[Run] = []
    start = 0
    for span in spans:
        last = runs[-1] if runs else None
        if (
            last
            and last.shelf is span.shelf
            and last.count == span.count
            and last.first + len(last.befores) == span.slot
        ):
            last.befores.append(span.before)
        else:
            runs.append(Run(start, span.shelf, span.slot, [span.before], span.count))
        start += span.count
    return runs


def _by_shelf(spans: Sequence[Span]) -> Iterator[tuple[Shelf, int, int]]:
    """Shelves, and where their tokens begin and end among the M."""
    start = 0
    for _, group in groupby(spans, key=lambda span: span.shelf.length):
        members = list(group)
        stop = start + sum(span.count for span in members)
        yield members[0].shelf, start, stop
        start = stop


def places(spans: Sequence[Span]) -> list[int]:
    """Where each token goes on its shelf, all of whose slots lie one after the other."""
    return [
        span.slot * span.shelf.length + span.before + t for span in spans for t in range(span.count)
    ]
