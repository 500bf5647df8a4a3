"""The length-controlled win rate of AlpacaEval 2.0 (Dubois et al. 2024, arXiv 2404.04475)."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.stats import Estimate, hierarchical_of

Array = NDArray[np.float64]

C = 100.0  # AlpacaEval's own; weighs the length term's weight like a prior of standard deviation 10
RESAMPLES = 500  # a fit each


@dataclass(frozen=True)
class LengthControlled:
    """A win rate as if both sides' answers were equally long.

    Attributes:
        rate: None where the pairs cannot tell.
        why: they cannot; "" where they can.
    """

    rate: Estimate | None
    why: str = ""


def length_controlled(
    verdicts: Array,
    differences: Array,
    cells: NDArray[np.int64],
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> LengthControlled:
    """Estimate the win rate at equal lengths, with its interval over training seeds and prompts.

    A logistic regression of the verdicts (soft labels through weights) on an intercept and
    tanh(d / s), d the difference of the lengths in characters and s its standard deviation; the
    rate is what it predicts at d = 0. The length term's weight is regularised as lightly as
    AlpacaEval's (C = 100), so that verdicts which length parts without an exception have an answer;
    the intercept is not. The paper's term for the difficulty of each instruction is left out: it
    is fitted on many models' answers.

    Args:
        verdicts: [pairs], 1, ½ or 0; NaN where there is none.
        differences: [pairs], A's length less B's.
        cells: [pairs], which cell of `shape`, flattened, a pair belongs to.
        shape: seeds, or those of A and of B, and last prompts; each cell counts the same.
        seed: of the resampling.
        resamples: of the bootstrap.

    Returns:
        No rate where all verdicts are alike and whole, or where one side's answers are longer in
        every pair: then length and merit cannot be told apart.
    """
    known = ~np.isnan(verdicts)
    verdicts, differences, cells = verdicts[known], differences[known], cells[known]
    if why := _why_not(verdicts, differences):
        return LengthControlled(None, why)
    scale = float(differences.std())
    lengths = np.tanh(differences / scale) if scale else np.zeros(len(differences))
    each = 1.0 / np.bincount(cells, minlength=math.prod(shape))[cells]

    def rate(weights: Array) -> float:
        return _rate(verdicts, lengths, weights.reshape(-1)[cells] * each)

    found = hierarchical_of(rate, shape, seed=seed, resamples=resamples)
    prompts = len(np.unique(cells % shape[-1]))
    return LengthControlled(
        Estimate(found.value, max(0.0, found.low), min(1.0, found.high), prompts)
    )


def _why_not(verdicts: Array, differences: Array) -> str:
    if not len(verdicts):
        return "there is no verdict"
    if (verdicts == verdicts[0]).all() and verdicts[0] in (0, 1):
        return f"{'A' if verdicts[0] else 'B'} wins every pair"
    if (differences > 0).all() or (differences < 0).all():
        return f"{'A' if differences[0] > 0 else 'B'} is longer in every pair"
    return ""


def _rate(verdicts: Array, lengths: Array, weights: Array) -> float:
    """The regression's prediction at equal lengths; NaN where nothing has a weight."""
    from sklearn.linear_model import LogisticRegression

    won, lost = verdicts * weights, (1 - verdicts) * weights
    if not won.sum() or not lost.sum():  # no finite intercept: the limit
        return float(won.sum() > 0) if won.sum() + lost.sum() else math.nan
    if (won == lost).all():  # ties alone: a solver that starts at the answer finds no way down
        return 0.5
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-6)
    with warnings.catch_warnings():  # at an optimum from the start it searches no further, or
        warnings.filterwarnings("ignore", "Line search of Newton")  # goes on with L-BFGS
        model.fit(
            np.concatenate([lengths, lengths])[:, None],
            np.repeat([1, 0], len(verdicts)),
            sample_weight=np.concatenate([won, lost]),
        )
    return float(1 / (1 + math.exp(-float(model.intercept_[0]))))
