"""Preference losses on three made-up pairs. The maths stands in each docstring."""

from __future__ import annotations

import math

import pytest
import torch

from trimtab.arms.rewards import response_rewards
from trimtab.training.losses import LossOptions, preference_loss

CHOSEN = torch.tensor([-2.0, -5.0, -3.0])
REJECTED = torch.tensor([-4.0, -5.0, -1.0])  # differences 2, 0, −2 nats


def losses(**options: object) -> list[float]:
    found: list[float] = preference_loss(CHOSEN, REJECTED, LossOptions(**options)).tolist()  # type: ignore[arg-type]
    return found


def test_sigmoid() -> None:
    """−ln σ(β·d) = ln(1 + e^(−β·d)), with β = ½ and d = 2, 0, −2:

    ln(1 + e⁻¹) = ln 1.367879 = .313262
    ln(1 + e⁰)  = ln 2        = .693147
    ln(1 + e¹)  = ln 3.718282 = 1.313262
    """
    assert losses(beta=0.5) == pytest.approx([0.313262, 0.693147, 1.313262], abs=1e-5)


def test_the_default_is_genarm() -> None:
    """β = .05 makes .1, 0, −.1: ln(1 + e^−.1) = .644397, ln 2, ln(1 + e^.1) = .744397."""
    assert losses() == pytest.approx([0.644397, 0.693147, 0.744397], abs=1e-5)


def test_margin() -> None:
    """γ = 1 is taken off the scaled difference: 1 − 1, 0 − 1, −1 − 1 = 0, −1, −2.

    ln 2 = .693147, ln(1 + e) = 1.313262, ln(1 + e²) = ln 8.389056 = 2.126928
    """
    found = losses(beta=0.5, margin=1.0)
    assert found == pytest.approx([0.693147, 1.313262, 2.126928], abs=1e-5)


def test_label_smoothing() -> None:
    """A quarter of the labels flipped: ¾ of the loss and ¼ of the loss of the pair turned round.

    ¾ · .313262 + ¼ · 1.313262 = .563262; ln 2; ¾ · 1.313262 + ¼ · .313262 = 1.063262
    """
    found = losses(beta=0.5, label_smoothing=0.25)
    assert found == pytest.approx([0.563262, 0.693147, 1.063262], abs=1e-5)


def test_hinge() -> None:
    """max(0, 1 − β·d): with β = 1 and d = 2, 0, −2: max(0, −1) = 0, 1, 3."""
    assert losses(beta=1.0, loss_type="hinge") == [0, 1, 3]


def test_hinge_with_a_margin() -> None:
    """max(0, 1 − (½·d − ½)), ½·d = 1, 0, −1: .5, 1.5, 2.5."""
    assert losses(beta=0.5, margin=0.5, loss_type="hinge") == [0.5, 1.5, 2.5]


def test_gradient() -> None:
    """d/d r_chosen of −ln σ(β·d) is −β σ(−β·d): at d = 0, β = ½ it is −¼; r_rejected gets +¼."""
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    preference_loss(chosen, rejected, LossOptions(beta=0.5)).sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert (chosen.grad.item(), rejected.grad.item()) == (-0.25, 0.25)


def test_no_overflow() -> None:
    """A difference of −10,000 nats costs β·10,000, not infinity."""
    found = preference_loss(torch.tensor([-1e4]), torch.tensor([0.0]), LossOptions(beta=1.0))
    assert found.tolist() == [1e4]


LOGP = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0])
ROW = torch.tensor([0, 2, 0, 2, 2])


def test_rewards_are_sums() -> None:
    """Row 0 has −1 and −3, row 1 nothing, row 2 −2, −4 and −5."""
    assert response_rewards(LOGP, ROW, 3).tolist() == [-4, 0, -11]


def test_length_normalised_rewards_are_means() -> None:
    """−4 / 2, nothing, −11 / 3."""
    found = response_rewards(LOGP, ROW, 3, length_normalize=True).tolist()
    assert found == pytest.approx([-2, 0, -11 / 3], abs=1e-5)


def test_uniform_reference_dpo() -> None:
    """With a uniform reference over V tokens DPO's log-ratio is Σ log π + n·ln V: for responses of
    equal length n·ln V cancels, and the loss is GenARM's."""
    v, n, beta = 50, 3, 0.3
    policy = torch.tensor([[-1.0, -2.0, -0.5], [-2.0, -2.5, -1.0]])
    ratio = policy.sum(-1) + n * math.log(v)
    dpo = -math.log(1 / (1 + math.exp(-beta * float(ratio[0] - ratio[1]))))
    rewards = response_rewards(policy.flatten(), torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    ours = preference_loss(rewards[:1], rewards[1:], LossOptions(beta=beta))
    assert ours.item() == pytest.approx(dpo, rel=1e-5)
