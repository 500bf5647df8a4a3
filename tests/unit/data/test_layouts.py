"""Every published layout, on rows made up in its shape: which text is better, and as to what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab.data.loading import read_pairs, usable_rows
from trimtab.data.pairs import Pair
from trimtab.data.reading import Reading
from trimtab.data.rows import pairs_of
from trimtab.data.tally import RowTally
from trimtab.errors import DataError

Found = list[tuple[str, str, str]]


def said(pairs: list[Pair]) -> Found:
    """(objective, better, worse) of each pair."""
    return [(pair.objective, pair.chosen, pair.rejected) for pair in pairs]


def read(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> tuple[list[Pair], RowTally]:
    path = write_jsonl(tmp_path / "rows.jsonl", list(rows))
    tally = RowTally()
    reading = Reading.of(**options)
    found = usable_rows([str(path)], lambda r, p: list(pairs_of(r, p)), tally, reading=reading)
    return [pair for pairs in found for pair in pairs], tally


def refused(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, *rows, **options)
    return str(caught.value)


# --- two answers --------------------------------------------------------------------------------

PKU = {
    "prompt": "How do I open a lock?",
    "response_0": "With a key.",
    "response_1": "Break the door.",
    "prompt_source": "made up",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "response_0_severity_level": 0,
    "response_1_severity_level": 2,
    "better_response_id": 1,
    "safer_response_id": 0,
}


def test_pku_safe_rlhf(tmp_path: Path) -> None:
    """Ids count from 0. The first row's second response is the more helpful one."""
    other = {**PKU, "better_response_id": 0, "safer_response_id": 1}
    pairs, tally = read(tmp_path, PKU, other)
    assert said(pairs) == [
        ("helpful", "Break the door.", "With a key."),
        ("harmless", "With a key.", "Break the door."),
        ("helpful", "With a key.", "Break the door."),
        ("harmless", "Break the door.", "With a key."),
    ]
    assert pairs[0].prompt == "How do I open a lock?"
    assert tally.layouts == {"PKU-SafeRLHF": 2}
    assert tally.lines() == [
        "columns not used: prompt_source, is_response_0_safe, is_response_1_safe, "
        "response_0_severity_level, response_1_severity_level"
    ]


def test_pku_with_one_dimension_names_no_objective(tmp_path: Path) -> None:
    row = {key: PKU[key] for key in ("prompt", "response_0", "response_1", "better_response_id")}
    assert said(read(tmp_path, row)[0]) == [("", "Break the door.", "With a key.")]
    path = tmp_path / "rows.jsonl"
    [pair] = read_pairs([f"helpful={path}"], "helpful")[0]
    assert (pair.objective, pair.chosen) == ("helpful", "Break the door.")


def test_pku_ids_that_are_none(tmp_path: Path) -> None:
    pairs, tally = read(tmp_path, {**PKU, "better_response_id": None}, PKU)
    assert said(pairs)[0] == ("harmless", "With a key.", "Break the door.")
    assert len(pairs) == 3 and not tally.unusable
    assert "has 2 in `better_response_id`; it must be 0 or 1" in refused(
        tmp_path, {**PKU, "better_response_id": 2}
    )


SHP = {
    "post_id": "x1",
    "domain": "made_up",
    "history": "Why is the sky blue?",
    "human_ref_A": "It is not.",
    "human_ref_B": "Light scatters.",
    "score_A": 3,
    "score_B": 8,
    "labels": 0,
    "score_ratio": 2.7,
}


def test_shp(tmp_path: Path) -> None:
    """`labels` is 1 where A is preferred, 0 where B is: the other way round than an index."""
    pairs, _ = read(tmp_path, SHP, {**SHP, "labels": 1, "score_A": 9})
    assert said(pairs) == [
        ("", "Light scatters.", "It is not."),
        ("", "It is not.", "Light scatters."),
    ]
    [named, _] = read_pairs([f"helpful={tmp_path / 'rows.jsonl'}"], "helpful")[0]
    assert (named.objective, named.chosen) == ("helpful", "Light scatters.")


