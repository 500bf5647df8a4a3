"""A calibration for readers: its table, calibration.json and the picture of its curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimtab.calibration.curve import CurvePoint, off_target
from trimtab.calibration.plan import Calibration, Plan
from trimtab.data.prompts import prompts_sha256
from trimtab.evaluation.made_with import made_with
from trimtab.evaluation.plots import BLUE, GREY, ORANGE, error_bars
from trimtab.files import storage_errors, whole_directory, write_json
from trimtab.scoring.model_scorer import model_identity
from trimtab.stats import Estimate

NUMBERS, PICTURE = "calibration.json", "calibration.png"


def facts_of(plan: Plan) -> dict[str, Any]:
    """What a calibration's numbers depend on, and what they were made with."""
    sampling = plan.sampling.written()
    models = plan.guide.models if plan.guide else {"arm": plan.arm}
    return {
        "base": plan.base,
        "arm": plan.arm or None,
        "guide": asdict(plan.guide) if plan.guide else None,
        "name": plan.name,
        "weights": {name: model_identity(m) for name, m in {"base": plan.base, **models}.items()},
        "preferences": [dict(point) for point in plan.preferences],
        "objective": plan.objective if plan.scorer else None,
        "scorer": dict(plan.scorer.identity) if plan.scorer else None,
        "prompts": len(plan.prompts),
        "prompts_sha256": prompts_sha256(plan.prompts),
        "sampling": sampling,
        "prompt_format": plan.loading["prompt_format"],
        "dtype": plan.loading["dtype"],
        "resamples": plan.resamples,
        "made_with": made_with(plan.loading["device"], plan.batch_size),
    }


def as_json(measured: Calibration) -> dict[str, Any]:
    """Everything that was found, as `calibration.json` holds it."""
    return {
        "command": "calibrate",
        "goal": asdict(measured.goal),
        "scale": measured.scale,
        "scale_before": measured.scale_before,
        "saved": measured.saved,
        "chosen": asdict(measured.chosen) if measured.chosen else None,
        "curve": [asdict(point) for point in measured.curve],
        **measured.facts,
    }


def write_calibration(folder: Path, measured: Calibration) -> None:
    """Write the numbers and the picture."""
    with whole_directory(folder) as staging:
        write_json(staging / NUMBERS, as_json(measured))
        curve_plot(staging / PICTURE, measured)


def columns(measured: Calibration) -> list[str]:
    """Headings of the table."""
    scored = [str(measured.facts["objective"])] if measured.facts["scorer"] else ["reward"]
    return ["strength", *scored, "KL", "base NLL", "loops", "tokens"]


def rows(measured: Calibration) -> list[list[str]]:
    """A row per strength; the one that was taken is marked."""
    worths = [point.score or point.reward for point in measured.curve]
    largest = max(abs(end) for worth in worths for end in (worth.low, worth.high))
    digits = 2 if largest < 100 else 0
    return [
        [
            f"{point.strength:g}" + (" *" if point is measured.chosen else ""),
            _cell(worth, digits),
            _cell(point.kl, 3),
            _cell(point.base_nll, 2),
            f"{100 * point.loops.value:.0f} %",
            f"{point.tokens:.0f}",
        ]
        for point, worth in zip(measured.curve, worths, strict=True)
    ]


def _cell(estimate: Estimate, digits: int) -> str:
    ends = (round(x, digits) + 0.0 for x in (estimate.value, estimate.low, estimate.high))  # no −0
    value, low, high = (f"{x:.{digits}f}" for x in ends)
    return f"{value} [{low}, {high}]"


