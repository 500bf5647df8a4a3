"""The loss over several objectives, on made-up pairs. The maths stands in each docstring.

s(x) = −ln σ(x) = ln(1 + e^−x):  s(.2) = .598139  s(−.2) = .798139  s(1) = .313262
s(−1) = 1.313262; and s(−x) = s(x) + x for every x.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trimtab.training.losses import LossOptions, ObjectiveLosses, objectives_loss, preference_loss

NAN = float("nan")
TWO = torch.tensor([-1.0]), torch.tensor([-3.0])  # one pair: the first is 2 nats ahead


def losses(
    betas: list[float], weights: list[float] | None = None, global_weight: float = 0.0, **more: Any
) -> ObjectiveLosses:
    options = [LossOptions(beta=beta, **more) for beta in betas]
    return ObjectiveLosses(options, weights or [1.0] * len(betas), global_weight)


def of_two(verdicts: list[float], preference: list[float], options: ObjectiveLosses) -> float:
    """The loss of the pair whose first response is 2 nats ahead."""
    found = objectives_loss(*TWO, torch.tensor([verdicts]), torch.tensor([preference]), options)
    return float(found)


def slope(verdicts: list[float], preference: list[float], options: ObjectiveLosses) -> float:
    """What that pair's loss changes by for a nat more of the first reward."""
    first = TWO[0].clone().requires_grad_()
    rows = torch.tensor([verdicts]), torch.tensor([preference])
    objectives_loss(first, TWO[1], *rows, options).sum().backward()
    assert first.grad is not None
    return float(first.grad)


class TestByHand:
    def test_two_objectives_that_disagree(self) -> None:
        """β = (.1, .5), d = 2: a says the first, b the second. α = (.7, .3):

        .7 · s(.1 · 2) + .3 · s(−.5 · 2) = .7 · .598139 + .3 · 1.313262 = .812676
        """
        found = of_two([1, 0], [0.7, 0.3], losses([0.1, 0.5]))
        assert found == pytest.approx(0.812676, abs=1e-5)

    def test_weights(self) -> None:
        """Twice a, four times b: 2 · .7 · .598139 + 4 · .3 · 1.313262 = 2.413309."""
        found = of_two([1, 0], [0.7, 0.3], losses([0.1, 0.5], [2.0, 4.0]))
        assert found == pytest.approx(2.413309, abs=1e-5)

    def test_a_missing_label_costs_nothing(self) -> None:
        """Without b's label: .7 · .598139 = .418697; a's share is not made larger for it."""
        found = of_two([1, NAN], [0.7, 0.3], losses([0.1, 0.5]))
        assert found == pytest.approx(0.418697, abs=1e-5)

    def test_the_global_loss(self) -> None:
        """z̄ = .7 · 1 + .3 · 0 = .7 and β̄ = .7 · .1 + .3 · .5 = .22, so β̄ d = .44:

        s(.44) = ln(1 + e^−.44) = ln 1.644036 = .497154, s(−.44) = .937154
        .7 · .497154 + .3 · .937154 = .629154; with λ = 2: .812676 + 2 · .629154 = 2.070984
        """
        found = of_two([1, 0], [0.7, 0.3], losses([0.1, 0.5], None, 2.0))
        assert found == pytest.approx(2.070984, abs=1e-5)

    def test_the_global_loss_goes_by_weights_too(self) -> None:
        """s = (2 · .7, 4 · .3) = (1.4, 1.2): z̄ = 1.4 / 2.6, β̄ = (.14 + .6) / 2.6, β̄ d = .569231:

        s(.569231) = .448499, s(−.569231) = 1.017730; 2.6 · (.538462 · .448499 + .461538 · 1.017730)
        = 1.849176, so with λ = 1: 2.413308 + 1.849176 = 4.262484
        """
        found = of_two([1, 0], [0.7, 0.3], losses([0.1, 0.5], [2.0, 4.0], 1.0))
        assert found == pytest.approx(4.262484, abs=1e-5)

    def test_the_global_loss_is_over_the_labels_that_are_there(self) -> None:
        """Without b's label s = (.7, 0): z̄ = 1, β̄ = .1; it counts .7, as BT_a does: 2 · .418697."""
        found = of_two([1, NAN], [0.7, 0.3], losses([0.1, 0.5], None, 1.0))
        assert found == pytest.approx(0.837394, abs=1e-5)

    def test_no_label_under_the_preference(self) -> None:
        """All of the preference on b, which did not judge: nothing is learned."""
        assert slope([1.0, NAN], [0.0, 1.0], losses([0.1, 0.5], None, 1.0)) == 0.0

    @pytest.mark.parametrize("weight", [0.0, 1.0])
    def test_an_objective_that_hardly_counts_teaches_hardly_anything(self, weight: float) -> None:
        """α_b = .001 and only b judged: the slope is .001 β σ(−βd), with λ = 1 twice that,

        because BT_global *is* Σ α_i BT_i, a missing label being one that costs nothing. Pairs from
        a file per objective are all like that: a model told to want a must not learn b from them.
        """
        both = slope([NAN, 1.0], [0.5, 0.5], losses([0.5, 0.5], None, weight))
        hardly = slope([NAN, 1.0], [0.999, 0.001], losses([0.5, 0.5], None, weight))
        assert hardly == pytest.approx(both * 0.001 / 0.5, rel=1e-3)


