"""`trimtab label` end to end: relabelled pairs that `trimtab train` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab.cli.main import main
from trimtab.data.formats import read_pairs
from trimtab.evaluation.scoring import RewardModel

Capture = pytest.CaptureFixture[str]

CHAT = [{"role": "user", "content": "hello"}]
PAIRS = [
    {"prompt": "the cat", "chosen": "happy happy", "rejected": "sad", "id": 7},
    {"prompt": CHAT, "chosen": "sad dog", "rejected": "happy"},
    {"prompt": "the dog", "chosen": "sat", "rejected": "ran"},
]
RULES = """
def happy(response): return response.count("happy")
def length(prompt, response): return len(response)
def fails(response): return 1 / response.count("happy")
"""
RULED = ("--scorer", "happy=label_rules:happy", "--scorer", "wordy=label_rules:length")


@pytest.fixture(autouse=True)
def in_a_folder_with_rules(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.getbasetemp() / "label_rules"
    folder.mkdir(exist_ok=True)
    (folder / "label_rules.py").write_text(RULES)
    monkeypatch.chdir(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", PAIRS)


def command(data: object, out: object, *more: object, scorers: Sequence[str] = RULED) -> list[str]:
    return ["label", "--data", str(data), "--output", str(out), *scorers, *map(str, more)]


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_labels_by_hand(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """`wordy` is a cost: shorter is better. The third pair ties on both."""
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, "--costs", "wordy", "--json")) == 0
    assert rows(out) == [
        {
            "prompt": "the cat", "chosen": "happy happy", "rejected": "sad",
            "labels": {"happy": 0, "wordy": 1}, "scores": {"happy": [2, 0], "wordy": [11, 3]},
        },
        {
            "prompt": CHAT, "chosen": "sad dog", "rejected": "happy",
            "labels": {"happy": 1, "wordy": 1}, "scores": {"happy": [0, 1], "wordy": [7, 5]},
        },
        {
            "prompt": "the dog", "chosen": "sat", "rejected": "ran",
            "labels": {"happy": None, "wordy": None}, "scores": {"happy": [0, 0], "wordy": [3, 3]},
        },
    ]  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert (found["pairs"], found["rows"]) == (3, {"read": 3})
    assert found["objectives"]["happy"] == {"chosen": 1, "rejected": 1, "tie": 1, "missing": 0}
    assert found["objectives"]["wordy"] == {"chosen": 0, "rejected": 2, "tie": 1, "missing": 0}
    assert {k: (v["value"], v["n"]) for k, v in found["agreement"].items()} == {
        "chosen and happy": (0.5, 2), "chosen and wordy": (0, 2), "happy and wordy": (0.5, 2),
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "labelled.jsonl", "labelled.jsonl.job.json", "pairs.jsonl",
    ]  # fmt: skip
    happy, report = read_pairs([str(out)], "happy")
    assert [(p.chosen, p.rejected) for p in happy] == [("happy happy", "sad"), ("happy", "sad dog")]
    assert report.counts == {"judged on no objective": 1}


def test_the_counts_are_shown(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out)) == 0
    said = capsys.readouterr().out
    assert "which side of 3 pairs is better" in said and "happy and wordy" in said
    assert main(command(data, out)) == 0  # complete: the counts again
    assert capsys.readouterr().out == said


def test_labelled_data_train(
    base_dir: Path, pairs_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(pairs_file, out, "--costs", "wordy")) == 0
    train = ["train", "--model", base_dir, "--data", out, "--output-dir", tmp_path / "arm"]
    train += ["--objectives", "happy", "--max-steps", 1, "--save-strategy", "no"]
    assert main([str(argument) for argument in [*train, "--eval-strategy", "no"]]) == 0
    assert json.loads((tmp_path / "arm" / "trimtab.json").read_text())["objective"] == "happy"


def test_reward_models_label_too(
    base_dir: Path, arm_dir: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "labelled.jsonl"
    texts = {"chosen": "the cat 1 sat", "rejected": "the cat 1 ran"}  # raw: an implicit prompt
    write_jsonl(data, [*PAIRS, texts])
    scorers = ["--scorer", f"one={base_dir}", "--scorer", f"two={arm_dir}"]
    assert main(command(data, out, scorers=scorers)) == 0
    found = rows(out)
    model = RewardModel(str(arm_dir))
    expected = model.score([CHAT, CHAT], ["sad dog", "happy"])
    assert found[1]["scores"]["two"] == pytest.approx([s.reward for s in expected], rel=1e-4)
    raw = model.score(["the cat 1"] * 2, [" sat", " ran"], prompt_format="raw")
    assert found[3]["scores"]["two"] == pytest.approx([s.reward for s in raw], rel=1e-4)
    assert "prompt" not in found[3] and found[3]["chosen"] == texts["chosen"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_torn_file_goes_on(number: int, data: Path, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    for out in (whole, torn):
        assert main(command(data, out)) == 0
    lines = torn.read_bytes().splitlines(keepends=True)
    torn.write_bytes(b"".join(lines[:number]) + lines[number][:20])
    assert main(command(data, torn)) == 0
    assert torn.read_bytes() == whole.read_bytes()


def test_rows_that_cannot_be_used_are_named(data: Path, tmp_path: Path, capsys: Capture) -> None:
    write_jsonl(data, [*PAIRS, {**PAIRS[0], "chosen": ""}, {**PAIRS[0], "chosen": None}])
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out)) == 2
    err = capsys.readouterr().err
    assert "pairs.jsonl:5 has no `chosen`" in err and not out.exists()
    assert main(command(data, out, "--skip-bad-rows", "--json")) == 0
    printed = capsys.readouterr()
    assert "1 row left out: one side is empty (pairs.jsonl:4)" in printed.err
    assert json.loads(printed.out)["rows"] == {
        "read": 5, "one side is empty": 1, "has no `chosen`": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "scorers", "said"),
    [
        ((), (), "nothing to score with"),
        ((), ("--scorer", "chosen=label_rules:happy"), "an objective is called 'chosen'"),
        ((), ("--scorer", "happy=label_rules:none"), "has no function 'none'"),
        ((), ("--scorer", "happy=none/at/all"), "no reward model at none/at/all"),
        (("--costs", "funny"), RULED, "--costs names 'funny'"),
        (("--data", "none.jsonl"), RULED, "no such file: none.jsonl"),
    ],
)
def test_bad_input_is_one_line(
    more: Sequence[str], scorers: Sequence[str], said: str, data: Path, tmp_path: Path,
    capsys: Capture,
) -> None:  # fmt: skip
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, *more, scorers=scorers)) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_rule_that_fails_names_the_row(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out, scorers=["--scorer", "happy=label_rules:fails"])) == 2
    said = "the rule label_rules:fails fails on pairs.jsonl:1 rejected (ZeroDivisionError"
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_the_file_of_another_run_is_refused(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "labelled.jsonl"
    assert main(command(data, out)) == 0
    before = out.read_bytes()
    assert main(command(data, out, "--costs", "wordy")) == 2
    assert "holds rows of another run; choose another --output" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(command(data, out, "--costs", "wordy", "--overwrite")) == 0
    assert rows(out)[0]["labels"] == {"happy": 0, "wordy": 1}


def test_replies_without_a_rating_are_counted(
    data: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that rates no text about dogs: no tie, and not dropped in silence."""

    def ask(judge: object, client: object, question: str) -> str:
        response = question.split("[Response to rate]")[1].split("[End")[0]
        return "I cannot say." if "dog" in response else f"Rating: {len(response) % 10}"

    monkeypatch.setattr("trimtab.evaluation.judge.Judge._ask", ask)
    out = tmp_path / "labelled.jsonl"
    judge = ["--scorer", "nice=judge:tiny@http://127.0.0.1:1/v1", "--rubric", "nice=is kind"]
    assert main(command(data, out, "--json", scorers=judge)) == 0
    assert [row["scores"]["nice"] for row in rows(out)] == [[3, 5], [None, 7], [5, 5]]
    assert [row["labels"]["nice"] for row in rows(out)] == [1, None, None]
    found = json.loads(capsys.readouterr().out)["objectives"]["nice"]
    assert found == {"chosen": 0, "rejected": 1, "tie": 1, "missing": 1}
