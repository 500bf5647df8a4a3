"""ARM against trajectory reward model: accuracy on every objective's human pairs, floors beside."""

from __future__ import annotations

from typing import Any

import numpy as np

from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.jobs import Job, Work
from trimtab.bench.tables.report import Report, cell, verdict
from trimtab.bench.tables.training import Accuracy, Floors, Train, accuracy_of, right_of
from trimtab.stats import Estimate, hierarchical

ROWS = {"genarm": "ARM", "trajectory": "trajectory reward model", "dpo": "ARM less its start (DPO)"}
"""Method -> its row. DPO's implicit reward is an ARM's less the log-probs of what it started from:
what it ranks better than an ARM does, the start's own log-probs cost."""
WAYS = tuple(ROWS)


def methods_of(config: TableConfig) -> list[str]:
    """The kinds of the table; ARM and trajectory model, which it compares, always are."""
    return config.rows(WAYS, "genarm", "trajectory")


def _name(method: str, objective: str, seed: int) -> str:
    return f"{method}-{objective}-{seed}"


def jobs(config: TableConfig) -> list[Job]:
    """Train each kind on each objective and seed, measure all on the same pairs."""
    models = [
        (_name(method, objective, seed), method, objective, seed)
        for objective in config.files
        for seed in range(config.seeds)
        for method in methods_of(config)
    ]
    return [
        *(Train(name, m, seed=seed, objective=objective) for name, m, objective, seed in models),
        *(Accuracy(f"accuracy {name}", name, objective) for name, _, objective, _ in models),
        *(Floors(f"floors {objective}", objective) for objective in config.files),
    ]


def of_seeds(work: Work, method: str, objective: str) -> Estimate:
    """A method's accuracy, mean over training seeds; the interval is over seeds and pairs."""
    return accuracy_of(work, *_names(work, method, objective))


def _names(work: Work, method: str, objective: str) -> list[str]:
    return [_name(method, objective, seed) for seed in range(work.config.seeds)]


def report(work: Work) -> Report:
    """A row per objective and kind."""
    lines: list[list[str]] = []
    claims: list[list[str]] = []
    for objective in work.config.files:
        found = {method: of_seeds(work, method, objective) for method in methods_of(work.config)}
        floors = floors_of(work, objective)
        for name, estimate in [*((ROWS[m], e) for m, e in found.items()), *floors.items()]:
            lines.append([objective, name, cell(estimate, 3), str(estimate.n)])
        claims += _claims(work, objective)
    config = work.config
    notes = [
        f"{config.pairs} pairs to train on, {config.seeds} training seeds with pairs of their own; "
        "n held-out pairs, the same for all. Intervals are 95 % bootstraps over seeds and pairs.",
    ]
    return Report("accuracy", ["", "", "accuracy", "n"], lines, notes, claims)


def floors_of(work: Work, objective: str) -> dict[str, Estimate]:
    """Trivial ways on the same pairs."""
    row: dict[str, Any] = dict(work.rows[f"floors {objective}"])
    return {name: Estimate(**value) for name, value in row.items() if isinstance(value, dict)}


def _claims(work: Work, objective: str) -> list[list[str]]:
    right_SN = {
        method: np.array(right_of(work, *_names(work, method, objective)))
        for method in methods_of(work.config)
    }
    claims = []
    for method in (name for name in right_SN if name != "trajectory"):
        gap = hierarchical(right_SN[method][:, None] - right_SN["trajectory"][None, :])
        told = f"{objective}: the {ROWS[method]} is within .02 of the trajectory model"
        claims.append([told, cell(gap, 3), verdict(gap, above=-0.02)])
    words = floors_of(work, objective).get("bag of words")
    if words is None:
        return claims
    for method in right_SN:
        found = of_seeds(work, method, objective)
        told = f"{objective}: the {ROWS[method]} beats a bag of words ({words.value:.3f})"
        claims.append([told, cell(found, 3), verdict(found, above=words.value)])
    return claims
