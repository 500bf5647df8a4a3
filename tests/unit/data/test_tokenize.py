"""Token ids of pairs: the prompt is a prefix, the end comes once, lengths are tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import TEMPLATE, make_tokenizer

from trimtab.data.pairs import Pair
from trimtab.data.tally import RowTally
from trimtab.data.tokenize import tokenize_pair, tokenize_pairs
from trimtab.errors import ConfigError, DataError
from trimtab.models.messages import Message
from trimtab.models.prompts import prompt_ids, response_ids
from trimtab.models.templates import load_chat_template

END = 3
CHAT: list[Message] = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "the cat"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def plain() -> Any:
    return make_tokenizer(template=None)


@pytest.fixture(scope="module")
def with_bos() -> Any:
    """Writes BOS on its own, and its template writes one too, as Llama's and Gemma's do."""
    from tokenizers.processors import TemplateProcessing

    made = make_tokenizer(extra=("<|bos|>",), template="{{ '<|bos|>' }}" + TEMPLATE)
    bos = made.convert_tokens_to_ids("<|bos|>")
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", bos)]
    )
    made.bos_token = "<|bos|>"
    assert made("the cat")["input_ids"][0] == bos
    return made


@pytest.mark.parametrize("prompt", ["the cat", CHAT], ids=["text", "chat"])
@pytest.mark.parametrize("style", ["auto", "raw"])
def test_what_training_sees_is_what_decoding_starts_from(
    tokenizer: Any, prompt: Any, style: Any
) -> None:
    before, after = response_ids(tokenizer, prompt, "sat on the mat", style)
    assert before == prompt_ids(tokenizer, prompt, style)
    assert tokenizer.decode(after, skip_special_tokens=True) == "sat on the mat"


def test_a_plain_text_is_one_user_turn_where_there_is_a_template(tokenizer: Any) -> None:
    as_text = tokenizer.decode(prompt_ids(tokenizer, "the cat"))
    assert as_text == "<|user|>the cat<|assistant|>"
    assert tokenizer.decode(prompt_ids(tokenizer, "the cat", "raw")) == "the cat"


def test_a_prompt_cut_inside_a_word_is_not_merged_with_its_answer(plain: Any) -> None:
    # Alone "the ca" ends in the tokens c, a; "the cat sat" has one token for "cat". When decoding,
    # the answer starts after c, a: that is what must be trained on.
    alone = plain("the ca")["input_ids"]
    joint = plain("the cat sat")["input_ids"]
    assert joint[: len(alone)] != alone
    before, after = response_ids(plain, "the ca", "t sat")
    assert before == alone
    assert after == [*plain("t sat")["input_ids"], END]


def test_a_boundary_that_does_not_merge_is_tokenised_together(plain: Any) -> None:
    before, after = response_ids(plain, "the cat", " sat")
    assert [*before, *after] == [*plain("the cat sat")["input_ids"], END]


@pytest.mark.parametrize("style", ["chat", "raw"])
@pytest.mark.parametrize("response", ["sat", "sat<|end|>", "sat<|end|>\n"])
def test_the_end_of_turn_comes_once_and_last(tokenizer: Any, style: Any, response: str) -> None:
    # The template writes "<|end|>\n" after an answer; data sometimes carry the token themselves.
    _, after = response_ids(tokenizer, "the cat", response, style)
    assert after == [*tokenizer("sat")["input_ids"], END]


def test_a_prompt_never_ends_with_end_of_text(plain: Any) -> None:
    # Some tokenizers write EOS after every text; a prompt that ends with it would be over.
    assert prompt_ids(plain, "the cat<|end|>") == plain("the cat")["input_ids"]


@pytest.mark.parametrize("prompt", ["the cat", CHAT], ids=["text", "chat"])
@pytest.mark.parametrize("style", ["auto", "raw"])
def test_one_bos_whoever_writes_it(with_bos: Any, prompt: Any, style: Any) -> None:
    before, after = response_ids(with_bos, prompt, "sat", style)
    assert before.count(with_bos.bos_token_id) == 1
    assert before[0] == with_bos.bos_token_id
    assert with_bos.bos_token_id not in after


def test_an_answer_after_a_merging_boundary_has_no_bos(with_bos: Any) -> None:
    before, after = response_ids(with_bos, "the ca", "t sat", "raw")
    assert before == with_bos("the ca")["input_ids"]
    assert with_bos.bos_token_id not in after


def test_a_template_that_rewrites_the_answered_prompt_still_keeps_it_as_prefix() -> None:
    # Reasoning models drop or add text once a turn is answered; the answer alone is then taken.
    rewriting = make_tokenizer(
        template="{% if not add_generation_prompt %}{{ 'please ' }}{% endif %}" + TEMPLATE
    )
    before, after = response_ids(rewriting, "the cat", "sat")
    assert rewriting.decode(before) == "<|user|>the cat<|assistant|>"
    assert after == [*rewriting("sat")["input_ids"], END]


def test_verbatim_pairs_stay_out_of_the_template(tokenizer: Any) -> None:
    # An implicit prompt is text cut mid-sentence: as a user turn it would be nonsense.
    pair = Pair("the cat", " sat", " ran", verbatim=True)
    assert tokenizer.decode(tokenize_pair(tokenizer, pair).prompt_ids) == "the cat"


@pytest.mark.parametrize(("prompt", "style"), [(CHAT, "auto"), ("the cat", "chat")])
def test_chats_need_a_template(plain: Any, prompt: Any, style: Any) -> None:
    with pytest.raises(ConfigError, match="no chat template") as caught:
        prompt_ids(plain, prompt, style)
    assert "--chat-template" in caught.value.hint


def test_a_template_can_come_from_a_file(tmp_path: Path) -> None:
    given = make_tokenizer(template=None)
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE)
    load_chat_template(given, str(file))
    assert prompt_ids(given, CHAT) == prompt_ids(make_tokenizer(), CHAT)
    with pytest.raises(ConfigError, match=r"none\.jinja"):
        load_chat_template(given, str(tmp_path / "none.jinja"))


# In byte tokens, without template: prompt "q" is 1 token, "zz" 2, each answer has 1 end token.
SHORT = Pair("q", "z", "zz", source="f:1")  # 1 + max(1, 2) + 1 = 4
LONG = Pair("q", "zzzzz", "z", source="f:2")  # 1 + 5 + 1 = 7
SAME = Pair("q", "z", "z<|end|>", source="f:3")  # differ as text only
BARE = Pair("", "z", "zz", source="f:4")


def test_max_length_counts_tokens_and_says_what_it_left_out(plain: Any) -> None:
    assert (len(tokenize_pair(plain, SHORT)), len(tokenize_pair(plain, LONG))) == (4, 7)
    tally = RowTally()
    kept = tokenize_pairs(plain, [SHORT, LONG, SAME, BARE], max_length=6, tally=tally)
    assert kept == [tokenize_pair(plain, SHORT)]
    assert tally.unusable == {
        "longer than 6 tokens": ["f:2"],
        "both sides are the same tokens": ["f:3"],
        "the prompt has no tokens": ["f:4"],
    }


def test_max_length_is_the_longest_that_is_kept(plain: Any) -> None:
    kept = tokenize_pairs(plain, [SHORT, LONG], max_length=7, tally=RowTally())
    assert len(kept) == 2  # never cut: all seven tokens are there
    assert kept[1].chosen_ids == [*plain("zzzzz")["input_ids"], END]


def test_no_pair_that_fits_names_the_shortest(plain: Any) -> None:
    with pytest.raises(DataError, match=r"--max-length 3 .the shortest has 4 tokens"):
        tokenize_pairs(plain, [LONG, SHORT], max_length=3, tally=RowTally())


def test_no_pair_left_for_other_reasons_does_not_blame_the_length(plain: Any) -> None:
    with pytest.raises(DataError, match="both sides are the same tokens") as caught:
        tokenize_pairs(plain, [SAME, SAME], max_length=100, tally=RowTally())
    assert "--max-length" not in str(caught.value)