betas = st.floats(0.01, 2.0)
rewards = st.floats(-30.0, 30.0, width=32)
labels = st.sampled_from([0.0, 1.0, NAN])
Rows = list[tuple[float, float, list[float], list[float]]]


@st.composite
def batches(draw: st.DrawFn, *, known: bool = False) -> tuple[int, Rows]:
    """K objectives and rows of two rewards, K verdicts and K weights on the simplex."""
    k = draw(st.integers(1, 4))
    verdict = st.lists(st.sampled_from([0.0, 1.0]) if known else labels, min_size=k, max_size=k)
    row = st.tuples(rewards, rewards, verdict, st.lists(st.integers(0, 9), min_size=k, max_size=k))
    rows = draw(st.lists(row, min_size=1, max_size=5))
    simplex = [[w / sum(ws) for w in ws] if sum(ws) else [1.0 / k] * k for *_, ws in rows]
    return k, [(a, b, v, p) for (a, b, v, _), p in zip(rows, simplex, strict=True)]


def tensors(rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """In float64, where the laws hold to many digits."""
    columns = zip(*rows, strict=True)
    first, second, verdicts, preference = (torch.tensor(c, dtype=torch.float64) for c in columns)
    return first, second, verdicts, preference


several = examples(80)


class TestLaws:
    @several
    @given(batches(), st.lists(betas, min_size=4, max_size=4), st.floats(0, 3))
    def test_rows_are_taken_one_by_one(
        self, batch: tuple[int, Rows], beta: list[float], weight: float
    ) -> None:
        """Each row by its own preference: what a loop over rows gives."""
        k, rows = batch
        options = losses(beta[:k], [1.0, 2.0, 0.5, 3.0][:k], weight)
        together = objectives_loss(*tensors(rows), options)
        alone = [objectives_loss(*tensors([row]), options) for row in rows]
        torch.testing.assert_close(together, torch.cat(alone))

    @several
    @given(batches(), st.lists(betas, min_size=4, max_size=4))
    def test_one_preference_for_all_rows(self, batch: tuple[int, Rows], beta: list[float]) -> None:
        """[1, K] is the same as that row repeated."""
        k, rows = batch
        first, second, verdicts, preference = tensors(rows)
        options = losses(beta[:k], None, 1.0)
        one = objectives_loss(first, second, verdicts, preference[:1], options)
        repeated = preference[:1].repeat(len(rows), 1)
        torch.testing.assert_close(one, objectives_loss(first, second, verdicts, repeated, options))

    @several
    @given(batches(known=True), st.lists(betas, min_size=4, max_size=4), st.integers(0, 3))
    def test_a_one_hot_preference_is_that_objective(
        self, batch: tuple[int, Rows], beta: list[float], which: int
    ) -> None:
        """… alone: GenARM's loss with its β and its labels."""
        k, rows = batch
        which %= k
        first, second, verdicts, _ = tensors(rows)
        one_hot = torch.eye(k, dtype=torch.float64)[which : which + 1]
        found = objectives_loss(first, second, verdicts, one_hot, losses(beta[:k]))
        better = verdicts[:, which] == 1
        expected = preference_loss(
            torch.where(better, first, second),
            torch.where(better, second, first),
            LossOptions(beta=beta[which]),
        )
        torch.testing.assert_close(found, expected)

    @several
    @given(batches(), st.lists(betas, min_size=4, max_size=4), st.floats(0, 3))
    def test_flipped_labels_are_swapped_responses(
        self, batch: tuple[int, Rows], beta: list[float], weight: float
    ) -> None:
        k, rows = batch
        first, second, verdicts, preference = tensors(rows)
        options = losses(beta[:k], None, weight, margin=0.3, label_smoothing=0.1)
        flipped = objectives_loss(first, second, 1 - verdicts, preference, options)
        swapped = objectives_loss(second, first, verdicts, preference, options)
        torch.testing.assert_close(flipped, swapped)

    @several
    @given(batches(), betas, st.floats(0, 3))
    def test_with_one_beta_lambda_scales(
        self, batch: tuple[int, Rows], beta: float, weight: float
    ) -> None:
        """Σ s_i BT_i = Σ_{i: z_i = 1} s_i s(βd) + Σ_{i: z_i = 0} s_i s(−βd)
        = Σ s_i · (z̄ s(βd) + (1 − z̄) s(−βd)), so λ makes it (1 + λ) times as much."""
        k, rows = batch
        counts = [1.0, 2.0, 0.5, 3.0][:k]
        without = objectives_loss(*tensors(rows), losses([beta] * k, counts))
        found = objectives_loss(*tensors(rows), losses([beta] * k, counts, weight))
        torch.testing.assert_close(found, (1 + weight) * without)

    @several
    @given(batches(known=True), st.lists(betas, min_size=4, max_size=4))
    def test_an_order_of_objectives_means_nothing(
        self, batch: tuple[int, Rows], beta: list[float]
    ) -> None:
        k, rows = batch
        first, second, verdicts, preference = tensors(rows)
        there = objectives_loss(
            first, second, verdicts, preference, losses(beta[:k], [1.0, 2.0, 3.0, 4.0][:k], 0.7)
        )
        back = losses(beta[:k][::-1], [1.0, 2.0, 3.0, 4.0][:k][::-1], 0.7)
        found = objectives_loss(first, second, verdicts.flip(-1), preference.flip(-1), back)
        torch.testing.assert_close(there, found)


def test_lambda_does_more_than_scale_where_betas_differ() -> None:
    """From above: Σ α_i BT_i = .812676 and BT_global = .629154, which is not the same."""
    apart = of_two([1, 0], [0.7, 0.3], losses([0.1, 0.5], None, 1.0))
    assert apart - 0.812676 == pytest.approx(0.629154, abs=1e-5)


def test_weights_by_counts_make_objectives_count_alike() -> None:
    """Four pairs, a judged all of them, b one: N / N_i is 1 and 4.

    With α = (½, ½), β = ½ and d = 2 everywhere, all for the first: a adds ½ · s(1) on every pair,
    b adds 4 · ½ · s(1) on one. The mean over the four is ½ · s(1) of each: s(1) in all, which is
    what PARM's loss is where every pair has both labels.
    """
    first, second = torch.full((4,), -1.0), torch.full((4,), -3.0)
    preference = torch.tensor([[0.5, 0.5]])
    verdicts = torch.tensor([[1.0, 1.0], [1.0, NAN], [1.0, NAN], [1.0, NAN]])
    found = objectives_loss(first, second, verdicts, preference, losses([0.5, 0.5], [1.0, 4.0]))
    assert float(found.mean()) == pytest.approx(0.313262, abs=1e-5)
    parm = objectives_loss(first, second, torch.ones(4, 2), preference, losses([0.5, 0.5]))
    assert parm.tolist() == pytest.approx([0.313262] * 4, abs=1e-5)


@pytest.mark.parametrize(("verdicts", "slope"), [([1.0, 1.0], -0.25), ([0.0, 0.0], 0.25)])
def test_gradient(verdicts: list[float], slope: float) -> None:
    """At d = 0, β = ½ each objective pulls the better response up by α_i β σ(0) = α_i / 4."""
    first = torch.zeros(1, requires_grad=True)
    second = torch.zeros(1, requires_grad=True)
    preference = torch.tensor([[0.7, 0.3]])
    options = losses([0.5, 0.5])
    objectives_loss(first, second, torch.tensor([verdicts]), preference, options).sum().backward()
    assert first.grad is not None and second.grad is not None
    assert (first.grad.item(), second.grad.item()) == pytest.approx((slope, -slope), abs=1e-5)


def test_the_preference_decides_where_objectives_disagree() -> None:
    """At d = 0 the slope is −β/2 (α_a − α_b) = −¼ · .4 = −.1 for (.7, .3), +.1 for (.3, .7)."""
    first = torch.zeros(2, requires_grad=True)
    preference = torch.tensor([[0.7, 0.3], [0.3, 0.7]])
    verdicts = torch.tensor([[1.0, 0.0]] * 2)
    options = losses([0.5, 0.5])
    objectives_loss(first, torch.zeros(2), verdicts, preference, options).sum().backward()
    assert first.grad is not None
    assert first.grad.tolist() == pytest.approx([-0.1, 0.1], abs=1e-5)


@pytest.mark.parametrize("difference", [1e4, -1e4])
def test_no_overflow(difference: float) -> None:
    """−10,000 nats cost β · 10,000 per objective that is wrong; gradients stay finite."""
    first = torch.tensor([difference], requires_grad=True)
    verdicts, preference = torch.tensor([[1.0, 0.0, NAN]]), torch.tensor([[0.5, 0.25, 0.25]])
    options = losses([1.0, 1.0, 1.0], None, 1.0)
    found = objectives_loss(first, torch.zeros(1), verdicts, preference, options)
    wrong = 0.25 if difference > 0 else 0.5  # and with λ = 1 once more
    assert found.item() == pytest.approx(2 * wrong * 1e4, rel=1e-5)
    found.sum().backward()
    assert first.grad is not None and math.isfinite(first.grad.item())


def test_hinge_and_margin_reach_every_objective() -> None:
    """max(0, 1 − (β d − γ)), β = ½, d = 2, γ = ½: .5 where the first is better, 2.5 where not."""
    found = of_two([1, 0], [0.7, 0.3], losses([0.5, 0.5], margin=0.5, loss_type="hinge"))
    assert found == pytest.approx(0.7 * 0.5 + 0.3 * 2.5, abs=1e-5)
