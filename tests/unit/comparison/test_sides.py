"""Answers of two sides, met by prompt, and what cannot be met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab.comparison.numbers import cells_of
from trimtab.comparison.sides import read_meeting, text_prompt
from trimtab.errors import TrimtabError

CHAT = [{"role": "user", "content": "hello"}]


def rows(**answers: str | list[str]) -> list[Any]:
    """A row for each answer to each prompt."""
    return [
        {"prompt": prompt, "response": text}
        for prompt, texts in answers.items()
        for text in ([texts] if isinstance(texts, str) else texts)
    ]


def test_answers_meet_by_prompt_whatever_their_order_and_layout(tmp_path: Path) -> None:
    a = write_jsonl(
        tmp_path / "a.jsonl",
        [
            {"prompt": CHAT, "text": "A1", "finish_reason": "stop", "seed": 0},
            {"prompt": "bye", "text": "A2", "finish_reason": "length", "seed": 1},
            {"prompt": CHAT, "text": "A3", "finish_reason": "stop", "seed": 2},
        ],
    )
    b = tmp_path / "b.json"
    told = [("bye", "B1"), ("hello", "B2"), ("hello", "B3")]
    outputs = [{"instruction": i, "output": o, "generator": "m"} for i, o in told]
    b.write_text(json.dumps(outputs))
    meeting = read_meeting(str(a), b)
    met = [(pair.a.response, pair.b.response) for pair in meeting.pairs()]
    assert met == [("A1", "B2"), ("A2", "B1"), ("A3", "B3")]
    assert meeting.prompt_of == (0, 1, 0) and meeting.prompts == 2 and meeting.shape == (1, 2)


def test_seeds_meet_their_own_or_all_of_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for seed in (0, 1):
        write_jsonl(folder / f"seed-{seed}.jsonl", rows(x=f"a{seed}", y=f"a{seed}"))
        (folder / f"seed-{seed}.jsonl.job.json").write_text("{}")  # as `generate` leaves it
    others = [write_jsonl(tmp_path / f"{s}.jsonl", rows(y=f"b{s}", x=f"b{s}")) for s in range(3)]
    two = read_meeting(folder, others[:2])
    assert two.by_seed and two.shape == (2, 2)
    assert [(p.a.response, p.b.response) for p in two.pairs()][::2] == [("a0", "b0"), ("a1", "b1")]
    three = read_meeting(folder, others)
    assert not three.by_seed and three.shape == (2, 3, 2)
    met = [(pair.a.response, pair.b.response) for pair in three.pairs()]
    assert met[::2] == [(f"a{i}", f"b{j}") for i in range(2) for j in range(3)]
    assert cells_of(three).tolist() == list(range(12))


def test_identity_is_of_answers_and_sides(tmp_path: Path) -> None:
    a, b, c = (
        write_jsonl(tmp_path / f"{name}.jsonl", rows(x=name, y="z")) for name in ("a", "b", "c")
    )
    assert len({read_meeting(*sides).sha256() for sides in ((a, b), (b, a), (a, c))}) == 3


def test_only_a_single_user_turn_is_a_text() -> None:
    assert text_prompt([{"role": "user", "content": "hi"}]) == "hi"
    for chat in ([{"role": "system", "content": "hi"}], [*CHAT, *CHAT]):
        assert text_prompt(chat) == chat  # type: ignore[arg-type]
    with_tools: Any = [{**CHAT[0], "tools": [{"type": "function"}]}]
    assert text_prompt(with_tools) == with_tools


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (rows(x="1", y="2", z="3"), rows(x="1"), "has no answer to 2 of the 3 prompts of A"),
        (rows(x="1"), rows(x="1", y="2"), "has no answer to 1 of the 2 prompts of B"),
        (rows(x="1", y="2"), rows(x="1", q="2"), "such as 'y'"),
        (rows(x=["1", "2"]), rows(x="1"), "has more answers to 'x' than B"),
        (rows(x="1"), rows(x=["1", "2"]), "has more answers to 'x' than A"),
        (rows(x="1"), [], "b.jsonl is empty"),
        (rows(x="1"), [{"prompt": "x", "response": None}], "b.jsonl:1 has no text"),
        (rows(x="1"), [{"prompt": "x", "chosen": "1", "rejected": "2"}], "b.jsonl:1 is no answer"),
        (rows(x="1"), [{"response": "1"}], "b.jsonl:1 has no text `prompt` and `response`"),
    ],
)
def test_sides_that_cannot_meet(tmp_path: Path, a: list[Any], b: list[Any], said: str) -> None:
    one, other = write_jsonl(tmp_path / "a.jsonl", a), write_jsonl(tmp_path / "b.jsonl", b)
    with pytest.raises(TrimtabError) as refused:
        read_meeting(one, other)
    assert said in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_files_that_are_no_two_sides(tmp_path: Path) -> None:
    a = write_jsonl(tmp_path / "a.jsonl", rows(x="1"))
    b = write_jsonl(tmp_path / "b.jsonl", rows(x="2"))
    other = write_jsonl(tmp_path / "c.jsonl", rows(y="2"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.jsonl").symlink_to(a)
    for sides, said in (
        ((a, a), "is both A and B"),
        ((a, tmp_path / "link.jsonl"), "is both A and B"),
        ((a, [b, b]), "is two seeds of B"),
        ((a, [b, other]), "c.jsonl) has no answer to 1 of the 1 prompts of A"),
        ((a, []), "B has no file of answers"),
        ((a, tmp_path / "empty"), "holds no file of answers"),
        ((a, tmp_path / "none.jsonl"), "no such file"),
    ):
        with pytest.raises(TrimtabError, match=r"^[^\n]*$") as refused:
            read_meeting(*sides)
        assert said in str(refused.value)
