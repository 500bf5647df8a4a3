"""`trimtab data`, and `--columns` wherever pairs are taken."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import test_bad_input
from conftest import write_jsonl
from test_bad_input import GOOD, Refused

import trimtab
from trimtab.cli.main import main

refused = test_bad_input.refused  # the fixture: it looks at tmp_path before and after
Capture = pytest.CaptureFixture[str]

MAP = "prompt=question,chosen=good,rejected=bad"


def show(capsys: Capture, *argv: object) -> str:
    capsys.readouterr()
    assert main(["data", *map(str, argv)]) == 0
    return capsys.readouterr().out


def pku(i: int, better: int, safer: int | None) -> dict[str, Any]:
    return {
        "prompt": f"the cat {i}",
        "response_0": "happy happy dog",
        "response_1": "sad",
        "better_response_id": better,
        "safer_response_id": safer,
        "source": "made up",
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Ten rows by hand: helpful prefers the longer first answer in 8; harmless decides 5 of them.

    On those five (rows 0 to 4, where helpful says 0) harmless says 0 in rows 0 and 1. One row has
    an index that is none, one an empty answer.
    """
    rows = [pku(i, 0 if i < 8 else 1, (0 if i < 2 else 1) if i < 5 else None) for i in range(10)]
    odd = [{**pku(10, 0, 0), "better_response_id": 7}, {**pku(11, 0, 0), "response_1": " "}]
    return write_jsonl(tmp_path / "pku.jsonl", [*rows, *odd, rows[0]])


def test_the_report(file: Path) -> None:
    found = trimtab.inspect_data(file)
    assert found.rows.layouts == {"PKU-SafeRLHF": 13}
    assert found.rows.counts == {
        "has 7 in `better_response_id`": 1,
        "one side is empty": 1,
    }
    assert found.rows.malformed == {"has 7 in `better_response_id`"}
    assert list(found.rows.unused) == ["source"]
    assert (found.pairs, found.prompts, found.repeated) == (11, 10, 1)
    helpful, harmless = found.objectives["helpful"], found.objectives["harmless"]
    assert (helpful.pairs, harmless.pairs) == (11, 6)
    assert helpful.longer.value == pytest.approx(9 / 11)
    assert harmless.longer.value == pytest.approx(3 / 6)
    agree = found.agreement["helpful and harmless"]
    assert (agree.value, agree.n) == (pytest.approx(3 / 6), 6)
    assert sum(helpful.splits.values()) == 11
    assert found.unit == "words"
    assert found.lengths["pair"] == {"median": 6, "95 %": 6, "longest": 6}
    assert (found.example.better, found.example.worse) == ("happy happy dog", "sad")


def test_pairs_of_one_prompt_do_not_narrow_an_interval(tmp_path: Path) -> None:
    """A share of 1 on 4 prompts: Wilson's lower end is 4 / (4 + 1.96²) = .510, however many."""
    rows = [
        {"prompt": f"p{i % 4}", "chosen": f"long answer {i}", "rejected": "no"} for i in range(40)
    ]
    own = trimtab.inspect_data(write_jsonl(tmp_path / "rows.jsonl", rows)).objectives[""]
    assert own.longer.n == 40
    assert own.longer.low == pytest.approx(4 / (4 + 1.959963984540054**2))


def test_what_is_shown(file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        out = show(capsys, file)
        assert all(len(line) <= width for line in out.splitlines() if not line.startswith("Train"))
        for words in ("PKU-SafeRLHF", "train refuses these", "harmless", "»happy happy dog«"):
            assert words in out
        assert f"--data {file} --objectives helpful,harmless" in out.replace("\n", "")


def test_with_a_model(file: Path, base_dir: Path, capsys: Capture) -> None:
    """Its tokens, its template, and the end of the turn among what is rewarded."""
    out = show(capsys, file, "--model", base_dir)
    assert "lengths in tokens" in out and "<|user|>the cat 0<|assistant|>" in out
    assert "»happy happy dog<|end|>«" in out
    found = json.loads(show(capsys, file, "--model", base_dir, "--json"))
    assert found["unit"] == "tokens" and found["example"]["tokens"][1] > 1
    assert found["rows"]["left_out"]["one side is empty"] == 1


def test_markup_in_texts_is_text(tmp_path: Path, capsys: Capture) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{**GOOD, "chosen": "[bold]x[/bold]", "[red]": 1}])
    out = show(capsys, path)
    assert "»[bold]x[/bold]«" in out and "[red]" in out


