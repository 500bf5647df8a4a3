"""Records of a sweep to numbers: signs, units, the reference point, what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trimtab.errors import DataError
from trimtab.fronts.files import draw
from trimtab.fronts.numbers import Design, front_numbers, gather, scale_of
from trimtab.fronts.table import columns, markdown, notes, rows, warnings

ENDS = [{"good": 1.0, "bad": 0.0}, {"good": 0.0, "bad": 1.0}]
DESIGN = Design(["one", "two"], ["good", "bad"], ["bad"], ENDS, [0], 2)


def record(guide: str, preference: Any, prompt: int, good: Any, bad: Any, seed: int = 0) -> Any:
    return {
        "guide": guide, "seed": seed, "preference": preference, "prompt_index": prompt,
        "finish_reason": "stop", "tokens": 10, "seconds": 0.5,
        "scores": {"good": good, "bad": bad},
    }  # fmt: skip


def records(**points: Any) -> list[Any]:
    """Both prompts of a point score one below and one above the mean."""
    found = [record("base", {}, 0, 0, 8), record("base", {}, 1, 2, 12)]
    for guide, ((a, b), (c, d)) in points.items():
        for i in (0, 1):
            found.append(record(guide, ENDS[0], i, a + 2 * i - 1, b + 2 * i - 1))
            found.append(record(guide, ENDS[1], i, c + 2 * i - 1, d + 2 * i - 1))
    return found


RECORDS = records(one=((3, 12), (1, 6)), two=((2, 10), (0, 8)))


def test_numbers_by_hand() -> None:
    """The base scores good 1 ± 1 and bad 10 ± 2, so in common units

    one: (2, −1) and (0, 2); two: (1, 0) and (−1, 1); base: (0, 0); worst: (−1, −1).
    HV of one: 3 · 0 (its −1 is the reference) and 1 · 3 make 3; of two: 2 · 1 and 0 · 2 make 2;
    of the base: 1. MIP of one: (2 + 2) / 2; of two: (1 + 1) / 2; of the base: 0.
    """
    found = front_numbers(RECORDS, DESIGN, resamples=200)
    assert found["normalization"]["mean"] == {"good": 1, "bad": 10}
    assert found["normalization"]["unit"] == {"good": 1, "bad": 2}
    assert found["reference"]["common"] == {"good": -1, "bad": -1}
    assert found["reference"]["raw"] == {"good": 0, "bad": 12}
    guides = found["guides"]
    assert [guides[g]["hypervolume"]["value"] for g in ("base", "one", "two")] == [1, 3, 2]
    assert [guides[g]["mip"]["value"] for g in ("base", "one", "two")] == [0, 2, 1]
    assert guides["one"]["hypervolume_difference"] is None
    assert guides["two"]["hypervolume_difference"]["value"] == -1
    assert guides["base"]["mip_difference"]["value"] == -2
    assert guides["one"]["points"][1]["raw"]["bad"]["value"] == 6
    assert guides["one"]["points"][1]["common"] == {"good": 0, "bad": 2}
    own = [[p["non_dominated"] for p in g["points"]] for g in guides.values()]
    joint = [[p["non_dominated_of_all"] for p in g["points"]] for g in guides.values()]
    assert own == [[True], [True, True], [True, True]]
    # (0, 2) of one beats the base's (0, 0) and two's (−1, 1); nothing beats (2, −1) and (1, 0).
    assert joint == [[False], [True, True], [True, False]]
    assert guides["one"]["ms_per_token"] == 50
    assert (guides["one"]["responses"], guides["one"]["cut_off"]) == (4, 0)
    json.dumps(found, allow_nan=False)


def test_raw_units_and_other_references_by_hand() -> None:
    """Raw but sign-corrected: one (3, −12), (1, −6); two (2, −10), (0, −8); base (1, −10).

    Above the base, only one's (1, −6) is no worse anywhere, with no width: 0. Above (0, −12) given
    as good 0, bad 12: two's (2, −10) gives 2 · 2; one's (1, −6) gives 1 · 6.
    """
    base = front_numbers(RECORDS, DESIGN, normalize="none", reference="base", resamples=100)
    assert base["reference"]["raw"] == {"good": 1, "bad": 10}
    assert base["guides"]["one"]["hypervolume"]["value"] == 0
    given = front_numbers(
        RECORDS, DESIGN, normalize="none", reference={"good": 0, "bad": 12}, resamples=100
    )
    assert given["reference"]["kind"] == "given"
    assert given["reference"]["common"] == {"good": 0, "bad": -12}
    odd = {"good": 0.1, "bad": 0.3}  # not what standardising there and back makes of them
    assert front_numbers(RECORDS, DESIGN, reference=odd, resamples=100)["reference"]["raw"] == odd
    assert given["guides"]["one"]["hypervolume"]["value"] == 6
    assert given["guides"]["two"]["hypervolume"]["value"] == 4
    assert given["guides"]["one"]["mip"]["value"] == (3 - 6) / 2


def test_missing_scores_are_counted_and_left_out() -> None:
    some = [dict(row) for row in RECORDS]
    some[2] = {**some[2], "scores": {"good": None, "bad": 11}}  # one, all good, prompt 0
    found = front_numbers(some, DESIGN, resamples=200)
    point = found["guides"]["one"]["points"][0]
    assert point["missing"] == {"good": 1, "bad": 0}
    assert point["raw"]["good"] == {"value": 4.0, "low": 4.0, "high": 4.0, "n": 1}
    assert point["raw"]["bad"]["n"] == 2
    assert found["guides"]["one"]["missing"] == {"good": 1, "bad": 0}
    assert rows(found)[1][-1] == "1"
    assert "Missing scores, left out of the means: good 1 of 10 responses." in notes(found)
    json.dumps(found, allow_nan=False)


def test_a_point_without_any_score_is_refused() -> None:
    none = [
        {**row, "scores": {"good": 1.0, "bad": None}} if row["preference"] == ENDS[1] else row
        for row in RECORDS
    ]
    with pytest.raises(DataError, match="no score of 'one' on 'bad' could be read"):
        front_numbers(none, DESIGN)


def test_seeds_of_one_prompt_are_averaged() -> None:
    design = Design(["one"], ["good", "bad"], [], ENDS[:1], [3, 7], 1)
    made = [record("base", {}, 0, seed, 0, seed) for seed in (3, 7)]
    made += [record("one", ENDS[0], 0, 10 * seed, 0, seed) for seed in (3, 7)]
    assert gather(made, design)["one"][:, 0, 0, 0].tolist() == [30, 70]
    found = front_numbers(made, design, normalize="none", resamples=100)
    assert found["guides"]["one"]["points"][0]["raw"]["good"]["value"] == 50
    assert found["guides"]["one"]["points"][0]["raw"]["good"]["n"] == 1


def test_a_base_that_always_scores_alike_is_not_divided_by() -> None:
    base = np.array([[[[5.0, 1.0], [5.0, 3.0]]]])
    scale = scale_of(base, np.array([1.0, 1.0]), "base")
    assert scale.unit_K.tolist() == [1.0, 1.0] and scale.alike_K.tolist() == [True, False]
    assert scale.common(np.array([7.0, 3.0])).tolist() == [2.0, 1.0]
    assert scale.raw(np.array([2.0, 1.0])).tolist() == [7.0, 3.0]


@pytest.mark.parametrize(
    ("base", "one", "other"),
    [
        ((6, 0, 8), (7, 5, 8), (8, 7, 5)),  # standardised, they differed by 1e-16
        ((0.1, 0.7, 0.4), (0.1, 0.3, 0.2), (0.2, 0.2, 0.2)),  # no two of these are exact
        ((1.0, -1.0, 0.5), (0.3, -0.1, -0.2), (0.0, 0.0, 0.0)),  # what is left of a zero
        ((1e9, 3e9, 2e9), (1e9 + 0.1, 1e9, 1e9 + 0.2), (1e9 + 0.2, 1e9 + 0.1, 1e9)),
    ],
)
def test_rounding_decides_no_dominance(base: Any, one: Any, other: Any) -> None:
    """The points tie on `good`; the second is better on `more`, and so dominates the first."""
    design = Design(["g"], ["good", "more"], [], MORE, [0], 3)
    for first, second in ((one, other), (other, one)):
        for normalize in ("base", "none"):
            found = front_numbers(
                triples(base, first, second), design, normalize=normalize, resamples=100
            )
            points = found["guides"]["g"]["points"]
            assert [p["non_dominated"] for p in points] == [False, True]
            assert [p["non_dominated_of_all"] for p in points] == [False, True]


def test_a_difference_beyond_rounding_decides() -> None:
    """One prompt in three is better by 1e-9 of the scores: far beyond what rounding does."""
    design = Design(["g"], ["good", "more"], [], MORE, [0], 3)
    made = triples((6, 0, 8), (5, 7, 8 + 1e-8), (5, 7, 8))
    points = front_numbers(made, design, resamples=100)["guides"]["g"]["points"]
    assert [p["non_dominated"] for p in points] == [True, True]


MORE = [{"good": 1.0, "more": 0.0}, {"good": 0.0, "more": 1.0}]


def triples(base: Any, one: Any, other: Any) -> list[Any]:
    """Three prompts; the base's `more` is 4, 5, 7, that of the two points 5 and 6."""
    made = []
    for i in range(3):
        for guide, at, good, more in (
            ("base", {}, base[i], (4, 5, 7)[i]),
            ("g", MORE[0], one[i], 5),
            ("g", MORE[1], other[i], 6),
        ):
            row = record(guide, at, i, 0, 0)
            made.append({**row, "scores": {"good": good, "more": more}})
    return made