HS2 = {
    "split": "train",
    "prompt": "Name a colour.",
    "response_1": "Red.",
    "response_2": "Dog.",
    "preference_strength": -2,
    "preference_statement": "made up",
}
HS3 = {
    "domain": "general",
    "language": "english",
    "context": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Name a colour."},
    ],
    "response1": "Dog.",
    "response2": "Red.",
    "overall_preference": 1,
    "individual_preference": [{"score": 1, "reasoning": "made up"}],
}


def test_helpsteer_preferences(tmp_path: Path) -> None:
    """Below 0 the first response is better, above 0 the second; 0 is a tie."""
    rows = [HS2, {**HS2, "preference_strength": 3}, {**HS2, "preference_strength": 0}]
    pairs, tally = read(tmp_path, *rows)
    assert said(pairs) == [("", "Red.", "Dog."), ("", "Dog.", "Red.")]
    assert tally.unusable == {"a tie": ["rows.jsonl:3"]}
    pairs, _ = read(tmp_path, HS3, {**HS3, "overall_preference": -3})
    assert said(pairs) == [("", "Red.", "Dog."), ("", "Dog.", "Red.")]
    assert pairs[0].prompt == HS3["context"]
    assert "has -100 in `overall_preference`; it must be -3 to 3" in refused(
        tmp_path, {**HS3, "overall_preference": -100}
    )


A = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
B = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away."}]
MORE = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
OTHER = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
ARENA = {"model_a": "m", "model_b": "n", "winner": "model_b", "conversation_a": A}


def test_arena_chats(tmp_path: Path) -> None:
    rows = [
        {**ARENA, "conversation_b": B, "turn": 1},
        {**ARENA, "conversation_b": B, "turn": 1, "winner": "model_a"},
        {**ARENA, "conversation_b": B, "turn": 1, "winner": "tie"},
        {**ARENA, "conversation_b": B, "turn": 1, "winner": "tie (bothbad)"},
        {**ARENA, "conversation_b": B, "turn": 1, "winner": "both_bad"},
        {**ARENA, "conversation_a": A + MORE, "conversation_b": B + OTHER, "turn": 2},
        {**ARENA, "conversation_a": A + MORE, "conversation_b": A + OTHER, "turn": 2},
    ]
    pairs, tally = read(tmp_path, *rows)
    assert said(pairs) == [
        ("", "Go away.", "Hello."),
        ("", "Hello.", "Go away."),
        ("", "Because.", "So."),
    ]
    assert pairs[0].prompt == A[:1] and pairs[2].prompt == A + MORE[:1]
    assert tally.unusable == {
        "a tie": ["rows.jsonl:3", "rows.jsonl:4", "rows.jsonl:5"],
        "the two dialogues part before the last turn": ["rows.jsonl:6"],
    }


def test_mt_bench_judges_the_first_turn_of_two(tmp_path: Path) -> None:
    """Both turns are always there; a verdict on turn 1 says nothing of the second answers."""
    row = {**ARENA, "conversation_a": A + MORE, "conversation_b": B + OTHER, "judge": "x"}
    assert said(read(tmp_path, {**row, "turn": 1})[0]) == [("", "Go away.", "Hello.")]


def test_arena_content_in_parts(tmp_path: Path) -> None:
    def parts(chat: list[dict[str, str]]) -> list[dict[str, Any]]:
        return [
            {**m, "content": [{"type": "text", "text": m["content"], "image": None}]} for m in chat
        ]

    row = {**ARENA, "conversation_a": parts(A), "conversation_b": parts(B)}
    assert said(read(tmp_path, row)[0]) == [("", "Go away.", "Hello.")]
    picture = [{"role": "user", "content": [{"type": "image", "image": "x"}]}, A[1]]
    text = refused(tmp_path, {**row, "conversation_a": picture, "conversation_b": picture})
    assert "neither text nor chat messages" in text


