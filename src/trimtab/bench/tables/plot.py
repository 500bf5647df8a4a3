"""A table's picture."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.bench.tables import (
    accuracy_table,
    alignment,
    sweeping,
    training_table,
    ways,
    weak_to_strong,
)
from trimtab.bench.tables.jobs import Work
from trimtab.bench.tables.training import accuracy_of
from trimtab.evaluation.plots import BLUE, GREY, ORANGE, Point, error_bars, tradeoff_plot
from trimtab.files import storage_errors
from trimtab.fronts.sweep import PICTURE
from trimtab.stats import Estimate, hierarchical


def draw(path: Path, table: str, work: Work) -> None:
    """Draw what a table is about."""
    _DRAWN[table](path, work)


def _alignment(path: Path, work: Work) -> None:
    """Reward against base NLL: GenARM's strengths as a curve, everything else as points."""

    def point(label: str, way: str) -> Point:
        nll = alignment.numbers_of(work, way, "base_nll")
        assert nll is not None
        return Point(label, nll, hierarchical(alignment.scores_of(work, way)))

    rows = [w for w in alignment.rows_of(work.config) if w not in (ways.BASE, ways.GENARM)]
    tradeoff_plot(
        path,
        [point(f"{w:g}", f"{ways.GENARM}@{w:g}") for w in alignment.GRID],
        point("base", ways.BASE),
        title="Reward against base NLL; the line is GenARM by strength",
        x_label="base NLL of the answers (nats per token)",
        y_label=f"judge's reward ({work.config.objective})",
        controls=[point(way, way) for way in rows],
    )


def _latency(path: Path, work: Work) -> None:
    timed = work.rows["timed"]["timed"]
    medians = {way: float(np.median(seconds)) for way, seconds in timed.items()}
    _bars(path, medians, f"seconds for {work.config.max_new_tokens} tokens", log=True)


def _accuracy(path: Path, work: Work) -> None:
    found: dict[str, Estimate] = {}
    for objective in work.config.files:
        for method in accuracy_table.methods_of(work.config):
            shown = accuracy_table.ROWS[method]
            found[f"{objective}: {shown}"] = accuracy_table.of_seeds(work, method, objective)
        for name, floor in accuracy_table.floors_of(work, objective).items():
            found[f"{objective}: {name}"] = floor
    _dots(path, found, "share of held-out pairs ranked right")


def _training(path: Path, work: Work) -> None:
    found = {
        f"{size} pairs: {shown}": accuracy_of(work, f"{method}-{size}")
        for size in training_table.sizes(work.config)
        for method, shown in training_table.METHODS.items()
    }
    _dots(path, found, "share of held-out pairs ranked right")


def _multi_objective(path: Path, work: Work) -> None:
    with storage_errors(path):
        shutil.copyfile(work.folder / sweeping.FRONT / PICTURE, path)


def _weak_to_strong(path: Path, work: Work) -> None:
    won = weak_to_strong.wins(work)
    _dots(path, won, "win + ½ tie against the base")


def _figure(rows: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 1.2 + 0.3 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bars(path: Path, values: dict[str, float], label: str, *, log: bool = False) -> None:
    figure, axes = _figure(len(values))
    at = range(len(values), 0, -1)
    colors = [ORANGE if name == ways.GENARM else BLUE for name in values]
    axes.barh(list(at), list(values.values()), color=colors, height=0.62)
    for y, value in zip(at, values.values(), strict=True):
        axes.annotate(f" {value:.1f}", (value, y), va="center", fontsize=8)
    axes.set_yticks(list(at), list(values), fontsize=8)
    axes.set_xscale("log" if log else "linear")
    axes.set_xlabel(label)
    axes.margins(x=0.12)
    with storage_errors(path):
        figure.savefig(path)


def _dots(path: Path, values: dict[str, Estimate], label: str) -> None:
    figure, axes = _figure(len(values))
    at = list(range(len(values), 0, -1))
    found = list(values.values())
    bars = error_bars(found)
    axes.errorbar([e.value for e in found], at, xerr=bars, fmt="o", color=BLUE, elinewidth=1)
    axes.set_yticks(at, list(values), fontsize=8)
    axes.axvline(0.5, color=GREY, linewidth=0.8)
    axes.set_xlabel(f"{label}, with 95 % intervals")
    axes.grid(axis="x", alpha=0.25)
    with storage_errors(path):
        figure.savefig(path)


_DRAWN: dict[str, Callable[[Path, Work], None]] = {
    "alignment": _alignment,
    "latency": _latency,
    "accuracy": _accuracy,
    "training": _training,
    "multi-objective": _multi_objective,
    "weak-to-strong": _weak_to_strong,
}
