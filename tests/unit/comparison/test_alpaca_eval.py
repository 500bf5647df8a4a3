"""AlpacaEval's outputs: written, read again, and what they have no place for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab import TrimtabError, generate, write_alpaca_eval
from trimtab.comparison.sides import read_meeting

ANSWERS: list[dict[str, Any]] = [
    {"index": 0, "dataset": "koala", "prompt": "x", "text": "A", "finish_reason": "stop"},
    {"index": 1, "prompt": [{"role": "user", "content": "y"}], "text": "", "finish_reason": "stop"},
]


def test_what_is_written_is_what_alpaca_eval_reads_and_compare(tmp_path: Path) -> None:
    rows, out = write_jsonl(tmp_path / "out.jsonl", ANSWERS), tmp_path / "outputs.json"
    entries = write_alpaca_eval(rows, out, generator="mine")
    assert (
        json.loads(out.read_text())
        == entries
        == [
            {"dataset": "koala", "instruction": "x", "output": "A", "generator": "mine"},
            {"instruction": "y", "output": "", "generator": "mine"},
        ]
    )
    [pair, _] = read_meeting(rows, out).pairs()
    assert pair.a.response == pair.b.response == "A"
    assert write_alpaca_eval(ANSWERS, out, generator="mine") == entries  # its own file again


@pytest.mark.parametrize(
    ("rows", "generator", "said"),
    [
        ([*ANSWERS, {**ANSWERS[0]}], "m", "prompts 1 and 3 are the same: 'x'"),
        ([{**ANSWERS[0], "prompt": [ANSWERS[1]["prompt"][0]] * 2}], "m", "row 1 is a chat of sev"),
        ([{"prompt": "x", "chosen": "a", "rejected": "b"}], "m", "row 1 is no answer"),
        (ANSWERS, " ", "have no name; give --generator NAME"),
    ],
)
def test_what_has_no_place(tmp_path: Path, rows: list[Any], generator: str, said: str) -> None:
    with pytest.raises(TrimtabError, match=r"^[^\n]*$") as refused:
        write_alpaca_eval(rows, tmp_path / "o.json", generator=generator)
    assert said in str(refused.value) and not list(tmp_path.iterdir())


def test_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    for held in ("[]", "{}", "no JSON", json.dumps([{"instruction": "x", "generator": "m"}])):
        out.write_text(held)
        with pytest.raises(TrimtabError, match="holds something else than answers of m"):
            write_alpaca_eval(ANSWERS, out, generator="m")
        assert out.read_text() == held
    assert len(write_alpaca_eval(ANSWERS, out, generator="m", overwrite=True)) == 2
    with pytest.raises(TrimtabError, match="is a folder"):
        write_alpaca_eval(ANSWERS, tmp_path, generator="m")


def test_generate_reads_alpaca_evals_prompts_and_writes_its_outputs(
    base_dir: Path, tmp_path: Path
) -> None:
    prompts = [
        {"id": 5, "dataset": "koala", "instruction": "the cat"},
        {"instruction": "the dog", "input": "sat"},
    ]
    source, out = write_jsonl(tmp_path / "eval.jsonl", prompts), tmp_path / "out.jsonl"
    options: dict[str, Any] = {
        "base": str(base_dir), "input": str(source), "output": out, "max_new_tokens": 3,
        "alpaca_eval": tmp_path / "outputs.json", "generator": "tiny", "say": lambda line: None,
    }  # fmt: skip
    generate(**options)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["the cat", "the dog\nsat"]
    assert rows[0]["dataset"] == "koala" and rows[0]["id"] == 5 and "dataset" not in rows[1]
    expected = [
        {"dataset": "koala", "instruction": "the cat", "output": rows[0]["text"]},
        {"instruction": "the dog\nsat", "output": rows[1]["text"]},
    ]
    written = tmp_path / "outputs.json"
    assert json.loads(written.read_text()) == [{**e, "generator": "tiny"} for e in expected]
    written.unlink()
    generate(**options)  # finished: written again
    assert [entry["output"] for entry in json.loads(written.read_text())] == [
        row["text"] for row in rows
    ]
    memory = generate(**{**options, "output": None, "alpaca_eval": tmp_path / "two.json"})
    assert memory == rows
    assert (tmp_path / "two.json").read_text() == written.read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"generator": ""}, "give --generator NAME"),
        ({"alpaca_eval": None}, "--generator m names nothing"),
        ({"alpaca_eval": "in.jsonl"}, "in.jsonl is --alpaca-eval and more"),
        ({"alpaca_eval": "out.jsonl", "output": "out.jsonl"}, "is --alpaca-eval and more"),
        ({"alpaca_eval": "held.json"}, "holds something else"),
        ({"input": [{"prompt": "x", "instruction": "y"}]}, "unknown key `instruction`"),
        ({"input": [{"prompt": "x"}, {"prompt": "x"}]}, "prompts 1 and 2 are the same"),
        ({"input": [{"prompt": "x", "dataset": b"y"}]}, "`dataset` that JSON cannot hold"),
    ],
)
def test_generate_refuses_it_before_a_model_is_loaded(
    tmp_path: Path, base_dir: Path, monkeypatch: pytest.MonkeyPatch, more: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trimtab.engines.local.load_engine", None)
    write_jsonl(tmp_path / "in.jsonl", [{"instruction": "x"}])
    (tmp_path / "held.json").write_text("[]")
    options = {"input": "in.jsonl", "alpaca_eval": "o.json", "generator": "m", **more}
    with pytest.raises(TrimtabError, match=r"^[^\n]*$") as refused:
        generate(base=str(base_dir), **options)
    assert said in str(refused.value)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "held.json"}
