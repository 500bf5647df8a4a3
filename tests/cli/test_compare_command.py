"""`trimtab compare`: what the command adds to `trimtab.compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_bad_input
from conftest import write_jsonl
from test_bad_input import Refused

from trimtab.cli.main import main

refused = test_bad_input.refused  # the fixture: it looks at tmp_path before and after

RULES = ["--scorer", "short=string:capwords"]


def test_every_option_reaches_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, Any] = {}

    def compare(*, progress: object, say: object, **options: Any) -> dict[str, Any]:
        taken.update(options)
        return {"prompts": 10}

    monkeypatch.setattr("trimtab.comparison.run.compare", compare)
    more = (
        "--output-dir", "out", "--base", "model", "--prompt-format", "raw", "--resamples", "500",
        "--seed", "3", "--overwrite", "--costs", "wordy", "--scorer", "wordy=judge:m@http://h",
        "--rubric", "wordy=is long", "--scorer-batch-size", "2", "--dtype", "bfloat16",
        "--device", "cpu", "--json",
    )  # fmt: skip
    assert main(["compare", "a.jsonl", "b", *RULES, *more]) == 0
    assert taken == {
        "a": "a.jsonl",
        "b": "b",
        "scorers": {"short": "string:capwords", "wordy": "judge:m@http://h"},
        "rubrics": {"wordy": "is long"},
        "judges": {},
        "costs": ["wordy"],
        "base": "model",
        "prompt_format": "raw",
        "output_dir": "out",
        "resamples": 500,
        "seed": 3,
        "overwrite": True,
        "scorer_batch_size": 2,
        "dtype": "bfloat16",
        "device": "cpu",
        "trust_remote_code": [],
        "revisions": {},
    }


def test_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compare_rules.py").write_text("def long(response): return len(response)\n")
    for name, text in (("a", "aaaa"), ("b", "bb")):
        rows = [{"prompt": f"p{i}", "response": text * (1 + i % 3)} for i in range(9)]
        rows[0]["response"] = "bb"  # a tie
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    command = ["compare", "a.jsonl", "b.jsonl", "--scorer", "long=compare_rules:long"]
    assert main([*command, "--resamples", "100", "--output-dir", "out"]) == 0
    shown = capsys.readouterr()
    assert "0.889" in shown.out and "0.944" in shown.out and "Open out/table.md" in shown.out
    assert "intervals over 9 prompts mean little" in shown.err
    assert main([*command, "--resamples", "100", "--output-dir", "out", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out/results.json").read_text())


def test_bad_input_is_one_line(refused: Refused, tmp_path: Path) -> None:
    a = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "x", "response": "y"}])
    b = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "z", "response": "y"}])
    out = ["--output-dir", tmp_path / "out"]
    refused("compare", a, b, *RULES, *out, names=["b.jsonl) has no answer to 1 of the 1 prompts"])
    refused("compare", a, a, *RULES, *out, names=["is both A and B"])
    refused("compare", a, b, *out, names=["nothing to judge with", "--scorer"])
