"""`--instruct` and `--contrast`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import test_bad_input
from conftest import write_jsonl
from test_bad_input import Refused

import trimtab
from trimtab.cli.main import main

refused = test_bad_input.refused
Capture = pytest.CaptureFixture[str]


def run(*argv: object) -> int:
    return main(["generate", "--max-new-tokens", "6", *map(str, argv)])


def test_answers_go_on_under_the_same_guides_only(
    base_dir: Path, arm_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    texts = ["the cat", "moon", "yes"]
    prompts = write_jsonl(tmp_path / "in.jsonl", [{"prompt": text} for text in texts])
    out = tmp_path / "out.jsonl"
    ask = ["--base", base_dir, "--input", prompts, "--output", out]
    guides = ["--instruct", "plain=-2:big red sun", "--contrast", f"c={arm_dir}:{base_dir}"]
    assert run(*ask, *guides, "--preference", "plain=0.4,c=0.6") == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["preference"] for row in rows] == [{"c": 0.6, "plain": 0.4}] * 3
    engine = trimtab.load(
        str(base_dir),
        instruct={"plain": {"text": "big red sun", "weight": -2}},
        contrast={"c": (str(arm_dir), str(base_dir))},
    )
    expected = engine.generate(texts, preference={"plain": 0.4, "c": 0.6}, max_new_tokens=6)
    assert [row["text"] for row in rows] == [answer.text for answer in expected]
    out.write_text(out.read_text().splitlines(keepends=True)[0])
    assert run(*ask, *guides, "--preference", "plain=0.4,c=0.6") == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    capsys.readouterr()
    guides[1] = "plain=-2:big blue sun"
    assert run(*ask, *guides, "--preference", "plain=0.4,c=0.6") == 2
    assert "another run" in capsys.readouterr().err


def test_rows_with_instructions_of_their_own(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    own: list[object] = ["big blue sun", {"weight": 2}, {"text": "moon", "weight": -1}]
    rows = [{"prompt": "the cat", "instructions": {"plain": given}} for given in own]
    prompts = write_jsonl(tmp_path / "in.jsonl", [*rows, {"prompt": "the cat"}])
    out = tmp_path / "out.jsonl"
    ask = ["--base", base_dir, "--input", prompts, "--output", out, "--temperature", 0]
    assert run(*ask, "--instruct", "plain=-2:big red sun") == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row.get("instructions") for row in found] == [row["instructions"] for row in rows] + [
        None
    ]
    texts = [{"text": "big blue sun", "weight": -2}, {"text": "big red sun", "weight": 2}]
    texts += [{"text": "moon", "weight": -1}, {"text": "big red sun", "weight": -2}]
    for row, text in zip(found, texts, strict=True):
        engine = trimtab.load(str(base_dir), instruct={"plain": text})
        [answer] = engine.generate(["the cat"], temperature=0, max_new_tokens=6)
        assert answer.text == row["text"]
    assert len({row["text"] for row in found}) > 1


def test_bad_input(refused: Refused, base_dir: Path) -> None:
    ask = ["generate", "--base", base_dir, "--prompt", "x"]
    refused(*ask, "--instruct", "plain", names=["cannot read --instruct plain", "Use short words"])
    refused(*ask, "--contrast", "safe=a", names=["'safe' is not of two models", "TUNED:UNTUNED"])
    refused(
        *ask, "--instruct", "plain=big", "--preference", "plain=-1",
        names=["the weight of 'plain' is negative", "plain=-0.5:..."],
    )  # fmt: skip
    refused(*ask, "--instruct", "a=x", "--contrast", "a=b:c", names=["two guides are called 'a'"])
    refused(*ask, "--instruct", "base=x", names=["a guide is called 'base'"])
    refused(*ask, "--instruct", "plain=big", "--preference", "fancy=1", names=["fancy", "plain"])
