"""How far two right ways to compute one thing may lie apart, whatever the processor.

Every kernel adds in an order of its own (vectors of 4, 8 or 16, blocks, fused or not), and which
one runs depends on the processor, the threads and the shape of the batch. So a tolerance is never
what one machine happened to give. Where the code under test can, it runs in float64 and is compared
by `torch.testing.assert_close` as it comes: 1e-7 is half a billion roundings there, and far less
than any fault. Where it computes in float32 or bfloat16, the bound comes from what rounding can do:

    a sum of n products of size s, in any order: every step rounds by up to ε/2 of the sum and the
    signs are random, so together it is some ε · √n · s  (Higham, Accuracy and Stability, §2.8)

times a factor for what a network makes of it: an error in one layer is an input of the next, where
weights, a norm or a softmax enlarge it, a few times each.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

FACTOR = 64.0
PATH = 256
"""Terms on the way through a tiny model: two layers of query (16), scores (8), attended values
(some 30), output (16), up (16) and down (32), and the head (16)."""


def bound(dtype: torch.dtype, terms: int, size: float, factor: float = FACTOR) -> float:
    """How far apart two orders of a sum may end.

    Args:
        dtype: that is computed in.
        terms: n, how many are added up on the longest way from input to output.
        size: s, of the largest number on that way; the output's is near enough.
        factor: by how much later layers enlarge an error.
    """
    return factor * torch.finfo(dtype).eps * float(terms) ** 0.5 * size


NATS = bound(torch.float32, PATH, 8.0)
"""1e-3, for log-probs of tiny models: their logits are some 8 nats at most."""


AFTER_TRAINING = 2e-4
"""For weights and losses after a few steps of Adam, which moves a weight by the learning rate (2e-3
and more in the tests) whatever the size of its gradient: where a gradient is little more than
rounding, that part of it moves too. A pass that is left out or counted twice moves whole steps."""


def close(
    found: Tensor,
    expected: Tensor,
    *,
    terms: int = PATH,
    size: float | None = None,
    factor: float = FACTOR,
    what: str = "",
) -> None:
    """Two tensors of one type are the same but for rounding.

    `size` is the largest expected number, unless larger ones cancel on the way to it.
    """
    if size is None:
        size = float(expected.detach().abs().max())
    limit = bound(expected.dtype, terms, size, factor)
    torch.testing.assert_close(
        found, expected, atol=limit, rtol=0, msg=lambda text: f"{what} {text}".strip()
    )


def nats(expected: object) -> object:
    """Log-probs of a tiny model, or a list or dict of them, to be compared with `==`."""
    return pytest.approx(expected, abs=NATS)
