"""ARM against trajectory reward model: accuracy on every objective's human pairs, floors beside."""

from __future__ import annotations

from typing import Any

from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.jobs import Job, Work
from trimtab.bench.tables.report import Report, cell
from trimtab.bench.tables.training import Accuracy, Floors, Train
from trimtab.stats import Estimate, pooled

METHODS = ("genarm", "trajectory")
ROWS = {"genarm": "ARM", "trajectory": "trajectory reward model"}


def _name(method: str, objective: str, seed: int) -> str:
    return f"{method}-{objective}-{seed}"


def jobs(config: TableConfig) -> list[Job]:
    """Train both on each objective and seed, measure all on the same pairs."""
    found: list[Job] = []
    for objective in config.files:
        for seed in range(config.seeds):
            for method in METHODS:
                name = _name(method, objective, seed)
                found.append(Train(name, method, seed=seed, objective=objective))
                found.append(Accuracy(f"accuracy {name}", name, objective))
        found.append(Floors(f"floors {objective}", objective))
    return found


def of_seeds(work: Work, method: str, objective: str) -> Estimate:
    """A method's accuracy, mean over training seeds; the interval is over seeds and pairs."""
    rows = [
        work.rows[f"accuracy {_name(method, objective, seed)}"]
        for seed in range(work.config.seeds)
    ]
    return pooled([Estimate(**row["accuracy"]) for row in rows])


def report(work: Work) -> Report:
    """A row per objective and kind."""
    lines: list[list[str]] = []
    claims: list[list[str]] = []
    for objective in work.config.files:
        found = {method: of_seeds(work, method, objective) for method in METHODS}
        floors = _floors(work, objective)
        for name, estimate in [*((ROWS[m], e) for m, e in found.items()), *floors.items()]:
            lines.append([objective, name, cell(estimate, 3), str(estimate.n)])
        claims += _claims(objective, found, floors)
    config = work.config
    notes = [
        f"{config.pairs} pairs to train on, {config.seeds} training seeds with pairs of their own; "
        "n held-out pairs, the same for all. Intervals are 95 %, of the mean over seeds: Wilson's "
        "for the pairs, widened by how much the seeds differ.",
    ]
    return Report("accuracy", ["", "", "accuracy", "n"], lines, notes, claims)


def _floors(work: Work, objective: str) -> dict[str, Estimate]:
    row: dict[str, Any] = dict(work.rows[f"floors {objective}"])
    return {name: Estimate(**value) for name, value in row.items() if isinstance(value, dict)}


def _claims(
    objective: str, found: dict[str, Estimate], floors: dict[str, Estimate]
) -> list[list[str]]:
    arm, model = found["genarm"], found["trajectory"]
    gap = arm.value - model.value
    spread = ((arm.high - arm.low) ** 2 + (model.high - model.low) ** 2) ** 0.5 / 2
    low, high = gap - spread, gap + spread
    near = "confirmed" if low > -0.02 else "refuted" if high < -0.02 else "undecided"
    text = f"{gap:+.3f} [{low:+.3f}, {high:+.3f}]"
    claims = [[f"{objective}: the ARM is within .02 of the trajectory model", text, near]]
    if words := floors.get("bag of words"):
        for name, one in (("ARM", arm), ("trajectory model", model)):
            gap = one.value - words.value
            told = "confirmed" if one.low > words.value else "refuted" if gap < 0 else "undecided"
            claims.append([f"{objective}: the {name} is above a bag of words", f"{gap:+.3f}", told])
    return claims
