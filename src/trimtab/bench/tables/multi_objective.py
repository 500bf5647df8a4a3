"""Several objectives on a real model: fronts of one ARM per objective, one for all, soups, MOD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.jobs import Job, Work
from trimtab.bench.tables.judging import JUDGE, LEAST, may_claim
from trimtab.bench.tables.report import Report, cell, verdict
from trimtab.bench.tables.sweeping import (
    FRONT,
    JUDGES,
    MOD,
    PARM,
    SEARCH,
    SEARCHERS,
    SOUP,
    TOLD,
    UNIARM,
    Front,
    Strengths,
)
from trimtab.bench.tables.training import Accuracy, Train, accuracy_of
from trimtab.bench.tables.ways import GENARM, ITSELF
from trimtab.engines.policies import require_share
from trimtab.entries import parse_descriptions
from trimtab.errors import ConfigError
from trimtab.fronts import measures
from trimtab.fronts.guides import BASE
from trimtab.fronts.lattice import lattice_size
from trimtab.fronts.measures import Array
from trimtab.fronts.numbers import reference_point, scale_of
from trimtab.stats import Estimate, hierarchical_of

WAYS = (GENARM, SOUP, PARM, UNIARM, MOD, TOLD, ITSELF)
ROWS = {
    BASE: "base",
    GENARM: "GenARM, one ARM per objective",
    SOUP: "rewarded soup of the GenARM LoRAs",
    PARM: "PARM",
    UNIARM: "UniARM (reconstruction)",
    MOD: "MOD of DPO policies",
    TOLD: "instructions, untrained",
    ITSELF: "the base guided by itself (control)",
}
TRAINED: dict[str, tuple[str, ...]] = {
    GENARM: ("genarm",),
    PARM: ("parm",),
    UNIARM: ("uniarm",),
    MOD: ("dpo",),
}
TRAINED |= {SOUP: TRAINED[GENARM], TOLD: (), ITSELF: ()}
"""Guide -> methods of its trainings."""
TOGETHER = (PARM, UNIARM)
"""Methods that train one model for all objectives."""
EXPECTED = ((GENARM, ITSELF), (PARM, GENARM), (UNIARM, GENARM), (UNIARM, PARM))
"""What is expected to be ahead of what."""


def jobs(config: TableConfig) -> list[Job]:
    """Train the judges and the guides, choose strengths, sweep.

    Raises:
        ConfigError: options that cannot give a front.
    """
    _require_possible(config)
    found: list[Job] = [
        Train(f"{JUDGES}/{name}", "trajectory", part="judge", pairs=config.judge_pairs,
              objective=name, kind=JUDGE, of=JUDGE)
        for name in config.files
    ]  # fmt: skip
    if config.tried:
        found += [
            Train(f"{SEARCHERS}/{name}", "trajectory", objective=name) for name in config.files
        ]
    for seed in range(config.seeds):
        for method in dict.fromkeys(m for guide in guides(config) for m in TRAINED[guide]):
            found += _trainings(config, method, seed)
    for models in (JUDGES, SEARCHERS) if config.tried else (JUDGES,):
        found += [
            Accuracy(f"accuracy {models}/{name}", f"{models}/{name}", name) for name in config.files
        ]
    if config.tried:
        tried = {guide: [v for _, v in settings] for guide, settings in config.tried.items()}
        found.append(Strengths({g: v for g, v in tried.items() if g in guides(config)}))
    return [*found, Front(guides(config))]


def guides(config: TableConfig) -> list[str]:
    """Rows of the table, the one that others are compared with first."""
    return [GENARM, *(way for way in config.methods or WAYS if way != GENARM)]


def _require_possible(config: TableConfig) -> None:
    if len(config.files) < 2:
        raise ConfigError("one objective makes no front", "give --data for two or more")
    lattice_size(len(config.files), config.preference_step)
    described = parse_descriptions(config.describe)
    for name in config.files:
        if UNIARM in guides(config) and name not in described:
            hint = f'write --describe {name}="what it means"'
            raise ConfigError(f"UniARM wants a description of {name!r}", hint)
    for guide, settings in config.tried.items():
        for option, value in settings:
            if option != "strength" or guide == ITSELF:
                raise ConfigError(f"--search tries {option} of {guide}", "strengths are tried here")
            require_share(value, [guide] if guide == MOD else [], f"the policies of {MOD}")


def _trainings(config: TableConfig, method: str, seed: int) -> list[Job]:
    if method in TOGETHER:
        every = ",".join(config.files)
        return [Train(f"{method}-{seed}", method, seed=seed, objective=every)]
    return [
        Train(f"{method}-{seed}/{name}", method, seed=seed, objective=name) for name in config.files
    ]


class Fronts:
    """Numbers of a sweep from its scores, with intervals over training seeds and prompts.

    Axes: S seeds, T seeds of another guide, P preferences, N prompts, K objectives. Scores are in
    standard deviations of the base's own answers, as `pareto` has them.
    """

    def __init__(self, row: Mapping[str, Any], objectives: Sequence[str]) -> None:
        raw = {name: np.array(scores, dtype=float) for name, scores in row["scores"].items()}
        scale = scale_of(raw[BASE], np.ones(len(objectives)), "base")
        self._scores = {name: scale.common(scores) for name, scores in raw.items()}
        self._weights_PK = np.array([[p[name] for name in objectives] for p in row["preferences"]])
        points = {name: scores.mean(axis=(0, 2)) for name, scores in self._scores.items()}
        self._worst_K = reference_point("worst", points, scale, objectives)

    def hypervolume(self, guide: str, weights_SN: Array) -> float:
        """Above the worst point of the whole sweep."""
        return measures.hypervolume(self._points(guide, weights_SN), self._worst_K)

    def mip(self, guide: str, weights_SN: Array) -> float:
        """Mean inner product of preference and scores."""
        return measures.mean_inner_product(self._points(guide, weights_SN), self._weights_PK)

    def of(self, measure: str, guide: str) -> Estimate:
        """`hypervolume` or `mip` of a guide."""
        number = getattr(self, measure)
        found = hierarchical_of(lambda weights: number(guide, weights), self._shape)
        return replace(found, low=max(found.low, 0.0)) if measure == "hypervolume" else found

    def gap(self, measure: str, one: str, other: str) -> Estimate:
        """How far one guide is ahead; each side's seeds are drawn for themselves."""
        number, (seeds, prompts) = getattr(self, measure), self._shape

        def difference(weights_STN: Array) -> float:
            left, right = weights_STN.sum(axis=1), weights_STN.sum(axis=0)
            return float(number(one, left) - number(other, right))

        return hierarchical_of(difference, (seeds, seeds, prompts))

    @property
    def _shape(self) -> tuple[int, int]:
        seeds, _, prompts, _ = self._scores[BASE].shape
        return seeds, prompts

    def _points(self, guide: str, weights_SN: Array) -> Array:
        scores_SPNK = self._scores[guide]
        points: Array = np.einsum("sn,spnk->pk", weights_SN, scores_SPNK) / weights_SN.sum()
        return points


