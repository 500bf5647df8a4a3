"""The linear layers of a decoder, joined: fewer and better products for a few rows.

- Layers that read the same input (query, key and value; gate and up) are one product, and the
  low-rank factors A of their adapters are further rows of the same matrix.
- On a CPU oneDNN reads the weights once for all rows, where PyTorch's default for float32 (MKL)
  reads them once per row or two on some processors.
- Packed for oneDNN once, a matrix costs eight rows hardly more than one; in bfloat16 oneDNN would
  rearrange it at every call.

docs/log.md has the measurements.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.arms.adapter import AdapterWeights
from trimtab.engines.local.adapted import AdaptedLayer, RowTerms, Terms

_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class JointLinear:
    """Linear layers on one input, as one product.

    The layers' weights become views of one matrix, so whoever else holds them loses nothing.

    Args:
        layers: M layers with the same input features.
        added: per layer, what its adapters add; None if there are none.
        terms: what the rows of the current forward take.
        pack: rearrange the matrix for oneDNN; the layers are of no use afterwards.
    """

    def __init__(
        self,
        layers: Sequence[nn.Linear],
        added: Sequence[Terms | None],
        terms: RowTerms | None,
        *,
        pack: bool,
    ) -> None:
        self._terms = terms
        self._outs = [layer.out_features for layer in layers]
        factors = [
            terms.side_by_side(layer_terms) if terms and layer_terms else None
            for layer_terms in added
        ]
        weight = layers[0].weight.detach()
        if len(layers) > 1 or any(factors):
            downs = [factor[0].to(weight.dtype) for factor in factors if factor]
            weight, at = torch.cat([*(layer.weight.detach() for layer in layers), *downs]), 0
            for layer in layers:
                layer.weight.data = weight[at : at + layer.out_features]
                at += layer.out_features
        self._blocks = _blocks(self._outs, [factor[1:] if factor else None for factor in factors])
        self._bias = _joint_bias(layers, len(weight))
        has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        self._onednn = weight.device.type == "cpu" and has_onednn
        self._packed = pack and self._onednn and _packable(weight)
        self._onednn &= self._packed or weight.dtype == torch.float32
        if self._packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS_HINT)
        self._weight = weight
        self._input: Tensor | None = None
        self._outputs: Sequence[Tensor] = ()

    def output(self, index: int, x: Tensor) -> Tensor:
        """One layer's output; the others' are kept until they are asked for with the same input."""
        if x is not self._input:
            self._input, self._outputs = x, self._product(x)
        y = self._outputs[index]
        if index == len(self._outs) - 1:
            self._input, self._outputs = None, ()
        return y

    def weight(self, index: int) -> Tensor:
        """One layer's weight, [out, in]; a copy where the matrix is packed."""
        weight = self._weight.to_dense() if self._packed else self._weight
        return weight.narrow(0, sum(self._outs[:index]), self._outs[index])

    def _product(self, x: Tensor) -> Sequence[Tensor]:
        small = self._weight.nbytes < _SMALL
        few = 0 if self._packed else _FEW_ROWS_AMX if _HAS_AMX else _FEW_ROWS if small else 0
        if self._onednn and x.numel() > few * x.shape[-1]:
            y = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        else:
            y = nn.functional.linear(x, self._weight, self._bias)
        if self._terms is not None and self._blocks:
            y_MO = y.view(-1, y.shape[-1])
            z_MC = y_MO[:, sum(self._outs) :]
            for block in self._blocks:
                out = y_MO[:, block.outs]
                self._terms.add(out, z_MC[:, block.columns], block.up, block.place)
        if len(self._outs) == 1 and not self._blocks:
            return [y]
        starts = accumulate(self._outs, initial=0)
        return [y.narrow(-1, at, width) for at, width in zip(starts, self._outs, strict=False)]


@dataclass(frozen=True)
class _Block:
    """Some layers' factors B: which columns of z they take, and which outputs they add to.

    `place` is where their columns stand among those of all layers of the model.
    """

    columns: slice
    outs: slice
    up: Tensor
    place: slice


def _blocks(outs: Sequence[int], ups: Sequence[tuple[Tensor, slice] | None]) -> list[_Block]:
    """One block per layer, or one for all of them while the zeros between cost little."""
    starts, blocks, at = list(accumulate(outs, initial=0)), [], 0
    for start, width, factor in zip(starts, outs, ups, strict=False):
        if factor is not None:
            up, place = factor
            columns = slice(at, at + len(up))
            blocks.append(_Block(columns, slice(start, start + width), up, place))
            at += len(up)
    if len(blocks) < 2 or at > _FEW_COLUMNS:
        return blocks
    first, last = blocks[0].outs.start, blocks[-1].outs.stop
    whole = blocks[0].up.new_zeros(at, last - first)
    for block in blocks:
        whole[block.columns, block.outs.start - first : block.outs.stop - first] = block.up
    place = slice(blocks[0].place.start, blocks[-1].place.stop)
    return [_Block(slice(0, at), slice(first, last), whole, place)]


