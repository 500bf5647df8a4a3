"""Temperature and filters against an independent implementation: transformers' own warpers.

`fusion.shape` is part of the specification itself, so nothing that is built on it can check it.
`generate` puts its warpers in the order that `shape` documents: temperature, top-k, top-p, min-p,
each on what the one before has left, and only those that are asked for. The distributions are the
same but for two conventions, each shown by hand below and left out of the property:

- *Ties at a cut.* Of equally likely tokens across the edge of top-k we keep the lowest ids, so
  that k tokens stay; transformers keeps all of them. Across the edge of top-p both keep equally
  many, but not the same ones. (Ties with the largest at min-p = 1 are kept by both.)
- *Bounds met to the last bit.* Whether a mass is at least `top_p`, or a probability at least
  `min_p` times the largest, is up to rounding where the two are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rounding import bound
from torch import Tensor
from transformers.generation import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trimtab import fusion

NEVER = float("-inf")
DTYPES = (torch.float64, torch.float32)
explores = settings(max_examples=200, deadline=None)


@dataclass(frozen=True)
class Filters:
    """The settings of one row; the defaults of the three filters keep all."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@st.composite
def cases(draw: Any) -> tuple[Tensor, list[Filters]]:
    """Logits of a few rows, [B, V] float64, ties and impossible tokens among them, and settings."""
    b, v = draw(st.integers(1, 3)), draw(st.integers(2, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    logits = draw(st.sampled_from([0.1, 1.0, 5.0])) * torch.randn(b, v, generator=generator)
    if draw(st.booleans()):
        logits = logits.round()  # ties
    impossible = torch.rand(b, v, generator=generator) < draw(st.sampled_from([0.0, 0.3]))
    impossible.scatter_(-1, torch.randint(v, (b, 1), generator=generator), False)
    row = st.builds(
        Filters,
        temperature=st.floats(0.1, 4.0),
        top_k=st.sampled_from([0]) | st.integers(1, v + 2),
        top_p=st.just(1.0) | st.floats(0.01, 1.0),
        min_p=st.sampled_from([0.0, 1.0]) | st.floats(0.001, 1.0),
    )
    rows = draw(st.lists(row, min_size=b, max_size=b))
    return logits.double().masked_fill(impossible, NEVER), rows


def shaped(logits_BV: Tensor, rows: list[Filters]) -> Tensor:
    """Ours: all rows at once, [B, V] log-probs in the dtype of the logits."""
    kind = logits_BV.dtype
    return fusion.shape(
        logits_BV.log_softmax(-1),
        torch.tensor([row.temperature for row in rows], dtype=kind),
        torch.tensor([row.top_k for row in rows]),
        torch.tensor([row.top_p for row in rows], dtype=kind),
        torch.tensor([row.min_p for row in rows], dtype=kind),
    )


def warped(logits_V: Tensor, row: Filters) -> Tensor:
    """Theirs: one row through the warpers in force, [V] log-probs."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(row.temperature)])
    if row.top_k:
        warpers.append(TopKLogitsWarper(row.top_k))
    if row.top_p < 1:
        warpers.append(TopPLogitsWarper(row.top_p))
    if row.min_p:
        warpers.append(MinPLogitsWarper(row.min_p))
    no_ids = torch.zeros(1, 1, dtype=torch.long)
    return warpers(no_ids, logits_V[None])[0].log_softmax(-1)


def is_open(logits_V: Tensor, row: Filters, near: float) -> bool:
    """Whether a tie or a bound met within `near` leaves open what is kept.

    Worked out from the definitions in float64, one filter after the other, by neither of the two.
    """
    p_V = (logits_V.double() / row.temperature).softmax(-1).sort(descending=True).values
    p_V = p_V[p_V > 0]
    if row.top_k:
        if is_tie(p_V, row.top_k, near):
            return True
        p_V = p_V[: row.top_k] / p_V[: row.top_k].sum()
    if row.top_p < 1:
        before_V = p_V.cumsum(-1) - p_V
        if bool(((before_V[1:] - row.top_p).abs() <= near).any()):
            return True
        kept = max(1, int((before_V < row.top_p).sum()))
        if is_tie(p_V, kept, near):
            return True
        p_V = p_V[:kept]
    floor = row.min_p * p_V[0]
    return bool((((p_V - floor).abs() <= near * floor) & (p_V < p_V[0])).any())


def is_tie(ranked_V: Tensor, cut: int, near: float) -> bool:
    """Whether a cut after so many tokens runs between two that are equally likely."""
    if cut >= len(ranked_V):
        return False
    return bool(ranked_V[cut - 1] - ranked_V[cut] <= near * ranked_V[cut - 1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@explores
@given(cases())
def test_the_warpers_of_transformers_give_the_same(
    dtype: torch.dtype, given: tuple[Tensor, list[Filters]]
) -> None:
    """Every row by its own settings, in the dtype of the engines and in one that hardly rounds."""
    logits, rows = given[0].to(dtype), given[1]
    size = float(logits.masked_fill(logits == NEVER, 0).abs().max())
    size = 2 * size / min(row.temperature for row in rows) + 4  # of a log-prob, nats
    near = bound(dtype, logits.shape[-1], size, factor=4)
    assume(not any(is_open(*one, near) for one in zip(logits, rows, strict=True)))
    found = shaped(logits, rows)
    wanted = torch.stack([warped(*one) for one in zip(logits, rows, strict=True)])
    assert torch.equal(found == NEVER, wanted == NEVER)  # the same tokens are kept
    torch.testing.assert_close(found, wanted, rtol=0, atol=near)


class TestConventions:
    """By hand: the cases that the property leaves out, and one close by that it does not."""

    tied = torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64).log()

    def test_of_a_tie_at_top_k_we_keep_k_and_transformers_keeps_all(self) -> None:
        """(.3, .4, .3), k = 2: we keep .3 (id 0) and .4 over .7, they keep the three."""
        row = Filters(top_k=2)
        assert is_open(self.tied, row, 1e-12)
        assert shaped(self.tied[None], [row])[0].exp().tolist() == pytest.approx([3 / 7, 4 / 7, 0])
        assert warped(self.tied, row).exp().tolist() == pytest.approx([0.3, 0.4, 0.3])

    def test_of_a_tie_at_top_p_both_keep_as_many_and_we_the_lowest_ids(self) -> None:
        """(.3, .4, .3), p = .6: .4 is short of it, .4 + .3 is not: two of the three stay."""
        row = Filters(top_p=0.6)
        assert is_open(self.tied, row, 1e-12)
        found, wanted = shaped(self.tied[None], [row])[0], warped(self.tied, row)
        assert found.exp().tolist() == pytest.approx([3 / 7, 4 / 7, 0])
        assert found.sort().values.tolist() == pytest.approx(wanted.sort().values.tolist())

    def test_min_p_of_one_keeps_all_that_tie_with_the_largest(self) -> None:
        """(.4, .4, .2), min-p = 1: both keep the two, half each; the property has such rows."""
        logits, row = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64).log(), Filters(min_p=1.0)
        assert not is_open(logits, row, 1e-12)
        assert shaped(logits[None], [row])[0].exp().tolist() == pytest.approx([0.5, 0.5, 0])
        assert warped(logits, row).exp().tolist() == pytest.approx([0.5, 0.5, 0])

    def test_a_bound_that_is_met_exactly_is_open(self) -> None:
        """(1/2, 1/4, 1/8, 1/8): ½ of the mass, and ½ of the largest, are met to the last bit."""
        logits = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8], dtype=torch.float64).log()
        assert is_open(logits, Filters(top_p=0.5), 1e-12)
        assert is_open(logits, Filters(min_p=0.5), 1e-12)
        assert not is_open(logits, Filters(top_p=0.51, min_p=0.49), 1e-12)
