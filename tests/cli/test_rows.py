"""Rows as people bring them: misspelt keys, chats as text, tools, half characters."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import test_bad_input
from conftest import write_jsonl
from test_bad_input import CHAT, GOOD, Refused, train

from trimtab.cli.main import main

refused = test_bad_input.refused  # the fixture: it looks at tmp_path before and after
Capture = pytest.CaptureFixture[str]

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "weather"}}


def run_json(capsys: Capture, *argv: object) -> Any:
    capsys.readouterr()
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"stregth": 2}, "has an unknown key `stregth`; do you mean `strength`?"),
        ({"max_tokens": 2}, "has an unknown key `max_tokens`; do you mean `max_new_tokens`?"),
        ({"Preference": "a=1"}, "has an unknown key `Preference`; do you mean `preference`?"),
        ({"stop": "x"}, "has an unknown key `stop`; "),
        ({"note": "x"}, "has an unknown key `note`; the keys are prompt, tools, preference, "),
        ({"id": "\ud83d"}, "has a `id` with half a character"),
        ({"prompt": "\ud83d"}, "has a `prompt` with half a character"),
        ({"prompt": [{"role": "user", "content": "\udc00"}]}, "has a `prompt` with half a char"),
        ({"prompt": "[{'role': 'user', 'content': 'hel"}, "begins like a chat and cannot be read"),
        ({"tools": "weather"}, "has `tools` that are no list of objects"),
        ({"preference": '{"a": 1'}, "has preference '{\"a\": 1'; write NAME=WEIGHT,…"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; give a whole number"),
        ({"top_k": True}, "top_k is True; give a whole number"),
        ({"seed": 1.5}, "has seed 1.5; give a whole number"),
    ],
)
def test_bad_prompts_rows(
    refused: Refused, base_dir: Path, tmp_path: Path, row: dict[str, Any], named: str
) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "hello"}, {"prompt": "hello", **row}])
    files = ["--input", path, "--output", tmp_path / "out.jsonl"]
    refused("generate", "--base", base_dir, *files, names=["row 2 of the input", named])


def test_an_id_that_cannot_be_written(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "in.parquet"
    rows = [{"prompt": "hello", "id": datetime.datetime(2026, 1, 1)}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    named = ["row 1 of the input has an `id` that JSON cannot hold"]
    refused("generate", "--base", base_dir, "--input", path, names=named)


def test_half_a_character_elsewhere(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    """The shell hands on bytes that are no UTF-8 as lone surrogates."""
    refused("generate", "--base", base_dir, "--prompt", "h\udce9llo", names=["half a character"])
    path = write_jsonl(tmp_path / "rows.jsonl", [GOOD, {"prompt": "a", "response": "\ud83d"}])
    named = ["rows.jsonl:2 has a `response` with half a character"]
    refused("score", "--arm", base_dir, "--input", path, names=named)
    path = write_jsonl(tmp_path / "pairs.jsonl", [GOOD, {**GOOD, "chosen": "\ud83d"}])
    named = ["pairs.jsonl:2 has a `chosen` with half a character"]
    refused(*train(base_dir, path, tmp_path / "out"), names=named)
    refused("accuracy", "--arm", base_dir, "--data", path, names=named)
    refused("score", "--arm", base_dir, "--input", path, names=named)


def test_half_characters_can_be_skipped(base_dir: Path, tmp_path: Path, capsys: Capture) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [GOOD, {**GOOD, "chosen": "\ud83d"}, GOOD])
    command = ["accuracy", "--arm", base_dir, "--data", path, "--split", "all", "--skip-bad-rows"]
    rows = run_json(capsys, *command)["rows"]
    assert rows == {"read": 3, "has a `chosen` with half a character (a lone surrogate)": 1}


def test_equal_pairs_are_counted_and_the_others_used(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    """In text, in chats and in a list: the same count without any flag."""
    said = [{"role": "assistant", "content": "a"}]
    same = [
        {"prompt": "the cat", "chosen": "a", "rejected": "a"},
        {"prompt": [USER], "chosen": said, "rejected": said},
        {"text": ["\n\nHuman: Hi\n\nAssistant: a"] * 2},
        {"prompt": "the cat", "chosen": json.dumps([USER, *said]), "rejected": str([USER, *said])},
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", [GOOD, *same])
    found = run_json(capsys, "accuracy", "--arm", base_dir, "--data", path, "--split", "all")
    assert found["rows"] == {"read": 5, "both sides are the same": 4}
    assert found["arm"]["n"] == 1


def test_chats_as_text_are_answered_and_scored_as_chats(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = [{"prompt": [USER]}, {"prompt": json.dumps([USER])}, {"prompt": str([USER])}]
    path = write_jsonl(tmp_path / "in.jsonl", rows)
    greedy = ["--max-new-tokens", 4, "--temperature", 0]
    answers = run_json(capsys, "generate", "--base", base_dir, "--input", path, *greedy)
    assert [row["prompt"] for row in answers] == [[USER]] * 3
    assert len({row["text"] for row in answers}) == 1
    write_jsonl(path, [{**row, "response": "yes"} for row in rows])
    scored = run_json(capsys, "score", "--arm", base_dir, "--input", path)
    assert [row["prompt"] for row in scored] == [[USER]] * 3
    assert len({row["reward"] for row in scored}) == 1


def test_tables_fill_prompts_rows(base_dir: Path, tmp_path: Path, capsys: Capture) -> None:
    """An empty misspelt column says nothing; numbers come as 3.0; an object comes as text."""
    path = tmp_path / "prompts.csv"
    cells = 'prompt,stregth,max_new_tokens,seed,preference\nhello,,3.0,7.0,"{""a"": 1}"\n'
    path.write_text(cells)
    command = ["generate", "--base", base_dir, "--arm", f"a={base_dir}", "--input", path]
    [row] = run_json(capsys, *command, "--report")
    assert (row["seed"], row["preference"]) == (7, {"a": 1.0})
    assert len(row["tokens"]) <= 3


def test_preference_data_can_be_answered(base_dir: Path, tmp_path: Path, capsys: Capture) -> None:
    rows = [{**CHAT, "labels": {"a": 0}, "objective": "a"}]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    command = ["generate", "--base", base_dir, "--input", path, "--max-new-tokens", 2]
    assert len(run_json(capsys, *command)) == 1


def test_tools_that_the_template_does_not_show_are_said(
    base_dir: Path, tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    """By training with the rows counted; by decoding and scoring once."""
    path = write_jsonl(tmp_path / "pairs.jsonl", [{**CHAT, "tools": [TOOL]}] * 3)
    short = ["--max-steps", 1, "--save-strategy", "no", "--split", "none"]
    run_json(capsys, *train(base_dir, path, tmp_path / "out"), *short)
    said = "3 rows: the chat template does not show `tools` (pairs.jsonl:1, pairs.jsonl:2, pairs."
    assert any(record.message.startswith(said) for record in caplog.records)
    for command in (["generate", "--base"], ["score", "--arm"]):
        caplog.clear()
        more = ["--max-new-tokens", 2] if command[0] == "generate" else []
        run_json(capsys, *command, base_dir, "--input", path, *more)
        found = [r.message for r in caplog.records if "does not show `tools`" in r.message]
        assert len(found) == 1


def test_a_row_has_its_own_budget_and_gate(
    base_dir: Path, arm_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A budget of 0 nats is the base; a gate of nearly 0 leaves the ARM out everywhere."""
    prompt = "the cat sat on"
    rows = [
        {"prompt": prompt, "seed": 1, "strength": 0},
        {"prompt": prompt, "seed": 1},
        {"prompt": prompt, "seed": 1, "kl_budget": 0},
        {"prompt": prompt, "seed": 1, "gate": "1e-9"},
    ]
    path = write_jsonl(tmp_path / "in.jsonl", rows)
    models = ["--base", base_dir, "--arm", f"happy={arm_dir}", "--strength", 3]
    unguided, guided, within, gated = run_json(
        capsys, "generate", *models, "--input", path, "--max-new-tokens", 12
    )
    assert guided["text"] != unguided["text"]
    assert within["text"] == gated["text"] == unguided["text"]
    assert gated["gated"] > 0 and "gated" not in guided


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"kl_budget": -1}, "kl_budget is -1.0; it must be 0 nats or more"),
        ({"gate": 2}, "gate is 2.0; it must be a probability"),
        ({"gate": "much"}, "gate is 'much'; give a number"),
    ],
)
def test_bad_budgets_and_gates(
    refused: Refused, base_dir: Path, tmp_path: Path, row: dict[str, Any], named: str
) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "hello"}, {"prompt": "hello", **row}])
    refused("generate", "--base", base_dir, "--input", path, names=["row 2 of the input", named])


def test_a_prompt_of_half_a_character_is_refused_before_loading(
    refused: Refused, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimtab.engines.local.load_engine", None)
    said = "the command line has a `prompt` with half a character"
    refused("generate", "--base", base_dir, "--prompt", "moon \ud83d", names=[said])
