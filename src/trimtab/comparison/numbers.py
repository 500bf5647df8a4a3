"""A comparison in numbers: win rates of each judge, and what each side's answers are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.comparison.length import RESAMPLES, length_controlled
from trimtab.comparison.sides import Meeting
from trimtab.comparison.texts import by_prompt, side_facts
from trimtab.comparison.verdicts import Judged, SideScores
from trimtab.stats import Estimate, hierarchical

Array = NDArray[np.float64]


def comparison_numbers(
    meeting: Meeting,
    judged: Sequence[Judged],
    nll: Judged | None = None,
    *,
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    """Everything that is reported, as `results.json` holds it.

    Args:
        meeting: the sides.
        judged: the judges' verdicts.
        nll: the base's negative log-likelihoods, where they were asked for.
        seed: of the resampling.
        resamples: of the bootstrap.
    """
    how = {"seed": seed, "resamples": resamples}
    nlls = (nll.scores_a, nll.scores_b) if nll else (None, None)
    return {
        "command": "compare",
        "prompts": meeting.prompts,
        "answers": len(meeting.prompt_of),
        "pairs": len(meeting.pairs()),
        "seeds_meet": "each its own" if meeting.by_seed else "all",
        **how,
        "judges": {one.name: _of_judge(meeting, one, **how) for one in judged},
        "sides": {
            side.name: {
                "files": list(side.files),
                "answers": len(side.every()),
                **_as_json(
                    {
                        **side_facts(side, meeting.prompt_of, **how),
                        "base_nll": _mean_score(meeting, scores, **how) if scores else None,
                    }
                ),
            }
            for side, scores in zip((meeting.a, meeting.b), nlls, strict=True)
        },
        "answers_sha256": meeting.sha256(),
    }


def _of_judge(meeting: Meeting, judged: Judged, *, seed: int, resamples: int) -> dict[str, Any]:
    """One judge's win rates, and its scores where it gives some."""
    verdicts = _array(judged.verdicts)

    def over(values: Array, *, shares: bool = True) -> Estimate:
        return hierarchical(_cells(meeting, values), seed=seed, resamples=resamples, shares=shares)

    there = ~np.isnan(verdicts)
    outcomes = {
        name: over(np.where(there, np.sign(verdicts - 0.5) == side, np.nan))
        for name, side in (("win", 1), ("tie", 0), ("lose", -1))
    }
    controlled = length_controlled(
        verdicts,
        np.array([len(pair.a.response) - len(pair.b.response) for pair in meeting.pairs()]) * 1.0,
        cells_of(meeting),
        meeting.shape,
        seed=seed,
        resamples=min(resamples, RESAMPLES),
    )
    found: dict[str, Estimate | None] = {
        **outcomes,
        "win_and_half_tie": over(verdicts),
        "length_controlled": controlled.rate,
    }
    if judged.scores_a is not None and judged.scores_b is not None:
        found |= _of_scores(meeting, judged.scores_a, judged.scores_b, seed, resamples)
    if judged.orders is not None:
        known = judged.orders
        found["orders_disagree"] = over(_array([None if v is None else not v.agree for v in known]))
        found["first_shown"] = over(_array([v.first_shown if v else None for v in known]))
    return {
        **_as_json(found),
        **(judged.facts or {}),
        "length_controlled_missing_because": controlled.why,
        "cost": judged.cost,
        "missing": int((~there).sum()),
    }


def _of_scores(
    meeting: Meeting, a: SideScores, b: SideScores, seed: int, resamples: int
) -> dict[str, Estimate]:
    """Mean scores of the sides, and of A less B."""
    first, second = (np.array([_array(own) for own in side]) for side in (a, b))
    gaps = [first[p.seed_a, p.slot] - second[p.seed_b, p.slot] for p in meeting.pairs()]
    cells = _cells(meeting, np.array(gaps))
    return {
        "score_a": _mean_score(meeting, a, seed=seed, resamples=resamples),
        "score_b": _mean_score(meeting, b, seed=seed, resamples=resamples),
        "score_difference": hierarchical(cells, seed=seed, resamples=resamples),
    }


def _mean_score(meeting: Meeting, scores: SideScores, *, seed: int, resamples: int) -> Estimate:
    """Mean of one side's scores, [seeds, slots]."""
    cells = by_prompt(np.array([_array(own) for own in scores]), meeting.prompt_of)
    return hierarchical(cells, seed=seed, resamples=resamples)


def cells_of(meeting: Meeting) -> NDArray[np.int64]:
    """Which cell of `Meeting.shape`, flattened, each pair belongs to."""
    slots, prompts = len(meeting.prompt_of), meeting.prompts
    seeds = np.arange(len(meeting.pairs())) // slots  # pairs of seeds, in the order of the cells
    cells: NDArray[np.int64] = seeds * prompts + np.tile(meeting.prompt_of, len(seeds) // slots)
    return cells


def _cells(meeting: Meeting, values: Array) -> Array:
    """Values of all pairs as cells: a prompt's answers averaged."""
    rows = values.reshape(-1, len(meeting.prompt_of))
    return by_prompt(rows, meeting.prompt_of).reshape(meeting.shape)


def _array(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _as_json(found: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {name: asdict(one) if one and one.n else None for name, one in found.items()}