def test_a_base_alike_but_for_rounding_is_not_divided_by() -> None:
    noise = np.array([[[[0.1 + 0.2, 3e9], [0.3, 3e9 + 1e-6], [0.3, np.nan]]]])
    assert scale_of(noise, np.ones(2), "base").unit_K.tolist() == [1.0, 1.0]
    tiny = np.array([[[[1e-15], [3e-15]]]])  # a small unit is a unit
    assert scale_of(tiny, np.ones(1), "base").unit_K == pytest.approx([1e-15])


def test_the_table_says_what_it_rests_on() -> None:
    found = front_numbers(RECORDS, DESIGN, resamples=200)
    assert columns(found)[:3] == ["guide", "HV", "HV − one"]
    assert [row[0] for row in rows(found)] == ["base", "one", "two"]
    assert rows(found)[2][5:7] == ["2/2", "1/2"]
    text = markdown(found)
    for said in (
        "n = 2 prompts, seeds 0, 2 preferences", "200 bootstrap resamples",
        "Costs (times −1): bad.", "good mean 1, standard deviation 1",
        "worst mean on each objective", "bad 12 (-1.000 standardised)", "bad (cost)",
        "| two | good 1 | 2.000 [1.000, 3.000] |",
    ):  # fmt: skip
        assert said in text
    raw = markdown(front_numbers(RECORDS, DESIGN, normalize="none", resamples=200))
    assert "in the scorers' own units" in raw and "standardised" not in raw


