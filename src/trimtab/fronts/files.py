"""What a sweep leaves in its folder beside the responses: manifest, records, numbers, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.evaluation.made_with import made_with
from trimtab.files import write_json, write_text
from trimtab.fronts import table
from trimtab.fronts.guides import BASE
from trimtab.fronts.numbers import Design
from trimtab.fronts.plot import FrontLine, front_plot
from trimtab.fronts.sweep import FRONT, MANIFEST, PICTURE, RECORDS, RESPONSES, SCORES, TABLE, Sweep
from trimtab.scoring.score_files import Answer, Scores, read_jsonl
from trimtab.scoring.scorer import Scorer
from trimtab.stats import Estimate


def answers_of(folder: Path) -> Iterator[Answer]:
    """The responses of a sweep, to be scored."""
    for number, row in enumerate(read_jsonl(folder / RESPONSES), 1):
        place = f"row {number} of {RESPONSES} ({row['guide']})"
        yield Answer(row["prompt"], row["response"], place)


def forget_results(folder: Path) -> None:
    """Remove what was made of other scores."""
    for name in (RECORDS, FRONT, TABLE, PICTURE):
        (folder / name).unlink(missing_ok=True)


def forget_scores(folder: Path) -> None:
    """Remove what was made of other responses: scores, whatever rated them, and results."""
    for settings in folder.glob(SCORES.format("*") + ".job.json"):
        settings.with_name(settings.name.removesuffix(".job.json")).unlink(missing_ok=True)
        settings.unlink()
    forget_results(folder)


def write_manifest(
    folder: Path,
    sweep: Sweep,
    design: Design,
    scorers: Mapping[str, Scorer],
    left_out: Mapping[str, int],
    *,
    answering: bool,
) -> None:
    """Write what the folder's rows were made from and with.

    Args:
        folder: of the sweep.
        sweep: what is swept.
        design: the same, as numbers need it.
        scorers: objective -> scorer.
        left_out: reason -> rows of the prompt file that were not used.
        answering: responses are made now; otherwise what an earlier run made them with is kept.
    """
    path = folder / MANIFEST
    made = made_with(sweep.device, sweep.batch_size)
    if not answering and path.is_file():
        made = json.loads(path.read_text(encoding="utf-8")).get("made_with", made)
    write_json(
        path,
        {
            "command": "pareto",
            "base": sweep.base,
            "guides": {guide.name: guide.made_of() for guide in sweep.guides},
            "settings": sweep.settings(),
            "scorers": {name: dict(scorer.identity) for name, scorer in scorers.items()},
            "signs": dict(zip(design.objectives, design.signs.tolist(), strict=True)),
            "prompts": design.n_prompts,
            "prompts_left_out": dict(left_out),
            "seeds": list(design.seeds),
            "made_with": made,
        },
    )


def write_records(folder: Path, scores: Scores) -> list[dict[str, Any]]:
    """Write the responses with their raw scores; returns the rows."""
    records = [
        {**row, "scores": {name: each[i] for name, each in scores.items()}}
        for i, row in enumerate(read_jsonl(folder / RESPONSES))
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in records)
    write_text(folder / RECORDS, "".join(lines))
    return records


def write_numbers(folder: Path, front: Mapping[str, Any]) -> None:
    """Write the numbers, the table and the picture."""
    write_json(folder / FRONT, front)
    write_text(folder / TABLE, table.markdown(front))
    draw(folder / PICTURE, front)


def draw(path: Path, front: Mapping[str, Any]) -> None:
    """The picture of a sweep's fronts, in raw units."""
    objectives = front["objectives"]
    lines = [
        FrontLine(
            name,
            {objective: _means(numbers["points"], objective) for objective in objectives},
            marks_of([point["preference"] for point in numbers["points"]], objectives),
        )
        for name, numbers in front["guides"].items()
        if name != BASE
    ]
    [base] = front["guides"][BASE]["points"]
    front_plot(
        path,
        lines,
        {objective: _means([base], objective)[0] for objective in objectives},
        front["reference"]["raw"],
        costs=front["costs"],
        title=f"Mean scores on {front['n_prompts']} prompts at {len(front['preferences'])} "
        "preferences, 95 % intervals",
        note="Written at points: the objective with all the weight, or the weights of "
        f"{' : '.join(objectives)}",
    )


def _means(points: Sequence[Mapping[str, Any]], objective: str) -> list[Estimate]:
    return [Estimate(**point["raw"][objective]) for point in points]


def marks_of(
    preferences: Sequence[Mapping[str, float]], objectives: Sequence[str]
) -> dict[int, str]:
    """What a picture writes at which points: at each objective's own end, and at the middle.

    Args:
        preferences: of the points, weight per objective.
        objectives: their order.
    """
    weights = [[point[name] for name in objectives] for point in preferences]
    numbers = range(len(weights))
    ends = [max(numbers, key=lambda i: weights[i][k]) for k in range(len(objectives))]
    middle = max(numbers, key=lambda i: min(weights[i]))
    return {i: _mark(weights[i], objectives) for i in (*ends, middle)}


def _mark(weights: Sequence[float], objectives: Sequence[str]) -> str:
    alone = [name for name, weight in zip(objectives, weights, strict=True) if weight == 1]
    return alone[0] if alone else ":".join(f"{round(weight, 2):g}" for weight in weights)
