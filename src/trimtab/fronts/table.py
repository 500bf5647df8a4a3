"""A sweep's numbers for readers: the table, and the lines that say what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Front = Mapping[str, Any]
Cell = Mapping[str, Any] | None

FEW_PROMPTS = 10


def columns(front: Front) -> list[str]:
    """Headings of the table."""
    first = front["against"]
    return ["guide", "HV", f"HV − {first}", "MIP", f"MIP − {first}", "own front", "joint front",
            "ms/token", "missing"]  # fmt: skip


def rows(front: Front) -> list[list[str]]:
    """One row per guide, the base first."""
    return [
        [
            name,
            _number(numbers["hypervolume"]),
            _number(numbers["hypervolume_difference"], signed=True),
            _number(numbers["mip"]),
            _number(numbers["mip_difference"], signed=True),
            _share(numbers["points"], "non_dominated"),
            _share(numbers["points"], "non_dominated_of_all"),
            "–" if numbers["ms_per_token"] is None else f"{numbers['ms_per_token']:.2f}",
            str(sum(numbers["missing"].values())),
        ]
        for name, numbers in front["guides"].items()
    ]


def _number(cell: Cell, *, signed: bool = False) -> str:
    if cell is None:
        return "–"
    value, low, high = (round(cell[key], 3) + 0.0 for key in ("value", "low", "high"))  # no −0
    return f"{value:{'+' if signed else ''}.3f} [{low:.3f}, {high:.3f}]"


def _share(points: Sequence[Front], what: str) -> str:
    return f"{sum(point[what] for point in points)}/{len(points)}"


def notes(front: Front) -> list[str]:
    """What the numbers rest on, a sentence or two each."""
    n, seeds = front["n_prompts"], front["seeds"]
    said = [
        f"n = {n} prompts, seeds {', '.join(map(str, seeds))}, {len(front['preferences'])} "
        f"preferences; 95 % intervals from {front['resamples']} bootstrap resamples of the "
        "prompts, the same for every guide.",
        "HV: hypervolume. MIP: mean inner product of preference and scores. Own front: points that "
        "no other point of the guide dominates; joint front: that no point of any guide dominates. "
        "ms/token: wall time per generated token, a batch's rows together.",
        "HV is taken over noisy points: with few prompts it comes out too large. MIP does not.",
        *(f"{name}: {text}." for name, text in front.get("made_of", {}).items()),
        _about_scale(front),
        _about_reference(front),
    ]
    return said + _about_missing(front)


def warnings(front: Front) -> list[str]:
    """What a reader should know before any number, if anything."""
    said = [
        f"warning: all answers of every guide score alike on {name}: no front can be seen on it"
        for name in front["objectives"]
        if _all_alike(front, name)
    ]
    if (n := front["n_prompts"]) >= FEW_PROMPTS:
        return said
    how = "have zero width and mean nothing" if n == 1 else "mean little"
    few = f"warning: intervals over {n} prompt{'s' * (n > 1)} {how}; take {FEW_PROMPTS} or more"
    return [few, *said]


def _all_alike(front: Front, objective: str) -> bool:
    """Whether every mean is the same and none has any spread; of one prompt none could have."""
    points = [p["raw"][objective] for g in front["guides"].values() for p in g["points"]]
    ends = [float(point[end]) for point in points for end in ("low", "value", "high")]
    return max(ends) - min(ends) <= 1e-12 * max(map(abs, ends))  # a sum of alikes is rounded


def _about_scale(front: Front) -> str:
    scale, costs = front["normalization"], front["costs"]
    turned = f"Costs (times −1): {', '.join(costs)}. " if costs else ""
    if scale["kind"] == "none":
        return f"{turned}Scores are in the scorers' own units."
    units = "; ".join(
        f"{name} mean {scale['mean'][name]:.4g}, standard deviation "
        + (
            "0 (so in raw units)"
            if name in scale["base_all_alike"]
            else f"{scale['unit'][name]:.4g}"
        )
        for name in front["objectives"]
    )
    return f"{turned}Scores in HV and MIP are standardised by the base's own answers: {units}."


def _about_reference(front: Front) -> str:
    reference = front["reference"]
    what = {
        "worst": "the worst mean on each objective over all guides, preferences and the base",
        "base": "the base's means",
        "given": "as given",
    }[reference["kind"]]
    places = "; ".join(
        f"{name} {reference['raw'][name]:.4g} ({reference['common'][name]:+.3f} standardised)"
        if front["normalization"]["kind"] == "base"
        else f"{name} {reference['raw'][name]:.4g}"
        for name in front["objectives"]
    )
    return f"Reference point of HV, {what}: {places}."


def _about_missing(front: Front) -> list[str]:
    lost = {name: sum(g["missing"][name] for g in front["guides"].values())
            for name in front["objectives"]}  # fmt: skip
    if not any(lost.values()):
        return []
    total = sum(numbers["responses"] for numbers in front["guides"].values())
    counts = ", ".join(f"{name} {count}" for name, count in lost.items() if count)
    return [f"Missing scores, left out of the means: {counts} of {total} responses."]


def markdown(front: Front) -> str:
    """`table.md`: the table, the notes, and every point in raw units."""
    main = [columns(front), *rows(front)]
    names = front["objectives"]
    heads = [f"{name} (cost)" if name in front["costs"] else name for name in names]
    points = [["guide", "preference", *heads, "own front", "joint front"]]
    for guide, numbers in front["guides"].items():
        points += [
            [
                guide,
                weights_text(point["preference"]) or "–",
                *(_number(point["raw"][name]) for name in names),
                "yes" if point["non_dominated"] else "no",
                "yes" if point["non_dominated_of_all"] else "no",
            ]
            for point in numbers["points"]
        ]
    told = "".join(f"- {note}\n" for note in notes(front))
    return f"{_as_markdown(main)}\n{told}\nMean scores, in raw units:\n\n{_as_markdown(points)}"


def weights_text(preference: Mapping[str, float]) -> str:
    """A preference in a few words, such as `helpful 0.7, harmless 0.3`."""
    return ", ".join(f"{name} {weight:.3g}" for name, weight in preference.items() if weight)


def _as_markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    table = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)
