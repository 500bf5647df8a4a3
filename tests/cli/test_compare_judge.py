"""`trimtab compare --judge`: both orders in the numbers, an estimate, refusals of its options."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_judge import Server, serving
from conftest import write_jsonl

from trimtab.cli.main import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    with serving() as server:
        yield server


@pytest.fixture
def command(server: Server, tmp_path: Path) -> list[str]:
    files = [
        write_jsonl(
            tmp_path / f"{name}.jsonl",
            [{"prompt": f"{i}?", "response": f"{name} says {i}"} for i in range(12)],
        )
        for name in "ab"
    ]
    place = server.spec.removeprefix("judge:")
    return ["compare", *map(str, files), "--judge", place, "--resamples", "100"]


def results(command: list[str], capsys: Capture) -> Any:
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_judge_that_likes_a_place(server: Server, command: list[str], capsys: Capture) -> None:
    server.replies = [(200, "Better: 1")]
    judged = results(command, capsys)["judges"]["tiny"]
    values = {key: judged[key]["value"] for key in ("win", "tie", "lose", "win_and_half_tie")}
    assert values == {"win": 0, "tie": 1, "lose": 0, "win_and_half_tie": 0.5}
    assert (judged["orders_disagree"]["value"], judged["first_shown"]["value"]) == (1, 1)
    assert len(server.bodies) == judged["replies"]["questions"] == 24


def test_a_win_in_one_order_and_a_tie_in_the_other_is_a_win(
    server: Server, command: list[str], capsys: Capture, tmp_path: Path
) -> None:
    def partly(question: str) -> str:
        if "[Answer 1]\na " in question:
            return "Better: 1"
        return "I cannot say." if "user: 3?" in question else "Better: tie"

    server.replies = [(200, partly)]
    out = tmp_path / "out"
    judged = results([*command, "--output-dir", str(out)], capsys)["judges"]["tiny"]
    assert (judged["win"]["value"], judged["win_and_half_tie"]["value"]) == (1, 0.75)
    assert (judged["missing"], judged["win"]["n"], judged["replies"]["unread"]) == (1, 11, 1)
    rows = [json.loads(line) for line in (out / "verdicts.jsonl").read_text().splitlines()]
    assert [row["verdicts"]["tiny"] for row in rows] == [0.75] * 3 + [None] + [0.75] * 8
    assert [row["orders"]["tiny"] for row in rows[2:4]] == [[1, 0.5], None]
    table = (out / "table.md").read_text()
    assert "| tiny | 1.000 | 0.000 | 0.000 | 0.750" in table
    last = next(line for line in table.splitlines() if line.endswith("| 24 | 1 |"))
    assert last.startswith("| tiny | 1.000 [") and "| 0.750 [" in last  # disagree, first shown


def test_the_estimate_alone(server: Server, command: list[str], capsys: Capture) -> None:
    assert main([*command, "--judge-price", "2,10", "--judge-max-cost", "0"]) == 2
    said = capsys.readouterr().err
    assert "tokens in and 3,600 out, which cost about 0.0" in said and said.count("\n") == 1
    assert not server.bodies


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--judge-price", "2"], "cannot read the price '2'; write IN,OUT"),
        (["--judge-max-cost", "2"], "--judge-max-cost without --judge-price"),
        (["--judge-template", "nowhere.txt"], "no template nowhere.txt"),
        (["--judge", "gpt"], "cannot read the judge of pairs; write it like judge:MODEL@http"),
        (["--scorer", "tiny=len:len"], "called 'tiny'"),
    ],
)
def test_options_that_cannot_work(
    options: list[str], complaint: str, server: Server, command: list[str], capsys: Capture
) -> None:
    assert main([*command, *options]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1 and not server.bodies


def test_options_of_a_judge_that_is_not_named(command: list[str], capsys: Capture) -> None:
    bare = command[:3]
    assert main([*bare, "--judge-rubric", "kind"]) == 2
    assert "--judge-rubric without --judge" in capsys.readouterr().err
    assert main(bare) == 2
    assert "give --scorer NAME=SCORER or --judge MODEL@URL" in capsys.readouterr().err