@pytest.mark.parametrize("winner", [0, 1, "1", "left", 2])
def test_a_winner_that_could_mean_either_is_refused(tmp_path: Path, winner: object) -> None:
    text = refused(tmp_path, {**ARENA, "conversation_b": B, "winner": winner})
    assert f"rows.jsonl:1 has {winner!r} in `winner`; it must be model_a, model_b or tie" in text


ONE_HOT = {
    "id": 1,
    "prompt": '["Hi"]',
    "response_a": '["Hello."]',
    "response_b": '["Go \\"away\\"."]',
    "winner_model_a": 0,
    "winner_model_b": 1,
    "winner_tie": 0,
}


def test_arena_answers_with_one_column_per_outcome(tmp_path: Path) -> None:
    """Cells are JSON lists, an entry a turn; `null` is an answer that never came."""
    two = {"prompt": '["Hi", "Why?"]', "response_a": '["Hello.", "So."]'}
    rows = [
        ONE_HOT,
        {**ONE_HOT, "winner_model_a": "1", "winner_model_b": "0"},
        {**ONE_HOT, "winner_model_b": 0, "winner_tie": 1},
        {**ONE_HOT, "response_b": "[null]"},
        {**ONE_HOT, **two, "response_b": '["Hello.", "Because."]'},
        {**ONE_HOT, **two, "response_b": '["Hey.", "Because."]'},
    ]
    pairs, tally = read(tmp_path, *rows)
    assert said(pairs) == [
        ("", 'Go "away".', "Hello."),
        ("", "Hello.", 'Go "away".'),
        ("", "Because.", "So."),
    ]
    assert pairs[0].prompt == [{"role": "user", "content": "Hi"}]
    assert tally.unusable == {
        "a tie": ["rows.jsonl:3"],
        "one side is empty": ["rows.jsonl:4"],
        "the two dialogues part before the last turn": ["rows.jsonl:6"],
    }
    assert "one must be 1" in refused(tmp_path, {**ONE_HOT, "winner_model_a": 1})


@pytest.mark.parametrize(
    ("winner", "better"), [("model_b", "no"), ("model_a", "yes"), ("B", "no"), ("a", "yes")]
)
def test_arena_answers_with_a_winner(tmp_path: Path, winner: str, better: str) -> None:
    row = {"prompt": "[1] is it?", "response_a": "yes", "response_b": "no", "winner": winner}
    pairs, tally = read(tmp_path, row, {**row, "winner": "tie"}, {**row, "winner": 0.5})
    assert [(p.prompt, p.chosen) for p in pairs] == [("[1] is it?", better)]
    assert tally.counts == {"a tie": 2}


def test_alpaca_farm(tmp_path: Path) -> None:
    """`preference` counts from 1, and may lie between: 1.5 and 0 are ties."""
    row = {"instruction": "Add.", "input": "1 and 2", "output_1": "4", "output_2": "3"}
    values = [2, 1, 1.9, 1.1, 1.5, 0, None]
    pairs, tally = read(tmp_path, *({**row, "preference": value} for value in values))
    assert [p.chosen for p in pairs] == ["3", "4", "3", "4"]
    assert pairs[0].prompt == "Add.\n1 and 2"
    assert tally.counts == {"a tie": 2, "judged on no objective": 1}
    assert "must be 1 to 2" in refused(tmp_path, {**row, "preference": 3})


def test_pandalm(tmp_path: Path) -> None:
    """Annotators say 1, 2 or 0; the majority counts. A response may be a bare truth value."""
    row = {"instruction": "Is it?", "input": "", "response1": "no", "response2": True}
    votes = [(2, 2, 1), (1, 1, 1), (0, 0, 2), (1, 2, 0), (0, 2, 2)]
    rows = [{**row, **{f"annotator{i}": v for i, v in enumerate(own, 1)}} for own in votes]
    pairs, tally = read(tmp_path, *rows)
    assert [p.chosen for p in pairs] == ["True", "no", "True"]
    assert tally.unusable == {"a tie": ["rows.jsonl:3", "rows.jsonl:4"]}