def notes(measured: Calibration) -> list[str]:
    """What the numbers rest on, a sentence or two each."""
    facts, chosen = measured.facts, measured.chosen
    several = len(facts["preferences"])
    said = [
        f"n = {facts['prompts']} prompts"
        + (f" at {several} one-hot preferences" if several > 1 else "")
        + f", seed {facts['sampling']['seed']} (the same at every strength); means over prompts, "
        f"95 % intervals from {facts['resamples']} bootstrap resamples of them. KL, base NLL and "
        f"reward ({_reward(measured)}) in nats per generated token. Loops: answers more than half "
        "of whose 4-grams repeat.",
    ]
    if measured.scale_before != 1:
        said.append(
            f"The ARM came with scale {measured.scale_before:g}; "
            "strengths here count as if it were 1."
        )
    if missing := sum(point.missing for point in measured.curve):
        said.append(f"{missing} answers got no score and do not count.")
    return said + (_about(chosen, measured) if chosen else [])


def _reward(measured: Calibration) -> str:
    if measured.arm:
        return "the ARM's log-prob"
    return "the guide's log-prob less its reference's"


def _about(chosen: CurvePoint, measured: Calibration) -> list[str]:
    target = measured.goal.target_kl
    if target is None:
        said = [f"Strength {chosen.strength:g} has the best mean {measured.facts['objective']}."]
        if chosen is measured.curve[-1]:
            said.append(
                "It is the largest that was tried: a larger one may do better (--strengths)."
            )
        return said
    off = off_target(chosen, target)
    if off <= measured.goal.tolerance:
        return [f"Strength {chosen.strength:g} has a KL within {100 * off:.1f} % of {target:g}."]
    return [
        f"Strength {chosen.strength:g} has the KL nearest to {target:g}, {100 * off:.0f} % off: it "
        "jumps between neighbours; more prompts make it smoother."
    ]


def curve_plot(path: Path, measured: Calibration) -> None:
    """Draw score or reward, KL and base NLL against strength, a panel each, with 95 % intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = measured.facts["scorer"] is not None
    better = "lower" if measured.goal.cost else "higher"
    head = f"{measured.facts['objective']}\n({better} is better)" if scored else "guide's reward"
    panels: list[tuple[str, list[Estimate]]] = [
        (head if scored else f"{head}\n(nats per token)",
         [point.score or point.reward for point in measured.curve]),
        ("KL from the base\n(nats per token)", [point.kl for point in measured.curve]),
        ("base NLL\n(nats per token)", [point.base_nll for point in measured.curve]),
    ]  # fmt: skip
    figure = Figure(figsize=(7.2, 6.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    drawn = figure.subplots(len(panels), 1, sharex=True)
    at = [point.strength for point in measured.curve]
    for axes, (label, estimates) in zip(drawn, panels, strict=True):
        _panel(axes, at, estimates, label)
        if measured.chosen:
            axes.axvline(measured.chosen.strength, color=ORANGE, linewidth=1.2, zorder=1)
    if measured.goal.target_kl is not None:
        drawn[1].axhline(measured.goal.target_kl, color=GREY, linestyle="--", linewidth=1.0)
        drawn[1].annotate(f"target {measured.goal.target_kl:g}", (1, measured.goal.target_kl),
            xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
            ha="right", fontsize=8.5, color=GREY)  # fmt: skip
    stored = " (as if no scale were stored)" if measured.arm else ""
    drawn[-1].set_xlabel(f"strength{stored}")
    figure.suptitle(_title(measured), fontsize=11)
    with storage_errors(path):
        figure.savefig(path)


def _title(measured: Calibration) -> str:
    facts = measured.facts
    n = f"{facts['prompts']} prompts, seed {facts['sampling']['seed']}, 95 % intervals"
    if measured.chosen is None:
        return f"{facts['name']}: no strength will do; {n}"
    return f"{facts['name']}: strength {measured.chosen.strength:g} taken (orange); {n}"


def _panel(axes: Any, at: Sequence[float], estimates: Sequence[Estimate], label: str) -> None:
    axes.errorbar(at, [e.value for e in estimates], yerr=error_bars(estimates), color=BLUE,
        marker="o", markersize=4, linewidth=1.3, ecolor=(BLUE, 0.4), elinewidth=0.9)  # fmt: skip
    axes.set_ylabel(label, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
