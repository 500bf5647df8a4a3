"""The weak-to-strong table: its numbers from rows by hand, its parts, and what it refuses."""

from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab.bench.tables import ways, weak_to_strong
from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.jobs import Work
from trimtab.bench.tables.material import Material, parts_of
from trimtab.bench.tables.weak_to_strong import jobs, report
from trimtab.cli.main import main
from trimtab.comparison.length import length_controlled
from trimtab.errors import ConfigError

PROMPTS = [
    f"the {noun} {' '.join(more)}"
    for noun in ("cat", "dog", "mat", "sun")
    for more in itertools.permutations(["sat", "ran", "happy", "sad", "big", "red"], 2)
]
JUDGED = [prompt for prompt in PROMPTS if parts_of(prompt, judged=True) == ("judge",)]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Of a table whose human pairs space every second prompt as its data do not."""
    rows = [{"prompt": p, "chosen": "happy sun", "rejected": "sad dog"} for p in PROMPTS]
    human = [{**row, "prompt": row["prompt"].replace(" ", "  ")} for row in rows[::2]]
    human += [{**rows[0], "prompt": f"hello {i}"} for i in range(3)]
    return {
        "base": "",
        "judge": "judge",
        "data": [f"glad={write_jsonl(tmp_path / 'pairs.jsonl', rows)}"],
        "judge_data": [str(write_jsonl(tmp_path / "human.jsonl", human))],
        "prompts_file": str(write_jsonl(tmp_path / "prompts.jsonl", rows)),
        "output_dir": str(tmp_path / "out"),
        "prompts": 3,
        "search_prompts": 2,
        "seeds": 1,
    }


def test_nothing_is_measured_on_what_was_trained_on(
    options: dict[str, Any], base_dir: Path
) -> None:
    material = Material.read(TableConfig(**options), str(base_dir))
    human = {str(pair.prompt).replace("  ", " ") for pair in material.pairs["human"]["test"]}
    assert {p for p in PROMPTS[::2] if p not in JUDGED} == human - {f"hello {i}" for i in range(3)}
    assert len(human) > 3 and not human & {*JUDGED}
    assert all(parts_of(prompt, judged=True) == ("test",) for prompt in material.prompts)


def test_the_report_by_hand(
    options: dict[str, Any], base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guided base gains 2 where DPO gains 2.5 of every prompt: .8 of the gap, above .7."""
    few = functools.partial(length_controlled, resamples=20)  # a fit each
    monkeypatch.setattr(weak_to_strong, "length_controlled", few)
    config = TableConfig(**options)
    work = Work(config, str(base_dir), "", Material.read(config, str(base_dir)))
    gains = {way: [1.0, -1.0, 0.0] for way in (ways.WEAK_DPO, ways.BY_WEAK)}
    gains |= {ways.BASE: [0.0] * 3, ways.DPO: [2.5] * 3, ways.WEAK: [-1.0, 1.0, -1.0]}
    gains |= {ways.WEAK_TO_STRONG: [2.0] * 3, ways.WEAK_CONTRAST: [-1.0] * 3}
    scores = {}
    nll = {"value": 3.0, "low": 2.0, "high": 4.0, "n": 2}
    for job in jobs(config):
        row: dict[str, Any] = {"job": job.name, "seconds": 1.0}
        if job.name.startswith("accuracy"):
            row |= {"right": [1.0] * 20}
        if job.name == ways.WEAK:
            row |= {"layers": 1, "parameters": 5, "base_parameters": 9, "num_train_epochs": 3}
            row |= {"prompts": 4, "nll": dict.fromkeys(("base", "before", "after"), nll)}
        if (way := getattr(job, "way", None)) and job.name.startswith("answer"):
            row |= {"way": way, "seed": 0, "tokens": 4, "answering": 6.0, "base_nll": [1.0] * 3}
            row |= {"ask": {"strength": 1.0}}
            scores[job.name] = [gain + i for i, gain in enumerate(gains[way])]
            place = work.folder / "answers" / f"{way}-0.jsonl"
            place.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(
                place, [{"text": "a" * (n if way == ways.BASE else 10)} for n in (1, 8, 32)]
            )
        work.rows[job.name] = row
    work.rows["judged"] = {"scores": scores}
    found = report(work)
    lines = {line[0]: line[1:] for line in found.rows}
    assert lines[ways.WEAK_TO_STRONG][0].startswith("1.00 [")
    assert lines[ways.WEAK_TO_STRONG][3:5] == ["0.80 [0.80, 0.80]", "1.00 [1.00, 1.00]"]
    assert lines[ways.WEAK_CONTRAST][3:5] == ["-0.40 [-0.40, -0.40]", "-1.00 [-1.00, -1.00]"]
    assert lines[ways.WEAK_DPO][0].startswith("0.50 [")  # and not what another way, which begins
    assert lines[ways.WEAK][0].startswith("0.33 [")  # with its name, answered
    assert lines[ways.DPO][3:5] == ["–", "–"] and lines[ways.DPO][7] == "2"
    assert [claim[2] for claim in found.claims][:2] == ["confirmed", "confirmed"]
    assert any("guided-by-weak" in note and "wins every pair" in note for note in found.notes)
    work.rows["accuracy judge, human"] = {"right": [1.0, 0.0] * 10}
    assert {claim[2] for claim in report(work).claims} == {"undecided (the judge)"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layers", "2"], "which has 2"),
        (["--train-as", "weak.lora_r=4"], "no option 'lora_r'"),
        (["--train-as", "weak.bf16=3"], "weak.bf16 is 3"),
        (["--methods", "genarm"], "guided-by-weak"),
    ],
)
def test_bad_input(
    arguments: list[str],
    words: str,
    options: dict[str, Any],
    base_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = ["--base", str(base_dir), "--judge", str(base_dir), "--prompts=2", "--pairs=4"]
    data = ["--data", *options["data"], "--output-dir", options["output_dir"]]
    sizes = ["--layers=1", "--judge-pairs=4", "--seeds=1"]
    assert main(["bench", "weak-to-strong", *models, *data, *sizes, *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not (Path(options["output_dir"]) / "models").exists()


def test_an_objective_called_as_the_judges_pairs_are(options: dict[str, Any]) -> None:
    data = [json.dumps(options["data"])[2:-2].replace("glad=", "human=")]
    with pytest.raises(ConfigError, match="give it another name"):
        TableConfig(**{**options, "data": data})