def test_webgpt(tmp_path: Path) -> None:
    row = {"question": {"id": 1, "full_text": "Why?"}, "answer_0": "So.", "answer_1": "Because."}
    pairs, _ = read(tmp_path, {**row, "score_0": -0.5, "score_1": 0.5})
    assert [(p.prompt, p.chosen) for p in pairs] == [("Why?", "Because.")]


# --- several answers ----------------------------------------------------------------------------


def completion(response: str, **ratings: Any) -> dict[str, Any]:
    overall = ratings.pop("overall", 5.0)
    return {
        "model": "made-up",
        "custom_system_prompt": "Be honest.",
        "response": response,
        "annotations": {
            aspect: {"Rating": rating, "Rationale": "x"} for aspect, rating in ratings.items()
        },
        "overall_score": overall,
    }


ULTRA = {
    "source": "made up",
    "instruction": "Name a colour.",
    "models": ["a", "b", "c"],
    "completions": [
        completion("Dog.", helpfulness="1", honesty="N/A", truthfulness="5", overall=2.0),
        completion("Red.", helpfulness="5", honesty="4", truthfulness="5", overall=9.5),
        completion("Red?", helpfulness="3", honesty="2", truthfulness="5", overall=9.5),
    ],
    "correct_answers": ["None"],
}


def test_ultrafeedback(tmp_path: Path) -> None:
    """By hand: helpfulness 1 < 3 < 5; honesty only of the last two; truthfulness all tied."""
    pairs, tally = read(tmp_path, ULTRA)
    assert [(p.source, *said([p])[0]) for p in pairs] == [
        ("rows.jsonl:1 (1, 2)", "helpfulness", "Red.", "Dog."),
        ("rows.jsonl:1 (1, 2)", "overall_score", "Red.", "Dog."),
        ("rows.jsonl:1 (1, 3)", "helpfulness", "Red?", "Dog."),
        ("rows.jsonl:1 (1, 3)", "overall_score", "Red?", "Dog."),
        ("rows.jsonl:1 (2, 3)", "honesty", "Red.", "Red?"),
        ("rows.jsonl:1 (2, 3)", "helpfulness", "Red.", "Red?"),
    ]
    assert {p.prompt for p in pairs} == {"Name a colour."}
    assert tally.rows == 1
    assert tally.lines() == ["columns not used: source, models, correct_answers"]
    honest, tally = read_pairs([str(tmp_path / "rows.jsonl")], "overall_score")
    assert len(honest) == 2
    assert tally.lines()[0] == "1 pair left out: a tie on 'overall_score' (rows.jsonl:1 (2, 3))"


def test_ultrafeedback_as_text_and_turned_around(tmp_path: Path) -> None:
    """Tables hold the completions as text; `datasets` may turn a list of objects around."""
    whole = said(read(tmp_path, ULTRA)[0])
    text = {**ULTRA, "completions": json.dumps(ULTRA["completions"])}
    keys = ULTRA["completions"][0].keys()
    turned = {**ULTRA, "completions": {k: [c[k] for c in ULTRA["completions"]] for k in keys}}
    for row in (text, {**ULTRA, "completions": str(ULTRA["completions"])}, turned):
        assert said(read(tmp_path, row)[0]) == whole


