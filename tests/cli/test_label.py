"""`trimtab label`: what the command adds to `trimtab.label`, up to training on what it wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import relabelling
from conftest import write_jsonl
from relabelling import PAIRS, UNUSED, names, relabel, rows

from trimtab.cli.main import main

Capture = pytest.CaptureFixture[str]

data = relabelling.data
in_a_folder_with_rules = relabelling.in_a_folder_with_rules

RULED = [
    word for name, spec in relabelling.RULED.items() for word in ("--scorer", f"{name}={spec}")
]


def command(data: object, out: object, *more: object, scorers: Sequence[str] = RULED) -> list[str]:
    return ["label", "--data", str(data), "--output", str(out), *scorers, *map(str, more)]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the function is given, but for where it reports to; it labels nothing."""
    found: dict[str, Any] = {}

    def label(*, progress: object, say: object, **options: Any) -> dict[str, Any]:
        found.update(options)
        return {"pairs": 0, "objectives": {}, "agreement": {}, "agreement_with_kept": {}}

    monkeypatch.setattr("trimtab.scoring.label.label", label)
    return found


def test_every_option_reaches_the_function(taken: dict[str, Any]) -> None:
    more = (
        "--data", "happy=more.jsonl", "--costs", "wordy, nice", "--scorer", "nice=judge:m@http://h",
        "--rubric", "nice=is kind", "--rubric", "wordy=x=y", "--scorer-batch-size", 3,
        "--keep-labels", "--columns", "prompt=q", "--pairs-per-prompt", 2, "--skip-bad-rows",
        "--dtype", "bfloat16", "--device", "cpu", "--trust-remote-code", "happy",
        "--revision", "happy=v2", "--overwrite",
    )  # fmt: skip
    assert main(command("pairs.jsonl", "out.jsonl", *more)) == 0
    assert taken == {
        "data": ["pairs.jsonl", "happy=more.jsonl"],
        "output": "out.jsonl",
        "scorers": {**relabelling.RULED, "nice": "judge:m@http://h"},
        "costs": ["wordy", "nice"],
        "rubrics": {"nice": "is kind", "wordy": "x=y"},
        "scorer_batch_size": 3,
        "keep_labels": True,
        "columns": "prompt=q",
        "pairs_per_prompt": 2,
        "skip_bad_rows": True,
        "dtype": "bfloat16",
        "device": "cpu",
        "trust_remote_code": ["happy"],
        "revisions": {"happy": "v2"},
        "overwrite": True,
    }


def test_options_that_are_left_out(taken: dict[str, Any]) -> None:
    assert main(command("pairs.jsonl", "out.jsonl")) == 0
    assert taken == {
        "data": ["pairs.jsonl"],
        "output": "out.jsonl",
        "scorers": relabelling.RULED,
        "costs": [],
        "rubrics": {},
        "scorer_batch_size": 16,
        "keep_labels": False,
        "columns": "",
        "pairs_per_prompt": 0,
        "skip_bad_rows": False,
        "dtype": "auto",
        "device": None,
        "trust_remote_code": [],
        "revisions": {},
        "overwrite": False,
    }


def test_json_is_what_the_function_returns(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """The lines it says are on stderr."""
    write_jsonl(data, [*PAIRS, {**PAIRS[0], "chosen": ""}, {**PAIRS[0], "chosen": None}])
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, "--costs", "wordy", "--skip-bad-rows", "--json")) == 0
    printed = capsys.readouterr()
    labels = rows(out)
    found, said = relabel(data, out, costs=["wordy"], skip_bad_rows=True)
    assert json.loads(printed.out) == found and found["pairs"] == 3 and rows(out) == labels
    assert len(said) > 1 and set(said) <= set(printed.err.splitlines())


def test_the_counts_are_shown(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out)) == 0
    said = capsys.readouterr().out
    assert "which side of 3 pairs is better" in said and "happy and wordy" in said
    assert "kept and scored" not in said
    assert main(command(data, out)) == 0  # complete: the counts again
    assert capsys.readouterr().out == said


def test_agreement_with_labels_that_were_kept_is_shown(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(command(f"happy={data}", tmp_path / "labelled.jsonl", "--keep-labels")) == 0
    assert "happy: kept and scored" in capsys.readouterr().out


def test_labelled_data_train(
    base_dir: Path, pairs_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(pairs_file, out, "--costs", "wordy")) == 0
    train = ["train", "--model", base_dir, "--data", out, "--output-dir", tmp_path / "arm"]
    train += ["--objectives", "happy", "--max-steps", 1, "--save-strategy", "no"]
    assert main([str(argument) for argument in [*train, "--eval-strategy", "no"]]) == 0
    assert json.loads((tmp_path / "arm" / "trimtab.json").read_text())["objective"] == "happy"


@pytest.mark.parametrize(
    ("more", "scorers", "said"),
    [
        ((), (), "nothing to score with"),
        (("--revision", "v2"), RULED, "no model is called 'base'; there are happy, wordy"),
    ],
)
def test_an_error_is_one_line(
    more: Sequence[str], scorers: Sequence[str], said: str, data: Path, tmp_path: Path,
    capsys: Capture,
) -> None:  # fmt: skip
    assert main(command(data, tmp_path / "labelled.jsonl", *more, scorers=scorers)) == 2
    printed = capsys.readouterr()
    assert said in printed.err and len(printed.err.splitlines()) == 1
    assert printed.err.startswith("trimtab: error: ") and printed.out == ""
    assert names(tmp_path) == ["pairs.jsonl"]


def test_an_error_in_scoring_is_the_last_line(data: Path, tmp_path: Path, capsys: Capture) -> None:
    scorers = ["--scorer", "happy=label_rules:fails"]
    assert main(command(data, tmp_path / "labelled.jsonl", scorers=scorers)) == 2
    printed = capsys.readouterr()
    said, error = printed.err.splitlines()
    assert said == UNUSED and printed.out == ""
    assert error.startswith("trimtab: error: the rule label_rules:fails fails on pairs.jsonl:1 ")


def test_an_interrupted_run_says_how_it_goes_on(
    data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trimtab.scoring.labelling.labelled", stop)
    assert main(command(data, tmp_path / "labelled.jsonl")) == 130
    printed = capsys.readouterr()
    assert "trimtab: interrupted; run the same command again to go on" in printed.err
    assert printed.out == ""


def test_missing_scores_are_said_and_the_rest_is_training_data(
    data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(server: object, question: str) -> str:
        return "Well." if "sad dog" in question else f"Rating: {len(question) % 10}"

    monkeypatch.setattr("trimtab.scoring.chat_server.ChatServer.ask", ask)
    out = tmp_path / "labelled.jsonl"
    judge = ["--scorer", "nice=judge:tiny@http://127.0.0.1:1/v1"]
    assert main(command(data, out, scorers=judge)) == 0
    printed = capsys.readouterr()
    assert "nice: 1 of 6 scores are missing (instead came 'Well.')" in printed.err
    assert f"Train on it: trimtab train --data {out} …" in printed.out


def test_a_scorer_that_decides_nothing_is_no_training_data(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_jsonl(data, [PAIRS[2]])
    assert main(command(data, tmp_path / "out.jsonl")) == 0
    said = capsys.readouterr()
    assert "warning: no pair is decided on happy: it cannot be trained" in said.err
    assert "Train on it" not in said.out