@pytest.mark.parametrize(
    ("prompts", "said"),
    [(1, "over 1 prompt have zero width"), (9, "over 9 prompts mean little"), (10, "")],
)
def test_few_prompts_are_warned_of(prompts: int, said: str) -> None:
    found = warnings({"n_prompts": prompts, "objectives": []})
    assert len(found) == bool(said) and all(said in line for line in found)


def test_an_objective_on_which_nothing_differs_is_warned_of() -> None:
    alike = [{**row, "scores": {**row["scores"], "bad": 0.1}} for row in RECORDS]
    said = "warning: all answers of every guide score alike on bad: no front can be seen on it"
    assert warnings(front_numbers(alike, DESIGN, resamples=100))[1:] == [said]
    assert warnings(front_numbers(RECORDS, DESIGN, resamples=100))[1:] == []


def made_up(design: Design) -> list[Any]:
    rng = np.random.default_rng(0)
    found = []
    for guide in ("base", *design.guides):
        for preference in [{}] if guide == "base" else design.preferences:
            for prompt in range(design.n_prompts):
                scores = {n: preference.get(n, 0) + rng.normal() / 4 for n in design.objectives}
                row = record(guide, preference, prompt, 0, 0, design.seeds[0])
                found.append({**row, "scores": scores})
    return found


@pytest.mark.parametrize("objectives", ["ab", "abc", "abcd"])
@pytest.mark.parametrize("reference", ["worst", "far"])
def test_a_picture_is_drawn(objectives: str, reference: str, tmp_path: Path) -> None:
    ends = [{n: float(n == m) for n in objectives} for m in objectives]
    names = [f"guide {i}" for i in range(8)]  # more than there are colours
    design = Design(names, list(objectives), ["b"], ends, [0], 5)
    at: Any = dict.fromkeys(objectives, -50.0) if reference == "far" else "worst"
    found = front_numbers(made_up(design), design, reference=at, resamples=100)
    draw(tmp_path / "front.png", found)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
