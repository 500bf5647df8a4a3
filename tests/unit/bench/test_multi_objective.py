"""The fronts of `trimtab bench multi-objective`: what is trained, swept, told and refused."""

from __future__ import annotations

import itertools
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sweeps
from conftest import write_jsonl

from trimtab.bench.tables import multi_objective, training
from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.jobs import Work
from trimtab.bench.tables.material import Material
from trimtab.bench.tables.plot import draw
from trimtab.bench.tables.sweeping import Front, Strengths
from trimtab.bench.tables.training import Train
from trimtab.errors import TrimtabError

world = sweeps.world  # the fixture
METHODS = ["soup", "parm", "mod", "instructions", "by-itself"]
RIGHT = [1.0] * 60 + [0.0] * 10  # an accuracy of .86: claims may be made


@pytest.fixture
def work(base_dir: Path, world: Path, tmp_path: Path) -> Work:
    """A table's folder in which everything is trained: two seeds, two objectives."""
    words = ["sat", "ran", "happy", "sad", "big", "red", "blue", "cat"]
    rows = [
        {"prompt": f"the {' '.join(more)}", "chosen": "happy sun", "rejected": "sad dog"}
        for more in itertools.permutations(words, 3)
    ]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", rows)
    config = TableConfig(
        base=str(base_dir), judge=str(base_dir), data=[f"happy={pairs}", f"brief={pairs}"],
        output_dir=str(tmp_path / "out"), seeds=2, pairs=8, judge_pairs=8, prompts=3,
        search_prompts=2, max_new_tokens=5, search_tokens=3, preference_step=0.5, methods=METHODS,
        search=["genarm: strength=0.5,2", "mod: strength=0.5,1"],
    )  # fmt: skip
    work = Work(config, str(base_dir), str(base_dir), Material.read(config, str(base_dir)))
    for seed, kind in itertools.product((0, 1), ("genarm", "dpo")):
        shutil.copytree(world / "loras", work.model(f"{kind}-{seed}"))
        shutil.copytree(world / "parm", work.model(f"parm-{seed}"), dirs_exist_ok=True)
    for kind in ("judge", "searcher"):
        shutil.copytree(world / "whole" / "1", work.model(kind))
    return work


def test_every_job_is_there_once_and_in_an_order_that_works(work: Work) -> None:
    names = [job.name for job in multi_objective.jobs(work.config)]
    assert len(set(names)) == len(names)
    assert {"judge/happy", "accuracy judge/brief", "searcher/brief", "genarm-1/happy"} < {*names}
    assert {"parm-0", "parm-1", "dpo-1/brief"} < {*names} and "uniarm-0" not in names
    assert names[-2:] == ["search", "front"]


