"""Which differences between two vocabularies are fine, and which are refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from trimtab.errors import VocabularyError
from trimtab.models.vocabulary import VocabularyMap, match_vocabularies


@dataclass
class Tokens:
    """As much of a tokenizer as the contract looks at: token i has id i, unless moved."""

    tokens: list[str]
    eos: str | None = None
    moved: dict[str, int] = field(default_factory=dict)

    def get_vocab(self) -> dict[str, int]:
        return {t: self.moved.get(t, i) for i, t in enumerate(self.tokens)}

    @property
    def eos_token_id(self) -> int | None:
        return None if self.eos is None else self.get_vocab()[self.eos]


BASE = Tokens(["a", "b", "c", "</s>"], "</s>")


def test_equal_vocabularies_need_nothing() -> None:
    found = match_vocabularies(BASE, BASE, base_head=4, arm_head=4)
    assert found == VocabularyMap(4, 4)
    assert found.is_identity


@pytest.mark.parametrize(("base_head", "arm_head"), [(8, 4), (4, 8), (8, 64)])
def test_padded_heads_are_cut_to_the_tokens(base_head: int, arm_head: int) -> None:
    # Heads are padded to multiples of 8 or 64: sizes differ, tokens do not.
    found = match_vocabularies(BASE, BASE, base_head=base_head, arm_head=arm_head)
    assert found == VocabularyMap(4, 4)


def test_tokens_that_only_the_arm_has_are_cut_before_its_softmax() -> None:
    arm = Tokens([*BASE.tokens, "<pad>", "<x>"], "</s>")
    assert match_vocabularies(BASE, arm, base_head=4, arm_head=6) == VocabularyMap(4, 4)


def test_a_token_in_a_gap_of_the_base_is_no_difference() -> None:
    base = Tokens(["a", "b", "</s>"], "</s>", moved={"</s>": 5})
    arm = Tokens(["a", "b", "reserved", "</s>"], "</s>", moved={"</s>": 5})
    assert match_vocabularies(base, arm, base_head=6, arm_head=6).own_id == ()


def test_an_end_that_is_spelt_differently_is_the_arms_own() -> None:
    arm = Tokens(["a", "b", "c", "<|end|>"], "<|end|>")
    found = match_vocabularies(BASE, arm, base_head=4, arm_head=4)
    assert found == VocabularyMap(4, 4, ((3, 3),))


def test_an_end_that_only_the_base_has_is_the_arms_own() -> None:
    # A chat model's <|im_end|> (id 4), and an ARM on the pretrained model that ends with </s> (3).
    base = Tokens([*BASE.tokens, "<|im_end|>"], "<|im_end|>")
    found = match_vocabularies(base, BASE, base_head=8, arm_head=8)
    assert found == VocabularyMap(5, 4, ((4, 3),))
    assert not found.is_identity


def test_all_ends_of_the_generation_config_count() -> None:
    base = Tokens([*BASE.tokens, "<|eot|>", "<|eom|>"], "<|eot|>")
    ends = [4, 5]
    found = match_vocabularies(base, BASE, base_head=6, arm_head=4, base_ends=ends)
    assert found.own_id == ((4, 3), (5, 3))
    with pytest.raises(VocabularyError, match=r"<\|eom\|>"):
        match_vocabularies(base, BASE, base_head=6, arm_head=4)


def test_an_end_is_not_mapped_to_an_arm_that_has_none() -> None:
    base = Tokens([*BASE.tokens, "<|im_end|>"], "<|im_end|>")
    with pytest.raises(VocabularyError, match=r"<\|im_end\|>"):
        match_vocabularies(base, Tokens(BASE.tokens, None), base_head=5, arm_head=4)


def test_equal_sizes_with_other_tokens_are_refused_by_name() -> None:
    arm = Tokens(["b", "a", "c", "</s>"], "</s>")
    with pytest.raises(VocabularyError) as caught:
        match_vocabularies(BASE, arm, base_head=4, arm_head=4, arm_name="the ARM x")
    assert str(caught.value).startswith(
        "the ARM x cannot be fused with the base: 2 of 4 tokens differ "
        "(id 0: base 'a', ARM 'b', id 1: base 'b', ARM 'a'); train"
    )


def test_many_differences_are_counted_and_the_first_named() -> None:
    arm = Tokens([f"x{i}" for i in range(3)] + ["</s>"] + ["y"], "</s>")
    base = Tokens(["a", "b", "c", "</s>", "d", "e"], "</s>")
    with pytest.raises(VocabularyError, match=r"5 of 6 tokens differ .*id 4: base 'd', ARM 'y', …"):
        match_vocabularies(base, arm, base_head=6, arm_head=5)


def test_a_token_beyond_the_arms_head_is_a_difference() -> None:
    # The ARM's tokenizer knows "c", but its head has no row for it.
    arm = Tokens(["a", "b", "c"], "a")
    base = Tokens(["a", "b", "c"], "a")
    with pytest.raises(VocabularyError, match="'c'"):
        match_vocabularies(base, arm, base_head=3, arm_head=2)


def test_a_token_beyond_the_bases_head_can_never_be_chosen() -> None:
    base = Tokens(["a", "b", "c"], "a")
    assert match_vocabularies(base, BASE, base_head=2, arm_head=4) == VocabularyMap(2, 2)