def report(work: Work) -> Report:
    """A row per guide: hypervolume, mean inner product, what it was trained and answers in."""
    row = work.rows[FRONT]
    fronts = Fronts(row, list(work.config.files))
    lines = []
    for guide in (BASE, *guides(work.config)):
        first = guide == GENARM
        lines.append(
            [
                ROWS[guide],
                cell(fronts.of("hypervolume", guide)),
                "–" if first else cell(fronts.gap("hypervolume", guide, GENARM)),
                cell(fronts.of("mip", guide)),
                "–" if first else cell(fronts.gap("mip", guide, GENARM)),
                "–" if guide == BASE else f"{row['strengths'][guide]:g}",
                "–" if guide == BASE else f"{_training(work, guide):.0f}",
                f"{row['ms_per_token'][guide]:.1f}",
                f"{row['answering'][guide]:.0f}",
            ]
        )
    columns = ["", "HV", "HV − GenARM", "MIP", "MIP − GenARM", "strength", "training, s"]
    columns += ["ms per token", "answering, s"]
    title = f"multi-objective: {', '.join(work.config.files)}"
    return Report(title, columns, lines, _notes(work), _claims(work, fronts), _head(work))


def _training(work: Work, guide: str) -> float:
    """Seconds of all trainings of a guide, mean over seeds."""
    names = [
        job.name
        for seed in range(work.config.seeds)
        for method in TRAINED[guide]
        for job in _trainings(work.config, method, seed)
    ]
    return sum(float(work.rows[name]["train_seconds"]) for name in names) / work.config.seeds


def _judges(work: Work) -> list[str]:
    return [f"{JUDGES}/{name}" for name in work.config.files]


def _claims(work: Work, fronts: Fronts) -> list[list[str]]:
    allowed = all(may_claim(work, judge) for judge in _judges(work))
    told = {"hypervolume": "hypervolume", "mip": "mean inner product"}
    claims = []
    for one, other in EXPECTED:
        if one in guides(work.config) and other in guides(work.config):
            for measure, shown in told.items():
                gap = fronts.gap(measure, one, other)
                found = verdict(gap, above=0.0, allowed=allowed)
                claims.append([f"{_short(one)} beats {_short(other)} in {shown}", cell(gap), found])
    return claims


def _short(guide: str) -> str:
    return ROWS[guide].partition(",")[0].partition(" (")[0]


def _head(work: Work) -> str:
    found = [
        f"{accuracy_of(work, judge)} ({name})"
        for name, judge in zip(work.config.files, _judges(work), strict=True)
    ]
    allowed = all(may_claim(work, judge) for judge in _judges(work))
    told = "so wins may be claimed" if allowed else "so no win is claimed"
    return (
        f"The judges rank {', '.join(found)} of held-out human pairs right, {told} "
        f"(they may where every lower bound is {LEAST} or more)."
    )


def _notes(work: Work) -> list[str]:
    config, row = work.config, work.rows[FRONT]
    said = [
        f"n = {row['n']} prompts, {len(row['preferences'])} preferences, {config.seeds} training "
        f"seeds with {config.pairs} pairs an objective, each pair judged on its own objective "
        f"alone; {config.max_new_tokens} tokens an answer at temperature 1. Intervals are 95 % "
        "bootstraps over prompts and, where there are several, training seeds.",
        "HV: hypervolume above the worst mean of all; with few prompts it comes out too large. "
        "MIP: mean inner product of preference and scores, which does not. Both in standard "
        "deviations of the base's own answers. MOD's strength is its share, 1 at most.",
        "The control has the base itself in the place of GenARM's ARMs, at their strength: what it "
        "gains comes of sharpening alone.",
    ]
    if SEARCH not in work.rows:
        return [*said, "No strength was searched: all are 1."]
    right = ", ".join(f"{accuracy_of(work, f'{SEARCHERS}/{n}')} ({n})" for n in config.files)
    return [
        *said,
        f"Each strength has the largest hypervolume of those tried on {work.rows[SEARCH]['n']} "
        "validation prompts with the first seed, scored by reward models of the guides' own pairs, "
        f"which are no judges (they rank {right} right).",
    ]