def test_fewer_pairs_a_prompt(tmp_path: Path) -> None:
    """Those decided on most objectives come first: (1, 2), (1, 3) and (2, 3) have 2 each here.

    The choice is the same wherever the row stands.
    """
    rows = [{**ULTRA, "instruction": f"Name colour {i}."} for i in range(20)]
    pairs, _ = read(tmp_path, *rows, pairs_per_prompt=1)
    drawn = {p.prompt: p.source.partition(" ")[2] for p in pairs}
    assert len(drawn) == 20 and len(pairs) == 40
    assert set(drawn.values()) == {"(1, 2)", "(1, 3)", "(2, 3)"}
    again, _ = read(tmp_path, *rows[::-1], pairs_per_prompt=1)
    assert {p.prompt: p.source.partition(" ")[2] for p in again} == drawn
    most = {**ULTRA, "completions": [*ULTRA["completions"][:2], completion("So.", overall=2.0)]}
    pairs, _ = read(tmp_path, most, pairs_per_prompt=1)
    assert {p.source for p in pairs} == {"rows.jsonl:1 (1, 2)"}  # decided on two, the others on one


RATED = {"helpfulness": 3, "correctness": 3, "coherence": 4, "complexity": 1, "verbosity": 1}


def test_helpsteer_groups_responses_by_prompt(tmp_path: Path) -> None:
    """Also where they do not stand together; a prompt with one response gives no pair."""
    rows = [
        {"prompt": "p", "response": "good", **RATED},
        {"prompt": "q", "response": "alone", **RATED},
        {"prompt": "p", "response": "bad", **RATED, "helpfulness": 0, "verbosity": 2},
        {"prompt": "r", "response": "same", **RATED},
        {"prompt": "r", "response": "same", **RATED, "helpfulness": 1},
    ]
    pairs, tally = read(tmp_path, *rows)
    assert [(p.prompt, p.source, *said([p])[0]) for p in pairs] == [
        ("p", "rows.jsonl:1+3", "helpfulness", "good", "bad"),
        ("p", "rows.jsonl:1+3", "verbosity", "bad", "good"),
    ]
    assert tally.rows == 5 and tally.unusable == {
        "the only answer to its prompt": ["rows.jsonl:2"],
        "both sides are the same": ["rows.jsonl:4+5"],
    }


def test_helpsteer_turns(tmp_path: Path) -> None:
    prompt = "Hi\n<extra_id_1>Assistant\nYes?\n<extra_id_1>User\nName a colour."
    rows = [
        {"prompt": prompt, "response": "Red.", **RATED},
        {"prompt": prompt, "response": "Dog.", **RATED, "coherence": 0},
    ]
    [pair], _ = read(tmp_path, *rows)
    assert pair.prompt == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Name a colour."},
    ]
    assert said([pair]) == [("coherence", "Red.", "Dog.")]


def test_nectar(tmp_path: Path) -> None:
    """Rank 1 is the best; answers of the same rank say nothing of each other."""
    answers = [("worst", 3.0), ("best", 1.0), ("next", 2.0), ("also next", 2.0)]
    row = {
        "prompt": "\n\nHuman: Hi\n\nAssistant: ",
        "answers": [{"answer": a, "model": "m", "rank": r} for a, r in answers],
        "turns": 1,
        "num_responses": 4,
    }
    pairs, tally = read(tmp_path, row)
    assert said(pairs) == [
        ("", "best", "worst"),
        ("", "next", "worst"),
        ("", "also next", "worst"),
        ("", "best", "next"),
        ("", "best", "also next"),
    ]
    assert pairs[0].prompt == [{"role": "user", "content": "Hi"}]
    assert tally.unusable == {"a tie": ["rows.jsonl:1 (3, 4)"]}
    assert tally.lines()[0].startswith("1 pair left out: a tie")


# --- chosen and rejected under other names ------------------------------------------------------

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Name a colour."}


@pytest.mark.parametrize("prompt", ["question", "query", "instruction", "input"])
@pytest.mark.parametrize("system", ["system", "system_prompt"])
@pytest.mark.parametrize("end", ["", "_response"])
def test_question_and_system(tmp_path: Path, prompt: str, system: str, end: str) -> None:
    row = {f"chosen{end}": "Red.", f"rejected{end}": "Dog.", prompt: USER["content"]}
    [bare], tally = read(tmp_path, row)
    assert bare == Pair("Name a colour.", "Red.", "Dog.", "", "rows.jsonl:1")
    [pair], tally = read(tmp_path, {**row, system: "Be brief."})
    assert pair == Pair([SYSTEM, USER], "Red.", "Dog.", "", "rows.jsonl:1")
    assert not tally.lines()


