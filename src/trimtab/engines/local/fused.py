"""Streams that share a backbone, in one forward: one copy of the weights, read once per step.

S streams of B requests are S · B rows, stream by stream. Decoding is bound by reading W, so every
stream after the first costs little more than its low-rank term.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.arms.adapter import LoraWeights
from trimtab.arms.load import share_weights


class FusedLinear(nn.Module):
    """A frozen linear layer whose later streams each add their own low-rank term.

    Args:
        inner: the frozen layer.
        plain: how many streams come first, without a term.
        pairs: (A [R, in], B [out, R]) of each stream after those; None adds nothing.
    """

    def __init__(
        self, inner: nn.Module, plain: int, pairs: Sequence[tuple[Tensor, Tensor] | None]
    ) -> None:
        super().__init__()
        self.inner = inner
        self._plain, self._streams = plain, plain + len(pairs)
        given = [pair for pair in pairs if pair is not None]
        rank = max(a.shape[0] for a, _ in given)
        a, b = given[0]
        down = a.new_zeros(len(pairs), a.shape[1], rank)
        up = b.new_zeros(len(pairs), rank, b.shape[0])
        for stream, pair in enumerate(pairs):
            if pair is not None:  # smaller ranks are filled with zeros
                down[stream, :, : pair[0].shape[0]] = pair[0].t()
                up[stream, : pair[1].shape[1]] = pair[1].t()
        self._down: Tensor
        self._up: Tensor
        self.register_buffer("_down", down, persistent=False)
        self.register_buffer("_up", up, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[S · B, T, in] -> [S · B, T, out]; rows stream by stream."""
        y: Tensor = self.inner(x)
        x_SNI = x.reshape(self._streams, -1, x.shape[-1])[self._plain :]
        y_SNO = y.view(self._streams, -1, y.shape[-1])[self._plain :]
        y_SNO.baddbmm_(torch.bmm(x_SNI.to(self._down.dtype), self._down), self._up)
        return y


def fuse_backbone(backbone: Any, plain: int, adapters: Sequence[LoraWeights]) -> Any:
    """A second module tree over the backbone's own tensors that runs all streams in one forward.

    Args:
        backbone: a transformers causal LM; it is left as it is.
        plain: streams without an adapter, which come first.
        adapters: one per stream after those.
    """
    model = share_weights(backbone)
    for name in sorted({name for adapter in adapters for name in adapter.layers}):
        pairs = [adapter.layers.get(name) for adapter in adapters]
        layer = FusedLinear(model.get_submodule(name), plain, pairs)
        model.set_submodule(name, layer)
    return model