def test_refusals(refused: Refused, tmp_path: Path, file: Path) -> None:
    refused("data", names=["no data"])
    refused("data", tmp_path / "none.jsonl", names=["no such file"])
    refused("data", file, "--columns", "promt=x", names=["do you mean prompt?"])
    refused("data", file, "--pairs-per-prompt", -1, names=["--pairs-per-prompt is -1"])
    odd = write_jsonl(tmp_path / "odd.jsonl", [{"q": "x", "a": "y"}])
    named = ["odd.jsonl:1 is in no layout", "q, a", "--columns prompt="]
    refused("data", odd, names=named)


def test_no_torch_without_a_model(file: Path) -> None:
    code = (
        "import sys; from trimtab.cli.main import main\n"
        f"assert main(['data', {str(file)!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'datasets', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- columns by hand, wherever pairs are taken --------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    rows = [
        {"question": f"the cat {i}", "good": "happy", "bad": "sad", "who": "me"} for i in range(40)
    ]
    return write_jsonl(tmp_path / "mine.jsonl", rows)


def test_columns_of_train_accuracy_and_label(
    mine: Path,
    base_dir: Path,
    tmp_path: Path,
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arm, mapped = tmp_path / "arm", ["--data", mine, "--columns", MAP]
    command = ["train", "--model", base_dir, *mapped, "--output-dir", arm, "--max-steps", 1]
    with caplog.at_level(logging.WARNING):
        assert main([*map(str, command), "--eval-strategy", "no"]) == 0
    said = [r.message for r in caplog.records if "not used" in r.message]
    assert said == ["columns not used: who"]
    capsys.readouterr()
    assert main(["accuracy", "--arm", str(arm), *map(str, mapped), "--split", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arm"]["n"] == 40
    report = trimtab.accuracy(
        str(arm), str(mine), split="all", columns=dict(e.split("=") for e in MAP.split(","))
    )
    assert report.arm.n == 40
    (tmp_path / "rules.py").write_text("def happy(response): return response.count('happy')\n")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "labelled.jsonl"
    label = ["label", *mapped, "--scorer", "happy=rules:happy", "--output", out]
    assert main([*map(str, label)]) == 0
    row = json.loads(out.read_text().splitlines()[0])
    assert (row["prompt"], row["chosen"], row["labels"]) == ("the cat 0", "happy", {"happy": 0})


def test_columns_not_used_are_said_once_for_all_objectives(
    base_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_jsonl(tmp_path / "pku.jsonl", [pku(i, 0, 1) for i in range(40)])
    command = ["train", "--model", base_dir, "--data", path, "--objectives", "helpful,harmless"]
    command += ["--output-dir", tmp_path / "arms", "--max-steps", 1, "--eval-strategy", "no"]
    assert main([*map(str, command)]) == 0
    said = [r.message for r in caplog.records if "not used" in r.message]
    assert said == ["columns not used: source"]


def test_a_mapped_column_that_is_not_there(
    refused: Refused, mine: Path, base_dir: Path, tmp_path: Path
) -> None:
    named = ["mine.jsonl:1 has no column `better`", "its columns are question, good, bad, who"]
    columns = ["--columns", "prompt=question,chosen=better,rejected=bad"]
    train = ["train", "--model", base_dir, "--output-dir", tmp_path / "out"]
    refused(*train, "--data", mine, *columns, names=named)
    refused("accuracy", "--arm", base_dir, "--data", mine, *columns, names=named)
    refused("data", mine, *columns, names=named)


def test_columns_in_a_config_file(mine: Path, base_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("columns: {prompt: question, chosen: good, rejected: bad}\nmax_steps: 1\n")
    command = ["train", "--model", base_dir, "--data", mine, "--config", path]
    command += ["--output-dir", tmp_path / "arm", "--eval-strategy", "no"]
    assert main([*map(str, command)]) == 0


def test_pku_rows_can_be_scored_and_answered(
    file: Path, base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    """`score --input` and prompts of `pareto` take the layouts, too."""
    from trimtab.data.prompts import read_prompts

    path = write_jsonl(tmp_path / "one.jsonl", [pku(0, 1, 0)])
    assert read_prompts(str(path))[0] == ["the cat 0"]
    capsys.readouterr()
    assert main(["score", "--arm", str(base_dir), "--input", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["source"], row["response"]) for row in rows] == [  # as to the first objective
        ("one.jsonl:1 chosen", "sad"),
        ("one.jsonl:1 rejected", "happy happy dog"),
    ]
