"""The share of the gap to DPO, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from trimtab.bench.tables.gap import reward_gains, share_of_gap, win_gains

BASE = np.array([[0.0, 1.0, 0.0, 1.0]])
DPO = np.array([[2.0, 3.0, 2.0, 4.0]])  # gains 2, 2, 2 and 3: 2.25 in the mean
ONE = np.array([[1.0, 3.0, -1.0, 1.0]])  # gains 1, 2, -1 and 0: .5


def test_by_hand() -> None:
    found = share_of_gap(reward_gains(ONE, BASE), reward_gains(DPO, BASE))
    assert found is not None and found.value == pytest.approx(0.5 / 2.25) and found.n == 4
    assert found.low < found.value < found.high
    wins = share_of_gap(win_gains(ONE, BASE), win_gains(DPO, BASE))
    assert wins is not None and wins.value == pytest.approx((0.625 - 0.5) / (1 - 0.5))  # 2½ of 4


def test_all_seeds_meet() -> None:
    """Two seeds each: mean gains over all meetings, 1.5 of 3.5."""
    base, dpo = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[3.0, 4.0], [5.0, 4.0]])
    one = np.array([[2.0, 1.0], [2.0, 3.0]])
    found = share_of_gap(reward_gains(one, base), reward_gains(dpo, base))
    assert found is not None and found.value == pytest.approx(1.5 / 3.5)


def test_no_gap_no_share() -> None:
    """Above the base in the mean (½), and not beyond the interval."""
    same = np.array([[3.0, 0.0, 0.0, 1.0]])
    assert share_of_gap(reward_gains(ONE, BASE), reward_gains(same, BASE)) is None
    assert share_of_gap(win_gains(ONE, BASE), win_gains(BASE, BASE)) is None


@examples(20)
@given(st.lists(st.floats(0.5, 2), min_size=3, max_size=8), st.floats(0.1, 10))
def test_a_part_of_dpo_is_that_part(gains: list[float], part: float) -> None:
    """Of every prompt the same part: in each resample, too."""
    dpo = np.array([[gains]])
    found = share_of_gap(part * dpo, dpo)
    assert found is not None
    assert [found.low, found.value, found.high] == pytest.approx([part] * 3)