def test_a_system_column_beside_trls(tmp_path: Path) -> None:
    """It joins a chat, with the prompt apart or in both sides; a chat's own system turn stays."""
    red, dog = ({"role": "assistant", "content": c} for c in ("Red.", "Dog."))
    own = {"role": "system", "content": "My own."}
    same = {"system": "Be brief.", "chosen": [red], "rejected": [dog]}
    whole = {"system": "Be brief.", "chosen": [USER, red], "rejected": [USER, dog]}
    dialogue = {
        "system": "Be brief.",
        "chosen": "\n\nHuman: Name a colour.\n\nAssistant: Red.",
        "rejected": "\n\nHuman: Name a colour.\n\nAssistant: Dog.",
    }
    rows = [
        {**same, "prompt": [USER]},
        {**same, "prompt": "Name a colour."},
        whole,
        {**whole, "prompt": [USER]},
        dialogue,
    ]
    pairs, _ = read(
        tmp_path, *rows, {**same, "prompt": [own, USER]}, {**same, "prompt": [USER], "system": ""}
    )
    assert [p.prompt for p in pairs] == [[SYSTEM, USER]] * 5 + [[own, USER], [USER]]
    assert {(p.chosen, p.rejected) for p in pairs} == {("Red.", "Dog.")}
    text = refused(tmp_path, {"system": "x", "chosen": "The red", "rejected": "The dog"})
    assert "has `system` and no `prompt`" in text


@pytest.mark.parametrize("nothing", ["", None])
def test_an_empty_question_is_no_reason_to_guess(tmp_path: Path, nothing: object) -> None:
    """What both answers begin with must not become the prompt."""
    row = {"question": nothing, "chosen": "The sky.", "rejected": "The sea."}
    pairs, tally = read(tmp_path, row, {**row, "question": "What is blue?"})
    assert [p.prompt for p in pairs] == ["What is blue?"]
    assert tally.counts == {"the prompt is empty": 1}


def test_two_columns_that_could_be_the_prompt(tmp_path: Path) -> None:
    row = {"question": "a", "query": "b", "chosen": "c", "rejected": "d"}
    text = refused(tmp_path, row)
    assert "`question` and `query`" in text and "--columns prompt=question" in text
    [pair], tally = read(tmp_path, row, columns="prompt=query")
    assert pair.prompt == "b" and tally.lines() == ["columns not used: question"]


def test_stack_exchange_pairs(tmp_path: Path) -> None:
    row = {"qid": 1, "question": "q", "response_j": "better", "response_k": "worse"}
    assert said(read(tmp_path, row)[0]) == [("", "better", "worse")]


def test_whole_chats_beside_a_question_hold_their_own_prompt(tmp_path: Path) -> None:
    chat = [USER, {"role": "assistant", "content": "Red."}]
    other = [USER, {"role": "assistant", "content": "Dog."}]
    row = {"question": "Name a colour", "chosen": chat, "rejected": other}
    [pair], _ = read(tmp_path, row)
    assert pair.prompt == [USER]


def test_llama_factory_alpaca(tmp_path: Path) -> None:
    row = {"instruction": "Translate.", "input": "Hund"}
    turns = [USER, {"role": "assistant", "content": "Red."}]
    rows = [
        {**row, "chosen": "dog", "rejected": "cat"},
        {**row, "output": ["dog", "cat"]},
        {**row, "output": '["dog", "cat"]', "system": "Be brief."},
        {**row, "output": ["dog", "cat"], "history": [["Name a colour.", "Red."]]},
        {**row, "input": "", "output": ["dog", "cat"], "history": []},
    ]
    pairs, _ = read(tmp_path, *rows)
    asked = {"role": "user", "content": "Translate.\nHund"}
    assert [p.prompt for p in pairs] == [
        "Translate.\nHund",
        "Translate.\nHund",
        [SYSTEM, asked],
        [*turns, asked],
        "Translate.",
    ]
    assert {(p.chosen, p.rejected) for p in pairs} == {("dog", "cat")}


