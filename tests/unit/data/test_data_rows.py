"""Every row format that is accepted, written out by hand, and every reason a row is not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab.data.loading import read_pairs
from trimtab.data.pairs import Pair
from trimtab.data.rows import Unusable, pairs_of
from trimtab.errors import DataError

USER = {"role": "user", "content": "Name a colour."}
RED = {"role": "assistant", "content": "Red."}
DOG = {"role": "assistant", "content": "Dog."}
SYSTEM = {"role": "system", "content": "Be brief."}
HI = "\n\nHuman: Hi\n\nAssistant: Hello"


def one(row: dict[str, Any]) -> Pair:
    [pair] = pairs_of(row, "f:1")
    return pair


def test_standard_text_columns_stay_as_they_are() -> None:
    row = {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}
    assert one(row) == Pair("The sky is", " blue.", " green.", "", "f:1")


def test_conversational_with_an_explicit_prompt() -> None:
    row = {"prompt": [SYSTEM, USER], "chosen": [RED], "rejected": [DOG]}
    assert one(row) == Pair([SYSTEM, USER], "Red.", "Dog.", "", "f:1")


def test_conversational_with_an_implicit_prompt() -> None:
    row = {"chosen": [USER, RED], "rejected": [USER, DOG]}
    assert one(row) == Pair([USER], "Red.", "Dog.", "", "f:1")


@pytest.mark.parametrize("prompt", ["Name a colour.", [USER]])
def test_message_sides_may_hold_the_answer_alone_or_repeat_the_prompt(prompt: Any) -> None:
    # UltraFeedback spells the same pair both ways: the prompt must not end up in it twice.
    alone = one({"prompt": prompt, "chosen": [RED], "rejected": [DOG]})
    repeated = one({"prompt": prompt, "chosen": [USER, RED], "rejected": [USER, DOG]})
    assert alone == repeated == Pair([USER], "Red.", "Dog.", "", "f:1")


def test_extra_keys_of_a_message_are_dropped() -> None:
    row = {"chosen": [{**USER, "id": 3}, RED], "rejected": [{**USER, "id": 3}, DOG]}
    assert one(row).prompt == [USER]


def test_implicit_prompt_of_plain_texts_is_their_common_beginning() -> None:
    # TRL's rule: the longest common prefix ("The sky is "), less its last space.
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert one(row) == Pair("The sky is", " blue.", " green.", "", "f:1", verbatim=True)


def test_a_dialogue_of_one_turn_becomes_a_chat() -> None:
    row = {
        "chosen": "\n\nHuman: Hi there\n\nAssistant: Hello!",
        "rejected": "\n\nHuman: Hi there\n\nAssistant: Go away.",
    }
    assert one(row) == Pair(
        [{"role": "user", "content": "Hi there"}], "Hello!", "Go away.", "", "f:1"
    )


@pytest.mark.parametrize("start", ["\n\n", "", " ", "\n \n"])
def test_a_dialogue_of_several_turns_keeps_all_but_the_last(start: str) -> None:
    # The blank lines inside the second question are its own, not a new turn.
    context = "Human: Hi\n\nAssistant: Yes?\n\nHuman: Two lines:\n\nsee?\n\nAssistant:"
    row = {"chosen": f"{start}{context} I see.", "rejected": f"{start}{context} No"}
    assert one(row).prompt == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Two lines:\n\nsee?"},
    ]
    assert (one(row).chosen, one(row).rejected) == ("I see.", "No")


def test_a_dialogue_prompt_with_plain_answers() -> None:
    row = {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Hello!", "rejected": " No."}
    assert one(row) == Pair([{"role": "user", "content": "Hi"}], "Hello!", "No.", "", "f:1")


@pytest.mark.parametrize(
    ("score", "chosen"),
    [([1.0, 0.0], "b"), ([0.0, 1.0], "c"), (None, "b")],
    ids=["as listed", "reversed", "no score: listed best first"],
)
def test_text_lists_go_by_their_score(score: Any, chosen: str) -> None:
    texts = ["\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c"]
    row = {"text": texts} if score is None else {"text": texts, "score": score}
    pair = one(row)
    assert pair.chosen == chosen
    assert {pair.chosen, pair.rejected} == {"b", "c"}


def test_the_objective_column_names_the_objective() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "objective": "helpful"}
    assert one(row).objective == "helpful"


def test_labels_swap_the_sides_per_objective() -> None:
    labels = {"helpful": 0, "harmless": 1, "funny": None}
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "labels": labels}
    assert [(p.objective, p.chosen, p.rejected) for p in pairs_of(row, "f:1")] == [
        ("helpful", "a", "b"),
        ("harmless", "b", "a"),  # 1: the second side is better; null: not judged, no pair
    ]


def test_scores_rank_the_sides_per_objective_and_ties_say_nothing() -> None:
    scores = {"helpful": [2, 1], "harmless": [0.1, 0.2], "funny": [3, 3], "kind": None}
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "scores": scores}
    assert [(p.objective, p.chosen) for p in pairs_of(row, "f:1")] == [
        ("helpful", "a"),
        ("harmless", "b"),
    ]


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "the same texts": (
        {"prompt": "p", "chosen": "a", "rejected": " a "},
        "both sides are the same",
    ),
    "the same text": ({"chosen": "the cat", "rejected": "the cat"}, "both sides are the same"),
    "the same dialogues": ({"chosen": HI, "rejected": HI + "\n"}, "both sides are the same"),
    "the same chats": ({"chosen": [USER, RED], "rejected": [USER, RED]}, "both sides are the same"),
    "the same in a list": ({"text": [HI, HI]}, "both sides are the same"),
    "an answer that calls a tool": (
        {"chosen": [USER, {**RED, "tool_calls": [{"type": "function"}]}], "rejected": [USER, DOG]},
        "an answer calls tools",
    ),
    "empty side": ({"prompt": "p", "chosen": "a", "rejected": " \n"}, "one side is empty"),
    "tie": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "scores": {"helpful": [1, 1]}},
        "a tie on every objective",
    ),
    "no label": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "labels": {"helpful": None}},
        "judged on no objective",
    ),
    "no scores": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "scores": {}},
        "judged on no objective",
    ),
    "no common beginning": ({"chosen": "yes", "rejected": "no"}, "share no beginning"),
    "parting dialogues": (
        {
            "chosen": "\n\nHuman: a\n\nAssistant: b",
            "rejected": "\n\nHuman: x\n\nAssistant: c",
        },
        "part before the last turn",
    ),
    "parting chats": ({"chosen": [USER, RED], "rejected": [SYSTEM, DOG]}, "part before"),
    "user speaks last": (
        {"chosen": [USER, RED, USER], "rejected": [USER, DOG, USER, USER]},
        "the last turn is not the assistant's",
    ),
    "no prompt": ({"chosen": [RED], "rejected": [DOG]}, "no prompt before the answer"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_rows_that_say_nothing_are_unusable(name: str) -> None:
    row, reason = UNUSABLE[name]
    with pytest.raises(Unusable, match=reason):
        list(pairs_of(row, "f:1"))


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no chosen": ({"prompt": "p", "rejected": "b"}, "no `chosen`"),
    "null rejected": ({"prompt": "p", "chosen": "a", "rejected": None}, "no `rejected`"),
    "a number": ({"prompt": "p", "chosen": "a", "rejected": 3}, "neither text nor chat"),
    "text against chat": ({"prompt": "p", "chosen": "a", "rejected": [DOG]}, "neither text nor"),
    "no role": ({"chosen": [{"content": "a"}], "rejected": [DOG]}, "`chosen`"),
    "prompt of numbers": ({"prompt": [1], "chosen": "a", "rejected": "b"}, "`prompt`"),
    "three texts": ({"text": ["a", "b", "c"]}, "3 texts"),
    "score is no number": ({"text": ["p a", "p b"], "score": ["x", 1]}, "score"),
    "label": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "labels": {"helpful": 2}},
        "label 2 for 'helpful'",
    ),
    "one score": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "scores": {"helpful": [1]}},
        "'helpful'",
    ),
    "scores are no numbers": (
        {"prompt": "p", "chosen": "a", "rejected": "b", "scores": {"helpful": ["x", 1]}},
        "'helpful'",
    ),
    "scores are NaN": (
        # NaN is neither more nor less: without a check it would pass as "chosen is better".
        {"prompt": "p", "chosen": "a", "rejected": "b", "scores": {"helpful": [float("nan"), 1]}},
        "'helpful'",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_rows_are_refused_with_their_place(name: str) -> None:
    row, what = MALFORMED[name]
    with pytest.raises(DataError, match=what) as caught:
        list(pairs_of(row, "rows.jsonl:7"))
    assert "rows.jsonl:7" in str(caught.value)
    assert caught.value.hint


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}


def test_unusable_rows_are_counted_and_named(tmp_path: Path) -> None:
    empty = {**GOOD, "rejected": ""}
    path = write_jsonl(tmp_path / "rows.jsonl", [GOOD, empty, GOOD, empty, empty, empty])
    pairs, tally = read_pairs([str(path)])
    assert [pair.source for pair in pairs] == ["rows.jsonl:1", "rows.jsonl:3"]
    assert tally.rows == 6
    assert tally.counts == {"one side is empty": 4}
    assert tally.lines() == [
        "4 rows left out: one side is empty (rows.jsonl:2, rows.jsonl:4, rows.jsonl:5, …)"
    ]


def test_malformed_rows_are_refused_or_skipped_and_counted(tmp_path: Path) -> None:
    bad = {"prompt": "p", "rejected": "b"}
    path = write_jsonl(tmp_path / "rows.jsonl", [GOOD, bad, bad])
    with pytest.raises(DataError, match=r"rows\.jsonl:2 has no `chosen`"):
        read_pairs([str(path)])
    pairs, tally = read_pairs([str(path)], skip_bad_rows=True)
    assert len(pairs) == 1
    assert tally.counts == {"has no `chosen`": 2}  # one reason, not one per row
    assert tally.unusable["has no `chosen`"] == ["rows.jsonl:2", "rows.jsonl:3"]


def test_one_objective_is_picked_out_of_several(tmp_path: Path) -> None:
    rows = [
        {**GOOD, "objective": "helpful"},
        {**GOOD, "objective": "harmless"},
        {**GOOD, "labels": {"helpful": 1, "harmless": 0}},
        GOOD,  # names no objective: belongs to the one that is asked for
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    pairs, tally = read_pairs([str(path)], "helpful")
    assert [(pair.source, pair.chosen) for pair in pairs] == [
        ("rows.jsonl:1", "a"),
        ("rows.jsonl:3", "b"),
        ("rows.jsonl:4", "a"),
    ]
    assert tally.counts == {}  # passed over, not unusable


def test_a_tie_on_the_wanted_objective_is_counted(tmp_path: Path) -> None:
    rows = [
        {**GOOD, "scores": {"helpful": [1, 1], "harmless": [1, 0]}},
        {**GOOD, "scores": {"helpful": [2, 1], "harmless": [1, 0]}},
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    pairs, tally = read_pairs([str(path)], "helpful")
    assert [pair.source for pair in pairs] == ["rows.jsonl:2"]
    assert tally.counts == {"a tie on 'helpful'": 1}


def test_an_objective_that_the_data_lack_names_those_they_have(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{**GOOD, "labels": {"b": 0, "a": 0}}])
    with pytest.raises(DataError, match="no objective 'helpful'; they have: a, b"):
        read_pairs([str(path)], "helpful")


def test_no_usable_pair_at_all_says_why(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{**GOOD, "chosen": ""}])
    with pytest.raises(DataError, match=r"no usable pair.*1 row left out: one side is empty"):
        read_pairs([str(path)])


def test_sides_that_repeat_a_text_prompt_after_a_system_turn() -> None:
    """Prompt "hi", sides [system, user hi, assistant …]: the user turn stands once."""
    turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]
    row = {
        "prompt": "hi",
        "chosen": [*turns, {"role": "assistant", "content": "hello"}],
        "rejected": [*turns, {"role": "assistant", "content": "no"}],
    }
    [pair] = pairs_of(row, "row")
    assert pair.prompt == turns