def test_one_model_for_all_is_trained_on_a_file_of_each_objective(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(training, "trained", lambda *given: seen.update(given[2]) or {})
    work.config.describe = ["happy=glad", "brief=short"]
    Train("uniarm-0", "uniarm", seed=1, objective="happy,brief").run(work)
    files = [entry.partition("=") for entry in seen["data"]]
    assert [name for name, _, _ in files] == ["happy", "brief"]
    assert all(len(Path(path).read_text().splitlines()) == 8 for _, _, path in files)
    assert seen["objectives"] == "happy,brief" and seen["describe"] == work.config.describe


def test_strengths_are_chosen_and_fronts_told(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table's numbers are those of pareto, for every guide at the strength that was chosen."""
    quick = partial(multi_objective.hierarchical_of, resamples=50)
    monkeypatch.setattr(multi_objective, "hierarchical_of", quick)
    for job in multi_objective.jobs(work.config):
        if isinstance(job, Train):
            work.rows[job.name] = {"train_seconds": 3.0}
        elif isinstance(job, Strengths | Front):
            work.rows[job.name] = job.run(work)
        else:
            work.rows[job.name] = {"right": RIGHT}
    tried, chosen = work.rows["search"]["tried"], work.rows["search"]["chosen"]
    assert [(t["guide"], t["strength"]) for t in tried] == [
        ("genarm", 0.5), ("genarm", 2.0), ("mod", 0.5), ("mod", 1.0),
    ]  # fmt: skip
    for guide, strength in chosen.items():
        of_guide = {t["strength"]: t["hypervolume"] for t in tried if t["guide"] == guide}
        assert of_guide[strength] == max(of_guide.values())
    row = work.rows["front"]
    expected = dict.fromkeys(["genarm", *METHODS], 1.0) | chosen
    assert row["strengths"] == expected | {"by-itself": chosen["genarm"]}
    front = json.loads((work.folder / "front/front.json").read_text())
    fronts = multi_objective.Fronts(row, ["happy", "brief"])
    for guide, numbers in front["guides"].items():
        assert np.shape(row["scores"][guide])[:1] == (2,)
        for measure in ("hypervolume", "mip"):
            found = fronts.of(measure, guide)
            assert found.value == pytest.approx(numbers[measure]["value"], abs=1e-9)
            gap = fronts.gap(measure, guide, "genarm")
            difference = numbers[f"{measure}_difference"] or {"value": 0.0}
            assert gap.value == pytest.approx(difference["value"], abs=1e-9)
            assert gap.low <= gap.value <= gap.high and found.low <= found.value <= found.high
    found = multi_objective.report(work)
    shown = {line[0]: line for line in found.rows}
    assert len(shown) == 7 and shown["PARM"][5:7] == ["1", "3"]
    assert shown["GenARM, one ARM per objective"][6] == "6"  # two trainings a seed
    assert [claim[0] for claim in found.claims] == [
        "GenARM beats the base guided by itself in hypervolume",
        "GenARM beats the base guided by itself in mean inner product",
        "PARM beats GenARM in hypervolume",
        "PARM beats GenARM in mean inner product",
    ]
    assert "so wins may be claimed" in found.head
    work.rows["accuracy judge/brief"] = {"right": [1.0, 0.0] * 30}
    assert {claim[2] for claim in multi_objective.report(work).claims} == {"undecided (the judge)"}
    draw(tmp_path / "plot.png", "multi-objective", work)
    assert (tmp_path / "plot.png").read_bytes() == (work.folder / "front/front.png").read_bytes()


def test_prompts_are_of_all_objectives_in_turn(work: Work) -> None:
    happy, brief = (work.material.pairs[name]["test"] for name in ("happy", "brief"))
    del brief[1:]
    brief[0] = happy[-1]
    given = [happy[0].prompt, brief[0].prompt, happy[1].prompt]
    assert work.material.of_all("test", 3) == given
    assert len(work.material.of_all("test", 1000)) == len(happy)  # each different one once


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": ["happy=x"]}, "one objective makes no front"),
        ({"methods": ["uniarm"]}, "UniARM wants a description of 'happy'; write --describe happy="),
        ({"preference_step": 0.3}, "a step of 0.3 does not divide 1"),
        ({"search": ["mod: strength=0.5,2"]}, "strength 2 with the policies of mod; use 0 (the ba"),
        (
            {"search": ["genarm: weight=1,2"]},
            "--search tries weight of genarm; strengths are tried",
        ),
    ],
)
def test_what_cannot_give_a_front(options: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"base": "b", "data": ["happy=x", "brief=y"], "output_dir": "o"}
    with pytest.raises(TrimtabError) as caught:
        multi_objective.jobs(TableConfig(**{**given, "methods": ["parm"], **options}))
    assert said in str(caught.value)


def test_too_few_pairs_of_one_objective_are_refused_before_anything_is_trained(work: Work) -> None:
    del work.material.pairs["brief"]["guide"][3:]
    with pytest.raises(TrimtabError, match="8 guide pairs of brief are wanted and 3 are there"):
        Train("parm-0", "parm", objective="happy,brief").seconds(work, None)  # type: ignore[arg-type]