def test_llama_factory_sharegpt(tmp_path: Path) -> None:
    chosen, rejected = {"from": "gpt", "value": "Red."}, {"from": "gpt", "value": "Dog."}
    turns = [{"from": "human", "value": "Name a colour."}]
    same = {"chosen": chosen, "rejected": rejected}
    openai = {"role": "assistant", "content": "Red."}, {"role": "assistant", "content": "Dog."}
    rows = [
        {**same, "conversations": turns},
        {**same, "conversations": turns, "system": "Be brief."},
        {**same, "conversations": [{"from": "system", "value": "Be brief."}, *turns]},
        {"messages": [USER], "chosen": openai[0], "rejected": openai[1]},
        {"conversations": turns, "chosen": "Red.", "rejected": "Dog."},
        {c: json.dumps(v) for c, v in {**same, "conversations": turns}.items()},
        {"chosen": [*turns, chosen], "rejected": [*turns, rejected]},
    ]
    pairs, _ = read(tmp_path, *rows)
    assert [p.prompt for p in pairs] == [[USER], *[[SYSTEM, USER]] * 2, *[[USER]] * 4]
    assert {(p.chosen, p.rejected) for p in pairs} == {("Red.", "Dog.")}


def test_llama_factory_function_calls(tmp_path: Path) -> None:
    call = {"from": "function_call", "value": '{"name": "look", "arguments": {"at": "sky"}}'}
    turns = [{"from": "human", "value": "Look."}, call, {"from": "observation", "value": "blue"}]
    row = {
        "conversations": turns,
        "chosen": {"from": "gpt", "value": "Blue."},
        "rejected": {"from": "gpt", "value": "Red."},
        "tools": '[{"name": "look"}]',
    }
    [pair], _ = read(tmp_path, row)
    assert [m["role"] for m in pair.prompt] == ["user", "assistant", "tool"]  # type: ignore[index]
    assert pair.prompt[1]["tool_calls"] == [{"name": "look", "arguments": {"at": "sky"}}]  # type: ignore[index,call-overload]
    assert pair.prompt[0]["tools"] == [{"name": "look"}]  # type: ignore[index,call-overload]


def test_binarized_ultrafeedback(tmp_path: Path) -> None:
    red, dog = ({"role": "assistant", "content": c} for c in ("Red.", "Dog."))
    rows = [
        {
            "prompt": "Name a colour.",
            "prompt_id": "x",
            "chosen": [USER, red],
            "rejected": [USER, dog],
            "messages": [USER, red],
            "score_chosen": 9.0,
            "score_rejected": 4.0,
        },
        {"source": "s", "prompt": "Name a colour.", "chosen": [USER, red], "chosen-rating": 4.5,
         "rejected": [USER, dog], "rejected-rating": 1.0},
        {"source": "s", "instruction": "Name a colour.", "chosen_response": "Red.",
         "rejected_response": "Dog.", "chosen_avg_rating": 5.0, "rejected_avg_rating": 2.0},
    ]  # fmt: skip
    pairs, tally = read(tmp_path, *rows)
    assert said(pairs) == [("", "Red.", "Dog.")] * 3
    assert [p.prompt for p in pairs] == [[USER], [USER], "Name a colour."]
    assert tally.layouts == {"TRL": 2, "question pairs": 1}


def test_orca_pairs_marked_as_ties_are_left_out(tmp_path: Path) -> None:
    row = {"system": "", "input": "Hi", "chosen": "a", "rejected": "b", "status": "tie"}
    pairs, tally = read(tmp_path, row, {**row, "status": "swapped"})
    assert said(pairs) == [("", "a", "b")]
    assert tally.counts == {"a tie": 1}


