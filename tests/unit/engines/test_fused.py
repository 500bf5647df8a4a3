"""Streams in one forward: every stream gets its own low-rank term, and only its own."""

from __future__ import annotations

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from trimtab.engines.local.fused import FusedLayer, RowTerms


def test_by_hand() -> None:
    """W = I (2 x 2). Stream 0 is plain; stream 1 has A = [1 1], B = [1 0]ᵀ (rank 1).

    x = [1, 2]: plain [1, 2]; stream 1: A x = 3, B · 3 = [3, 0], in all [4, 2].
    """
    inner = nn.Linear(2, 2, bias=False)
    inner.weight.data = torch.eye(2)
    terms = RowTerms(2, 1, rank=1)
    pair = (torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [0.0]]))
    layer = FusedLayer(inner, terms, [pair])
    x = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]]])  # 1 request x 2 streams, 1 token
    terms.open(1, 1)
    with torch.inference_mode():
        assert layer(x).tolist() == [[[1.0, 2.0]], [[4.0, 2.0]]]


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
    terms = RowTerms(3, 3, rank=4)
    terms.open(2, 7)
    with torch.inference_mode():
        found = FusedLayer(inner, terms, pairs)(x)
        for stream, pair in enumerate(pairs):
            rows = x[stream::3]
            expected = inner(rows)
            if pair is not None:
                expected = expected + rows @ (pair[1] @ pair[0]).t()
            torch.testing.assert_close(found[stream::3], expected)


def test_gpt2_layers_are_transposed() -> None:
    """A Conv1D of 4 -> 6 features (weight [in, out]) takes the same A [R, 4], B [6, R]."""
    inner = Conv1D(6, 4)
    a, b = torch.ones(2, 4), torch.ones(6, 2)
    x = torch.ones(1, 3, 4)
    terms = RowTerms(1, 1, rank=2)
    terms.open(1, 3)
    with torch.inference_mode():
        torch.testing.assert_close(FusedLayer(inner, terms, [(a, b)])(x), inner(x) + 8.0)
