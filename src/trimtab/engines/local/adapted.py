"""Low-rank terms per row: streams that share a backbone, in one forward.

S streams of B requests are B · S = N rows, request by request, of T tokens. Decoding is bound by
reading W, so every stream after the first costs little more than its low-rank term.

All adapters' columns of a layer lie side by side. What a row takes of them is a gain per column,
linear in a few coefficients of the row: one for a plain LoRA (1 for the rows of its own stream, 0
for all others), one per objective for a conditioned ARM (the row's preference). Any mix of
streams and of preferences is so one product, and a preference costs what a plain LoRA does.
J coefficients of all streams, C columns of a layer, X columns of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimtab.arms.adapter import AdapterWeights, LowRank

Terms = Sequence[LowRank | None]
"""Per adapter, what it adds to a layer; None adds nothing."""


class RowTerms:
    """How the rows of the current forward take the adapters' columns; shared by all layers.

    Args:
        adapters: each belongs to a stream of its own.
        device: where the layers are.
        dtype: of the layers.
    """

    def __init__(
        self,
        adapters: Sequence[AdapterWeights],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.widths = [max(1, len(adapter.objectives)) for adapter in adapters]
        # on a CPU a small product in half precision takes three times as long as in float32
        self.dtype = torch.float32 if torch.device(device).type == "cpu" else dtype
        self._device = device
        self._tables: list[tuple[Tensor, Tensor | None]] = []  # of the layers, until all are known
        self._gain_JX = self._shift_JX = torch.empty(0)
        self._gain_NX: Tensor = torch.empty(0)
        self._shift_NX: Tensor | None = None
        self._real_NT: Tensor | None = None
        self._columns = 0

    def side_by_side(self, terms: Terms) -> tuple[Tensor, Tensor, slice]:
        """A layer's columns: down [C, in], up [C, out], and their place among those of all layers.

        The tables of gains and shifts grow by the same columns.
        """
        there = [(i, term) for i, term in enumerate(terms) if term is not None]
        down = torch.cat([term.a for _, term in there])
        up = torch.cat([term.b.t() for _, term in there]).to(self.dtype)
        shape = (sum(self.widths), len(down))
        gain, shift, at = torch.zeros(shape), torch.zeros(shape), 0
        for i, term in there:
            rows = slice(sum(self.widths[:i]), sum(self.widths[: i + 1]))
            columns = slice(at, at + len(term.a))
            gain[rows, columns] = 1.0 if term.gain is None else term.gain.float().cpu()
            if term.shift is not None:
                shift[rows, columns] = term.shift.float().cpu()
            at = columns.stop
        self._tables.append((gain, shift if shift.any() else None))
        place = slice(self._columns, self._columns + len(down))
        self._columns = place.stop
        return down, up, place

    def _finish(self) -> None:
        """Join the layers' tables into one."""
        gains, shifts = zip(*self._tables, strict=True)
        self._gain_JX = torch.cat(gains, 1).to(self._device)
        filled = [
            torch.zeros_like(g) if s is None else s for g, s in zip(gains, shifts, strict=True)
        ]
        some = any(shift is not None for shift in shifts)
        self._shift_JX = torch.cat(filled, 1).to(self._gain_JX) if some else torch.empty(0)
        self._tables.clear()

    def open(self, coefficients_NJ: Tensor, real_NT: Tensor | None = None) -> None:
        """Set the rows of the next forward.

        Args:
            coefficients_NJ: of the rows.
            real_NT: 0 for padding that must not be shifted, because recurrent layers read it as
                zeros; None where padding does not matter.
        """
        if self._tables:
            self._finish()
        own_NJ = coefficients_NJ.float()  # a preference of 0.3 is no bfloat16
        self._gain_NX = own_NJ @ self._gain_JX
        self._shift_NX = own_NJ @ self._shift_JX if len(self._shift_JX) else None
        self._real_NT = real_NT

    def add(self, y_MO: Tensor, z_MC: Tensor, up_CO: Tensor, place: slice) -> None:
        """Add to y what each row takes of z = x · down, times up; M = N · T."""
        gain = self._gain_NX[:, None, place]
        kept = z_MC.view(len(gain), -1, z_MC.shape[-1])
        if self._shift_NX is None:
            kept = kept * gain
        else:
            shift = self._shift_NX[:, None, place]
            if self._real_NT is not None:
                shift = shift * self._real_NT[..., None]
            kept = torch.addcmul(shift, kept, gain)
        kept_MC = kept.flatten(0, 1).to(self.dtype)
        if y_MO.dtype == self.dtype:
            y_MO.addmm_(kept_MC, up_CO)
        else:
            y_MO.add_(torch.mm(kept_MC, up_CO))


class AdaptedLayer(nn.Module):
    """Any frozen linear layer (quantised, transposed, …) whose rows add their own low-rank term.

    Args:
        inner: the layer.
        terms: what the rows of the current forward take.
        own: what the adapters add to the layer.
    """

    def __init__(self, inner: nn.Module, terms: RowTerms, added: Terms) -> None:
        super().__init__()
        self.inner = inner
        self._terms = terms
        down, up, self._place = terms.side_by_side(added)
        self._down: Tensor
        self._up: Tensor
        self.register_buffer("_down", down.t().to(terms.dtype), persistent=False)
        self.register_buffer("_up", up, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, in] -> [N, T, out]."""
        y: Tensor = self.inner(x)
        z_MC = torch.mm(x.reshape(-1, x.shape[-1]).to(self._down.dtype), self._down)
        self._terms.add(y.view(-1, y.shape[-1]), z_MC, self._up, self._place)
        return y