# --- what is not known, and what could be two ---------------------------------------------------


def test_an_unknown_layout_names_its_columns_and_the_nearest(tmp_path: Path) -> None:
    row = {"prompt": "p", "response_0": "a", "response_1": "b", "better_respons_id": 0}
    text = refused(tmp_path, row)
    assert text.startswith(
        "rows.jsonl:1 is in no layout that is known: its columns are "
        "prompt, response_0, response_1, better_respons_id; the nearest layout is PKU-SafeRLHF, "
        "which also needs better_response_id; or map columns by hand: --columns prompt=…"
    )
    [pair, *_], _ = read(tmp_path, row, columns="better_response_id=better_respons_id")
    assert pair.chosen == "a"


def test_two_layouts_are_not_guessed(tmp_path: Path) -> None:
    row = {**PKU, "response_a": "c", "response_b": "d", "winner": "model_a"}
    text = refused(tmp_path, row)
    assert "fits two layouts, PKU-SafeRLHF and arena answers" in text and "--columns" in text
    [pair], _ = read(tmp_path, {**row, "chosen": "x", "rejected": "y"})
    assert (pair.chosen, pair.rejected) == ("x", "y")  # TRL's own columns count more


def test_a_chosen_that_names_a_side_is_no_answer(tmp_path: Path) -> None:
    row = {"prompt": "p", "response_a": "yes", "response_b": "no", "chosen": "B", "rejected": "A"}
    text = refused(tmp_path, row)
    assert "has 'B' in `chosen`, which names an answer" in text
    [pair], _ = read(tmp_path, row, columns="winner=chosen")
    assert (pair.chosen, pair.rejected) == ("no", "yes")


# --- columns by hand ----------------------------------------------------------------------------


def test_columns_by_hand(tmp_path: Path) -> None:
    row = {"q": "Why?", "good": "So.", "bad": "No.", "who": "me", "about": "helpful"}
    named = "prompt=q, chosen=good,rejected=bad,objective=about"
    [pair], tally = read(tmp_path, row, columns=named)
    assert pair == Pair("Why?", "So.", "No.", "helpful", "rows.jsonl:1")
    assert tally.lines() == ["columns not used: who"]


def test_columns_along_a_path(tmp_path: Path) -> None:
    row = {
        "meta": {"q": "Why?"},
        "answers": [{"text": "No."}, {"text": "So."}],
        "as text": '{"good": "yes"}',
        "verdicts": {"help": 1, "safe": 0},
    }
    columns = {
        "prompt": "meta.q",
        "chosen": "answers[0].text",
        "rejected": "answers.1.text",
        "labels.helpful": "verdicts.help",
        "labels.harmless": "verdicts.safe",
    }
    pairs, _ = read(tmp_path, row, columns=columns)
    assert said(pairs) == [("helpful", "So.", "No."), ("harmless", "No.", "So.")]
    [pair], _ = read(
        tmp_path, row, columns="prompt=meta.q,chosen=as text.good,rejected=answers.0.text"
    )
    assert pair.chosen == "yes"


def test_a_mapped_column_that_is_not_there(tmp_path: Path) -> None:
    row = {"q": "Why?", "good": "So.", "bad": "No."}
    text = refused(tmp_path, row, columns="prompt=question,chosen=good,rejected=bad")
    assert text == (
        "rows.jsonl:1 has no column `question`, which --columns names; its columns are q, good, bad"
    )


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ("promt=q", "no layout has a column `promt`; do you mean prompt?"),
        ("prompt", "cannot read --columns prompt; write prompt=question,"),
        ("prompt=", "cannot read --columns"),
    ],
)
def test_bad_mappings(tmp_path: Path, columns: str, named: str) -> None:
    from trimtab.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        Reading.of(columns)
    assert named in str(caught.value)
