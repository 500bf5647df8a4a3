"""The bounds that other tests rest on: no order of a sum goes beyond them, and a fault does."""

from __future__ import annotations

import pytest
import torch
from oracle import GREEDY, engine_of, is_specified, specified
from rounding import NATS, bound, close

from trimtab.engines.types import Request


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("terms", [4, 64, 1024])
def test_any_order_of_a_sum_is_within(dtype: torch.dtype, terms: int) -> None:
    """Added one by one, in the type itself, from either end and from the smallest; 50 sums."""
    generator = torch.Generator().manual_seed(terms)
    for _ in range(50):
        numbers = torch.randn(terms, generator=generator).to(dtype)
        size = float(numbers.abs().max())
        sums = []
        for order in (numbers, numbers.flip(0), numbers[numbers.abs().argsort()]):
            total = torch.zeros((), dtype=dtype)
            for number in order:
                total = total + number
            sums.append(total[None])
        for one in sums[1:]:
            close(one, sums[0], terms=terms, size=size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_ten_times_the_bound_is_refused(dtype: torch.dtype) -> None:
    """In one entry of many; faults are of the size of the numbers, hundreds of bounds."""
    right = torch.full((5, 5), 2.0, dtype=dtype)
    wrong = right.clone()
    wrong[3, 3] += 10 * bound(dtype, 16, 2.0, 4.0)
    close(right.clone(), right, terms=16, factor=4)
    with pytest.raises(AssertionError):
        close(wrong, right, terms=16, factor=4)


def test_nats() -> None:
    """64 · 2⁻²³ · √256 · 8 = 2⁻¹⁰."""
    assert NATS == 2**-10


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_another_token_than_the_specified_one_is_refused(temperature: float) -> None:
    """Each token in turn replaced by its neighbour: eight answers, none of them right."""
    engine = engine_of([1, 2])
    request = Request("w1 w2 w3", None, 1.5, GREEDY.but(temperature=temperature, seed=1))
    ids = specified(engine, request)
    assert is_specified(engine, request, ids)
    assert not is_specified(engine, request, ids[:-1])
    for t, token in enumerate(ids):
        assert not is_specified(engine, request, [*ids[:t], (token + 1) % 12, *ids[t + 1 :]])
