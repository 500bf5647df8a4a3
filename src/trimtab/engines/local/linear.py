"""Linear layers for decoding on a CPU: a few rows against a large matrix.

PyTorch's default for float32 (MKL) reads the weights once per row or two on some processors;
oneDNN reads them once for all rows. In bfloat16 oneDNN is the default already, but rearranges
the weights at every call unless that was done once before (docs/log.md has the measurements).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class OneDnnLinear(nn.Module):
    """`nn.Linear` through oneDNN, for inference.

    Args:
        linear: the layer; its own tensors are used.
        pack: rearrange the weights once (a copy in oneDNN's own layout).
    """

    def __init__(self, linear: nn.Linear, *, pack: bool = False) -> None:
        super().__init__()
        weight = linear.weight.detach()
        if pack:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        self.weight: Tensor
        self.register_buffer("weight", weight, persistent=False)
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return y


def speed_up(model: nn.Module, *, pack: bool) -> None:
    """Replace, in place, the layers of a model that oneDNN runs faster.

    Args:
        model: a module tree of its own; float32 weights stay shared with whoever else holds them.
        pack: also replace bfloat16 layers, by packed copies; the originals are let go one by one.
    """
    if not torch.backends.mkldnn.is_available():
        return
    for name, layer in [*model.named_modules()]:
        if type(layer) is nn.Linear and _wanted(layer.weight, pack):
            packed = layer.weight.dtype == torch.bfloat16
            model.set_submodule(name, OneDnnLinear(layer, pack=packed))


def _wanted(weight: Any, pack: bool) -> bool:
    if weight.device.type != "cpu" or type(weight.data) is not Tensor:
        return False  # a quantised weight has kernels of its own
    packable = pack and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and packable)
