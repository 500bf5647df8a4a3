"""Layouts of two answers and a verdict, on one objective or several."""

from __future__ import annotations

from collections import Counter
from typing import Any

from trimtab.data.chats import alpaca_prompt, messages_of
from trimtab.data.layouts.cells import (
    FIRST,
    SECOND,
    TIE,
    UNJUDGED,
    Verdict,
    index_verdict,
    literal,
    number,
    strength_verdict,
    text,
    winner_verdict,
)
from trimtab.data.layouts.judged import Judged
from trimtab.data.layouts.turns import as_openai
from trimtab.data.sources import Row
from trimtab.errors import DataError


def pku_safe_rlhf(row: Row, place: str) -> Judged:
    """PKU-SafeRLHF (arXiv 2406.15513): the more helpful and the safer response, by index from 0.

    The single-dimension files say only which is better, not as to what.
    """
    better = index_verdict(row["better_response_id"], place, "better_response_id")
    scores = {"": better}
    if "safer_response_id" in row:
        safer = index_verdict(row["safer_response_id"], place, "safer_response_id")
        scores = {"helpful": better, "harmless": safer}
    return Judged(row["prompt"], _texts(row, "response_0", "response_1"), scores)


def helpsteer2_preference(row: Row, place: str) -> Judged:
    """HelpSteer2's `preference` file (arXiv 2410.01257): strength -3 (first) to 3 (second)."""
    verdict = strength_verdict(row["preference_strength"], place, "preference_strength")
    return Judged(helpsteer_prompt(row), _texts(row, "response_1", "response_2"), {"": verdict})


def helpsteer3(row: Row, place: str) -> Judged:
    """HelpSteer3 preferences (arXiv 2505.11475): a chat, two responses, -3 (first) to 3."""
    verdict = strength_verdict(row["overall_preference"], place, "overall_preference")
    context = messages_of(as_openai(row["context"]), place, "context")
    return Judged(context, _texts(row, "response1", "response2"), {"": verdict})


def helpsteer_prompt(row: Row) -> Any:
    """HelpSteer's prompt: text, or turns parted by `<extra_id_1>User` and `<extra_id_1>Assistant`.

    The first turn, the user's, has no mark.
    """
    prompt = text(row, "prompt")
    first, *turns = prompt.split("<extra_id_1>")
    if not turns:
        return prompt
    messages = [{"role": "user", "content": first.strip()}] if first.strip() else []
    for turn in turns:
        who, _, said = turn.partition("\n")
        if who.strip() not in ("User", "Assistant"):
            return prompt
        messages.append({"role": who.strip().lower(), "content": said.strip()})
    return messages


def shp(row: Row, place: str) -> Judged:
    """SHP: two comments on a post; `labels` is 1 where A is preferred, 0 where B is."""
    preferred = index_verdict(row["labels"], place, "labels")
    verdict = preferred[::-1]  # index 0 of `index_verdict` is the first one, here it means B
    answers = _texts(row, "human_ref_A", "human_ref_B")
    return Judged(text(row, "history"), answers, {"": verdict})


def arena_chats(row: Row, place: str) -> Judged:
    """Chatbot Arena, MT-Bench judgements: two whole chats and who won.

    `turn` says how many turns were judged: MT-Bench shows both turns and judges the first one, too.
    """
    chats = [
        messages_of(as_openai(row[column]), place, column)
        for column in ("conversation_a", "conversation_b")
    ]
    turns = number(row.get("turn"), place, "turn")
    if turns:
        chats = [_first_turns(chat, int(turns)) for chat in chats]
    return Judged(None, chats, {"": winner_verdict(row["winner"], place)})


def _first_turns(chat: list[Any], turns: int) -> list[Any]:
    """A chat to the answer of its so-manieth user turn."""
    asked = [i for i, message in enumerate(chat) if message["role"] == "user"]
    return chat[: asked[turns]] if len(asked) > turns else chat


def arena_answers(row: Row, place: str) -> Judged:
    """Arena data with `response_a` and `response_b`: `winner`, or one column per outcome.

    Prompts and responses may be JSON lists, one entry a turn.
    """
    verdict = _one_hot(row, place) if "winner" not in row else winner_verdict(row["winner"], place)
    prompt, *answers = (literal(row[c]) for c in ("prompt", "response_a", "response_b"))
    turns = [prompt, *answers]
    if all(isinstance(said, list) and said and all(map(_is_turn, said)) for said in turns):
        if any(len(said) != len(prompt) for said in answers):
            raise DataError(f"{place} has other turns in its responses", "mend the row")
        return Judged(None, [_chat(prompt, said) for said in answers], {"": verdict})
    return Judged(row["prompt"], _texts(row, "response_a", "response_b"), {"": verdict})


def fits_one_hot(row: Row) -> bool:
    """Two responses and one column per outcome, but no `winner`."""
    needs = {"prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"}
    return "winner" not in row and needs <= row.keys()


def _is_turn(item: Any) -> bool:
    return item is None or isinstance(item, str)


def _chat(asked: list[Any], answered: list[Any]) -> list[Row]:
    return [
        {"role": role, "content": said or ""}
        for pair in zip(asked, answered, strict=True)
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]


def _one_hot(row: Row, place: str) -> Verdict:
    columns = ("winner_model_a", "winner_model_b", "winner_tie")
    shares = [number(row.get(column), place, column) or 0.0 for column in columns]
    won = [share for share in shares if share]
    if not won:
        return UNJUDGED
    if won != [1.0]:
        raise DataError(f"{place} has {shares} in {', '.join(columns)}", "one must be 1")
    return (FIRST, SECOND, TIE)[shares.index(1.0)]


def alpaca_farm(row: Row, place: str) -> Judged:
    """AlpacaFarm and AlpacaEval: `preference` 1 or 2, or between them; 1.5 and 0 are ties."""
    value = number(row["preference"], place, "preference")
    if value is not None and value != 0 and not 1 <= value <= 2:
        raise DataError(f"{place} has {value} in `preference`", "it must be 1 to 2, or 0")
    verdict = UNJUDGED if value is None else TIE if value in (0, 1.5) else (2 - value, value - 1)
    return Judged(alpaca_prompt(row), _texts(row, "output_1", "output_2"), {"": verdict})


def pandalm(row: Row, place: str) -> Judged:
    """PandaLM: annotators say 1, 2 or 0 (a tie); the side with more votes is better."""
    columns = [column for column in row if column.startswith("annotator")]
    votes = Counter(number(row[column], place, column) for column in columns)
    if odd := votes.keys() - {0.0, 1.0, 2.0, None}:
        raise DataError(f"{place} has an annotator who says {min(odd, key=str)}", "0, 1 or 2")
    verdict = (float(votes[1.0]), float(votes[2.0]))
    if votes[0.0] > max(verdict):
        verdict = TIE
    return Judged(alpaca_prompt(row), _texts(row, "response1", "response2"), {"": verdict})


def webgpt(row: Row, place: str) -> Judged:
    """WebGPT comparisons: two answers with a score each, more is better."""
    question = literal(row["question"])
    prompt = question.get("full_text") if isinstance(question, dict) else question
    scores = [number(row[c], place, c) for c in ("score_0", "score_1")]
    return Judged(prompt, _texts(row, "answer_0", "answer_1"), {"": scores})


def _texts(row: Row, *columns: str) -> list[str]:
    return [text(row, column) for column in columns]