_SMALL, _FEW_ROWS = 3 * 2**19, 2
"""Up to so many bytes and rows MKL is faster: a call of oneDNN takes some 15 µs by itself."""
_HAS_AMX = bool(torch.cpu._is_amx_tile_supported())
_FEW_ROWS_AMX = 4
"""Where the processor has AMX, MKL is faster for so many rows of float32, whatever the size."""
_ROWS_HINT = 8
"""Rows for which oneDNN chooses the packed form. Told 1, it takes one that is a quarter slower for
any number of rows where the processor has AMX, and no faster elsewhere."""
_FEW_COLUMNS = 96
"""Up to this many columns one product with zeros in it is faster than one per layer."""


class Piece(nn.Module):
    """One layer of a `JointLinear`, in the layer's own place in the model.

    Args:
        joint: what computes.
        index: which of its layers this is.
        layer: as it was.
    """

    def __init__(self, joint: JointLinear, index: int, layer: nn.Linear) -> None:
        super().__init__()
        self._joint, self._index = joint, index
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._bias = (layer.bias,)  # a tuple: the parameter stays the layer's

    @property
    def weight(self) -> Tensor:
        """The layer's weight, for models that multiply by it themselves."""
        return self._joint.weight(self._index)

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        return self._bias[0]

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, in] -> [N, T, out]."""
        return self._joint.output(self._index, x)


def _packable(weight: Tensor) -> bool:
    """Whether oneDNN has kernels for this type on this machine that are faster so."""
    if weight.dtype == torch.float32:
        return not _HAS_AMX and platform.machine() in ("x86_64", "AMD64")  # seen nowhere else
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return weight.dtype == torch.bfloat16 and bool(supported())


def _joint_bias(layers: Sequence[nn.Linear], rows: int) -> Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    bias, at = layers[0].weight.new_zeros(rows), 0
    for layer in layers:
        if layer.bias is not None:
            bias[at : at + layer.out_features] = layer.bias.detach()
        at += layer.out_features
    return bias


def join_layers(model: Any, adapters: Sequence[AdapterWeights], *, pack: bool) -> RowTerms | None:
    """Replace a model's linear layers, in place, by joint ones that carry the streams' terms.

    Args:
        model: a transformers causal LM, a module tree of its own.
        adapters: of the streams that have one, in their order.
        pack: the weights are this model's alone and may be rearranged.

    Returns:
        What to tell about the rows before every forward; None without adapters.
    """
    terms = _terms(adapters)
    with torch.no_grad():
        for names in clusters(model):
            layers = [model.get_submodule(name) for name in names]
            added = [_own(name, adapters) for name in names]
            joint = JointLinear(layers, added, terms, pack=pack)
            for index, (name, layer) in enumerate(zip(names, layers, strict=True)):
                model.set_submodule(name, Piece(joint, index, layer))
        for name in sorted({name for adapter in adapters for name in adapter.layers}):
            layer, layer_terms = model.get_submodule(name), _own(name, adapters)
            if not isinstance(layer, Piece) and terms and layer_terms:
                model.set_submodule(name, AdaptedLayer(layer, terms, layer_terms))
    return terms


def clusters(model: nn.Module) -> list[list[str]]:
    """Names of the plain linear layers, those that read the same input together."""
    modules: Mapping[str, nn.Module] = dict(model.named_modules())
    plain = {name: m for name, m in modules.items() if type(m) is nn.Linear and _is_plain(m)}
    groups, seen = [], set()
    for name in plain:
        parent, _, leaf = name.rpartition(".")
        siblings = next((group for group in _TOGETHER if leaf in group), (leaf,))
        names = [f"{parent}.{sibling}" if parent else sibling for sibling in siblings]
        alike = all(n in plain and _kind(plain[n]) == _kind(plain[name]) for n in names)
        names = names if alike else [name]
        if name not in seen:
            seen.update(names)
            groups.append(names)
    return groups


def _kind(layer: nn.Linear) -> tuple[object, ...]:
    return layer.in_features, layer.weight.dtype, layer.weight.device


def _is_plain(layer: nn.Linear) -> bool:
    return type(layer.weight.data) is Tensor and layer.weight.is_floating_point()


def _own(name: str, adapters: Sequence[AdapterWeights]) -> Terms | None:
    layer_terms = [adapter.layers.get(name) for adapter in adapters]
    return layer_terms if any(term is not None for term in layer_terms) else None


def _terms(adapters: Sequence[AdapterWeights]) -> RowTerms | None:
    downs = [term.a for adapter in adapters for term in adapter.layers.values()]
    return RowTerms(adapters, downs[0].device, downs[0].dtype) if downs else None
