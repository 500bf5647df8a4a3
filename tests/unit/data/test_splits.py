"""The data contract's split rule, computed again by hand, and the real files it is meant for."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from trimtab.data.loading import read_pairs
from trimtab.data.pairs import split_of
from trimtab.models.messages import Message, Prompt, first_user_turn

CHAT: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " q1 \n"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "q2"},
]


def test_the_first_user_turn_decides() -> None:
    assert first_user_turn(CHAT) == " q1 \n"
    assert first_user_turn("a plain prompt") == "a plain prompt"


@pytest.mark.parametrize(
    # SHA-1 modulo 10, worked out apart from the package: cat 0, hello 1, dog 4, q1 6.
    ("prompt", "split"),
    [
        ("cat", "test"),
        ("  cat\n", "test"),
        ("hello", "validation"),
        ("dog", "train"),
        ("q1", "train"),
        ([{"role": "user", "content": "cat"}], "test"),
        (
            [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "cat"}],
            "validation",
        ),
    ],
)
def test_known_prompts(prompt: Prompt, split: str) -> None:
    assert split_of(prompt) == split


def test_the_rule_on_many_prompts() -> None:
    for prompt in (f" prompt {i} é\n" for i in range(200)):
        residue = int(hashlib.sha1(prompt.strip().encode()).hexdigest(), 16) % 10
        assert split_of(prompt) == {0: "test", 1: "validation"}.get(residue, "train")


@pytest.mark.parametrize(
    # Row counts and rows with a shared context as the data's README states them; in each file
    # four of the latter have an empty side.
    ("name", "rows", "shared_context", "empty"),
    [
        ("harmless-base.test.jsonl.gz", 2312, 2307, 4),
        ("helpful-base.test.json.xz", 2352, 2343, 4),
    ],
)
def test_real_dialogues(
    shared: Path, name: str, rows: int, shared_context: int, empty: int
) -> None:
    pairs, tally = read_pairs([str(shared / "data/hh-rlhf" / name)])
    assert tally.rows == rows
    assert tally.counts == {
        "the two dialogues part before the last turn": rows - shared_context,
        "one side is empty": empty,
    }
    assert len(pairs) == shared_context - empty
    for pair in pairs:
        assert isinstance(pair.prompt, list)
        roles = [message["role"] for message in pair.prompt]
        assert roles[-1] == "user"
        assert roles[0] == "user"


def test_no_real_prompt_is_on_both_sides_of_a_split(shared: Path) -> None:
    folder = shared / "data/hh-rlhf"
    names = ("harmless-base.test.jsonl.gz", "helpful-base.test.json.xz")
    pairs, _ = read_pairs([str(folder / name) for name in names])
    sides: dict[str, set[str]] = {}
    for pair in pairs:
        sides.setdefault(first_user_turn(pair.prompt).strip(), set()).add(split_of(pair.prompt))
    assert len(sides) < len(pairs)  # prompts do repeat, so the claim is not empty
    assert all(len(splits) == 1 for splits in sides.values())
    counts = Counter(split_of(prompt) for prompt in sides)
    # Tenths of n prompts by a fair hash: within five standard deviations, sqrt(n * 0.09).
    slack = 5 * (len(sides) * 0.09) ** 0.5
    for split in ("test", "validation"):
        assert abs(counts[split] - len(sides) / 10) < slack


def test_real_prompts_with_last_turns_are_plain_text(shared: Path) -> None:
    path = shared / "data/hh-rlhf/harmless-base.train5000.lastturn.json.xz"
    pairs, tally = read_pairs([str(path)])
    assert (tally.rows, len(pairs)) == (5000, 4999)  # "one row has an empty side"
    assert tally.counts == {"one side is empty": 1}
    assert len({pair.prompt for pair in pairs if isinstance(pair.prompt, str)}) <= 4406
