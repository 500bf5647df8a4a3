"""Streams in one forward: every row takes its own share of the columns, and only its own."""

from __future__ import annotations

import torch
from rounding import close
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from trimtab.arms.adapter import AdapterWeights, LowRank
from trimtab.engines.local.adapted import AdaptedLayer, RowTerms, Terms


def terms_of(*objectives: int) -> RowTerms:
    """For adapters with so many objectives each; 0 is a plain LoRA."""
    return RowTerms([AdapterWeights({}, tuple("abc"[:count])) for count in objectives])


def identity() -> nn.Linear:
    """W = I (2 x 2)."""
    inner = nn.Linear(2, 2, bias=False)
    inner.weight.data = torch.eye(2)
    return inner


def run(layer: AdaptedLayer, terms: RowTerms, coefficients: list[list[float]], x: Tensor) -> Tensor:
    terms.open(torch.tensor(coefficients).repeat_interleave(x.shape[1], 0))  # of each token
    with torch.inference_mode():
        return layer(x)  # type: ignore[no-any-return]


def test_by_hand() -> None:
    """W = I (2 x 2). Stream 0 is plain; stream 1 has A = [1 1], B = [1 0]ᵀ (rank 1).

    x = [1, 2]: plain [1, 2]; stream 1: A x = 3, B · 3 = [3, 0], in all [4, 2].
    """
    terms = terms_of(0)
    own = LowRank(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [0.0]]))
    layer = AdaptedLayer(identity(), terms, [own])
    x = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]]])  # 1 request x 2 streams, 1 token
    assert run(layer, terms, [[0.0], [1.0]], x).tolist() == [[[1.0, 2.0]], [[4.0, 2.0]]]


def test_a_preference_by_hand() -> None:
    """W = I, A = I, B = I; objectives a, b with Γ = (2 0), (0 4) and Δ = (8 0), (0 -8).

    x = [1, 2] and p = (½, ½): gain (1 2), so [1, 4]; shift (4 -4), so [5, 0]; in all [6, 2].
    p = (1, 0): gain (2 0) and shift (8 0): [10, 0], in all [11, 2]. No part of it: x itself.
    """
    terms = terms_of(2)
    gain, shift = torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.tensor([[8.0, 0.0], [0.0, -8.0]])
    layer = AdaptedLayer(identity(), terms, [LowRank(torch.eye(2), torch.eye(2), gain, shift)])
    rows = [[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]]
    found = run(layer, terms, rows, torch.tensor([[[1.0, 2.0]]]).repeat(3, 1, 1))
    assert found[:, 0].tolist() == [[6.0, 2.0], [11.0, 2.0], [1.0, 2.0]]
    several = run(layer, terms, rows, torch.tensor([[[1.0, 2.0], [1.0, 2.0]]]).repeat(3, 1, 1))
    assert several.tolist() == [[row, row] for row in found[:, 0].tolist()]


def test_ranks_may_differ_and_a_stream_may_have_no_term() -> None:
    """Three streams of two requests: rank 1, none, rank 3; against dense matrices."""
    generator = torch.Generator().manual_seed(0)
    inner = nn.Linear(4, 5)
    pairs = [
        (torch.randn(1, 4, generator=generator), torch.randn(5, 1, generator=generator)),
        None,
        (torch.randn(3, 4, generator=generator), torch.randn(5, 3, generator=generator)),
    ]
    x = torch.randn(6, 7, 4, generator=generator)
    terms = terms_of(0, 0, 0)
    layer = AdaptedLayer(inner, terms, [LowRank(*pair) if pair else None for pair in pairs])
    found = run(layer, terms, torch.eye(3).repeat(2, 1).tolist(), x)
    with torch.inference_mode():
        for stream, pair in enumerate(pairs):
            rows = x[stream::3]
            expected = inner(rows)
            if pair is not None:
                expected = expected + rows @ (pair[1] @ pair[0]).t()
            close(found[stream::3], expected, terms=4 + 3)


def test_layers_that_shift_and_layers_that_do_not() -> None:
    """Two layers of one model; only the second has a shift, and only its second adapter."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    terms, x = terms_of(0, 2), random(3, 2, 4)
    plain = LowRank(random(2, 4), random(5, 2))
    gained = LowRank(random(3, 4), random(5, 3), random(2, 3))
    shifted = LowRank(random(1, 4), random(5, 1), random(2, 1), random(2, 1))
    layers: list[tuple[Terms, AdaptedLayer]] = [
        (own, AdaptedLayer(nn.Linear(4, 5), terms, own))
        for own in ([plain, gained], [None, shifted])
    ]
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.3, 0.7], [0.0, 0.0, 0.0]])
    for own, layer in layers:
        found = run(layer, terms, rows.tolist(), x)
        for row, (one, *both) in enumerate(rows):
            with torch.inference_mode():
                expected = layer.inner(x[row])
                if own[0] is not None:
                    expected = expected + one * (x[row] @ own[0].a.t() @ own[0].b.t())
                for p, i in zip(both, (0, 1), strict=True):
                    term = own[1]
                    assert term is not None and term.gain is not None
                    z = x[row] @ term.a.t() * term.gain[i]
                    z = z if term.shift is None else z + term.shift[i]
                    expected = expected + p * (z @ term.b.t())
                close(found[row], expected, terms=4 + 3)


def test_gpt2_layers_are_transposed() -> None:
    """A Conv1D of 4 -> 6 features (weight [in, out]) takes the same A [R, 4], B [6, R]."""
    inner = Conv1D(6, 4)
    terms, x = terms_of(0), torch.ones(1, 3, 4)
    layer = AdaptedLayer(inner, terms, [LowRank(torch.ones(2, 4), torch.ones(6, 2))])
    found = run(layer, terms, [[1.0]], x)
    with torch.inference_mode():
        close(found, inner(x) + 8.0, terms=4 + 2)
