"""Text while it arrives: whole characters, stop texts found across tokens, nothing lost."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import make_tokenizer
from sentencepieces import SPECIAL, WORDS, ids_of, sentencepiece

from trimtab.engines.local.answers import Answer
from trimtab.engines.local.rows import Pushed, Row, RowPlan
from trimtab.engines.sampling import Sampling
from trimtab.engines.text import TextStream
from trimtab.engines.types import Event, Request
from trimtab.steering import Steering


class Pieces:
    """Token i is the bytes pieces[i]; the special token has no text."""

    def __init__(self, *pieces: str | bytes) -> None:
        self.pieces = [p.encode() if isinstance(p, str) else p for p in pieces]

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="replace")


def stream(*pieces: str | bytes, stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    """What each push releases, and last what `finish` does; pushing ends at a stop."""
    text = TextStream(Pieces(*pieces), stops)
    released = []
    for token in range(len(pieces)):
        released.append(text.push(token))
        if text.stopped:
            break
    released.append(text.finish())
    assert "".join(released) == text.text
    return released, text


def test_plain_tokens_are_released_at_once() -> None:
    assert stream("a", " b", "c")[0] == ["a", " b", "c", ""]


def test_a_character_in_pieces_comes_whole() -> None:
    face = "😀".encode()  # four bytes
    assert stream("a", face[:1], face[1:3], face[3:], "b")[0] == ["a", "", "", "😀", "b", ""]


def test_a_piece_may_end_one_character_and_begin_the_next() -> None:
    e = "é".encode()
    assert stream("a" + "é", e[:1], e[1:] + e[:1], e[1:])[0][:2] == ["aé", ""]
    assert stream("aé", e[:1], e[1:] + e[:1], e[1:])[1].text == "aééé"


def test_a_character_that_never_ends_is_released_at_the_end() -> None:
    released, text = stream("a", "é".encode()[:1])
    assert released == ["a", "", "\ufffd"]
    assert text.text == "a\ufffd"


def test_broken_bytes_in_the_middle_do_not_hold_the_rest_back() -> None:
    assert stream(b"\xff", "a", "b")[0] == ["", "\ufffda", "b", ""]


def test_a_stop_text_is_found_across_tokens_and_is_no_part_of_the_answer() -> None:
    released, text = stream("Hi", "\nHu", "man", ":", "more", stops=("\nHuman:",))
    assert released == ["Hi", "", "", "", ""]
    assert (text.text, text.stopped) == ("Hi", True)


def test_a_stop_text_inside_one_token() -> None:
    released, text = stream("ab STOP cd", "ef", stops=("STOP",))
    assert released == ["ab ", ""]
    assert text.stopped


def test_what_only_began_like_a_stop_text_is_released() -> None:
    released, text = stream("a", "##", "b", stops=("###",))
    assert released == ["a", "", "##b", ""]
    assert not text.stopped


def test_held_back_text_is_released_at_the_end() -> None:
    released, text = stream("a", "##", stops=("###",))
    assert released == ["a", "", "##"]
    assert not text.stopped


def test_only_the_end_that_may_still_become_a_stop_text_is_held() -> None:
    # After "aab" + "aa": the longest end that begins "aabc" is "aa"; all before it is safe.
    assert stream("aab", "aa", "bc", stops=("aabc",))[0] == ["", "aab", "", ""]


def test_the_first_stop_text_wins() -> None:
    assert stream("one two", stops=("two", "ne"))[1].text == "o"
    assert stream("xab", "c", stops=("abc", "b"))[1].text == "xa"


def test_a_stop_text_that_is_completed_by_a_broken_character() -> None:
    # The last bytes are released only by finish(), and the stop text with them.
    released, text = stream("a#", b"#\xc3", stops=("##",))
    assert (text.text, text.stopped) == ("a", True)
    assert released[-1] == ""


def test_empty_stop_texts_never_stop() -> None:
    assert stream("a", "b", stops=("",))[1].text == "ab"


@pytest.mark.parametrize("text", ["the cat 😀 sat é", "日本語 the dog", "happy\n\nyes ?"])
def test_a_real_tokenizer_gives_back_its_text(text: str) -> None:
    tokenizer: Any = make_tokenizer()
    ids = tokenizer(text)["input_ids"]
    found = TextStream(tokenizer)
    pieces = [found.push(i) for i in [*ids, tokenizer.eos_token_id]] + [found.finish()]
    assert "".join(pieces) == found.text == text  # the special token has no text
    assert "\ufffd" not in "".join(pieces)


# --- SentencePiece ---------------------------------------------------------------------------


def streamed(tokenizer: Any, ids: list[int], behind: Sequence[int] = ()) -> str:
    found = TextStream(tokenizer, behind=behind)
    text = "".join([*(found.push(i) for i in ids), found.finish()])
    assert text == found.text
    return text


@pytest.mark.parametrize("kind", ["llama", "metaspace"])
class TestSentencePiece:
    def test_text_that_goes_on_keeps_its_first_space(self, kind: str) -> None:
        """A thousand texts, each cut somewhere: the rest behind the beginning is the whole."""
        tokenizer, draw = sentencepiece(kind), random.Random(1)
        for _ in range(1000):
            pieces = draw.choices([*WORDS, *SPECIAL[1:], "é", "語"], k=draw.randint(2, 10))
            ids, cut = ids_of(tokenizer, pieces), draw.randint(1, len(pieces) - 1)
            begun = tokenizer.decode(ids[:cut], skip_special_tokens=True)
            if begun.endswith("\ufffd"):  # no text ends in half a character
                continue
            whole = tokenizer.decode(ids, skip_special_tokens=True)
            assert begun + streamed(tokenizer, ids[cut:], ids[:cut]) == whole

    @pytest.mark.parametrize(
        ("pieces", "text"),
        [
            (["▁y", "<|x|>", "▁the"], "y the"),
            (["▁y", "<|x|>", "<s>", "▁the", "</s>"], "y the"),
            (["<s>", "▁the", "▁cat"], "the cat"),
            (["<|x|>", "<|x|>", "▁the", "<|x|>", "▁cat"], "the cat"),
            (["▁y", "▁", "▁the"], "y  the"),
            (["▁", "▁the"], " the"),
            (["▁y", "<|x|>", "▁", "<|x|>", "▁the"], "y  the"),
            (["▁the", "😀", "<|x|>", "▁cat", "😀", "語"], "the😀 cat😀語"),
            (["日", "本", "<|x|>", "語", "▁y"], "日本語 y"),
        ],
    )
    def test_no_space_is_lost(self, kind: str, pieces: list[str], text: str) -> None:
        tokenizer = sentencepiece(kind)
        assert streamed(tokenizer, ids_of(tokenizer, pieces)) == text

    def test_is_what_the_tokenizer_makes_of_the_whole(self, kind: str) -> None:
        """A thousand answers of up to ten pieces, many of them special tokens."""
        tokenizer, draw = sentencepiece(kind), random.Random(0)
        for _ in range(1000):
            pieces = draw.choices(
                [*WORDS, *SPECIAL[1:] * 2, "😀", "é", "語"], k=draw.randint(1, 10)
            )
            ids = ids_of(tokenizer, pieces)
            assert streamed(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True)

    def test_a_broken_character_behind_a_whole_one(self, kind: str) -> None:
        """The tokenizer drops both then (its run of bytes is no text); the whole one was said."""
        tokenizer = sentencepiece(kind)
        ids = [4 + byte for byte in "語".encode() + "語".encode()[:1]]
        assert streamed(tokenizer, ids) == "語\ufffd"
        assert streamed(tokenizer, [*ids, tokenizer.get_vocab()["y"]]) == "語\ufffdy"

    def test_an_engine_goes_on_with_ids_and_begins_a_turn(self, kind: str) -> None:
        """Behind a prompt of ids a space is the text's; an answer to a chat begins without one."""
        tokenizer = sentencepiece(kind)
        begun, [word] = ids_of(tokenizer, ["▁the", "▁cat"]), ids_of(tokenizer, ["▁y"])
        for prompt, text in ((begun, " y"), ("the cat", "y")):
            plan = RowPlan(Request(prompt), Steering({}, 0.0), Sampling(), [], {"base": begun})
            events: list[Event] = []
            answer = Answer(plan, tokenizer, events.append)
            answer.take(Pushed(Row(0, plan, []), [word], [], "length", {}, [0.0]))
            assert [event.text for event in events] == [text]
            assert events[-1].completion and events[-1].completion.text == text
