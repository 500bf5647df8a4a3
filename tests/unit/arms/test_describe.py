"""Descriptions of objectives: read, and turned into vectors that tell them apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from conftest import WORDS, examples, make_model, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from rounding import close

from trimtab.arms.describe import fit_projection, objective_vectors
from trimtab.entries import parse_descriptions
from trimtab.errors import ConfigError
from trimtab.training.adapt import condition_dim

TEXTS = {"a": "happy cat", "b": "sad dog", "c": "big red moon"}
few = examples(20)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    return make_model(1, len(tokenizer))


class TestParsing:
    def test_names_and_texts(self) -> None:
        """Spaces around go; a text may hold = and commas; the order stays."""
        found = parse_descriptions([" helpful = answers in full, a=b ", "harmless=does no harm"])
        assert found == {"helpful": "answers in full, a=b", "harmless": "does no harm"}
        assert list(found) == ["helpful", "harmless"]
        assert parse_descriptions([]) == {}

    @pytest.mark.parametrize("entry", ["helpful", "helpful=", "helpful= ", "=text", " =text", ""])
    def test_what_cannot_be_read(self, entry: str) -> None:
        with pytest.raises(ConfigError, match="cannot read --describe") as caught:
            parse_descriptions(["harmless=does no harm", entry])
        assert repr(entry) in str(caught.value)
        assert "--describe helpful=" in caught.value.hint

    @pytest.mark.parametrize("again", ["helpful=two", " helpful =two", "helpful=one"])
    def test_a_name_twice(self, again: str) -> None:
        with pytest.raises(ConfigError, match="'helpful' is described twice"):
            parse_descriptions(["helpful=one", again])


class TestProjection:
    @few
    @given(st.integers(2, 8), st.integers(0, 3))
    def test_is_orthonormal_and_always_the_same(
        self, model: Any, tokenizer: Any, q: int, seed: int
    ) -> None:
        found = fit_projection(model, tokenizer, TEXTS, q, seed=seed)
        assert found.shape == (q, 17)
        directions = found[:, :-1]
        close(directions @ directions.t(), torch.eye(q), terms=16)
        assert torch.equal(found, fit_projection(model, tokenizer, TEXTS, q, seed=seed))

    def test_another_seed_is_another_one(self, model: Any, tokenizer: Any) -> None:
        one, two = (fit_projection(model, tokenizer, TEXTS, 3, seed=s) for s in (0, 1))
        assert not torch.allclose(one, two)

    def test_the_global_generator_is_left_alone(self, model: Any, tokenizer: Any) -> None:
        torch.manual_seed(3)
        before = torch.get_rng_state()
        fit_projection(model, tokenizer, TEXTS, 3)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("features", [1, 2, 6, 16])
    def test_two_objectives_are_opposite(self, model: Any, tokenizer: Any, features: int) -> None:
        """What two texts share is gone: o_1 = -o_2, however much they share."""
        texts = {"a": "the happy cat", "b": "the sad cat"}
        directions = fit_projection(model, tokenizer, texts, features)
        one, two = objective_vectors(model, tokenizer, texts, directions)
        close(one, -two, terms=16)

    def test_differences_are_kept(self, model: Any, tokenizer: Any) -> None:
        """With Q = K - 1 = 2 the three centred rows keep their angles, as with Q = H = 16."""
        small, whole = (
            objective_vectors(model, tokenizer, TEXTS, fit_projection(model, tokenizer, TEXTS, q))
            for q in (2, 16)
        )
        close(small @ small.t() / 2, whole @ whole.t() / 16, terms=16)


class Table:
    """Embeddings by hand, and a tokenizer that takes words for ids."""

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self.embeddings = torch.nn.Embedding.from_pretrained(torch.tensor(rows))

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embeddings

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [int(word) for word in text.split()]}


class TestVectors:
    def test_by_hand(self) -> None:
        """Embeddings (0, 2), (2, 0), (4, 4): mean (2, 2), deviation 2 (n − 1 = 2: √(8 / 2)).

        `1 2`: mean (3, 2), standard (½, 0), along the axes (1, 0), of length √2: (√2, 0).
        `0`: (−1, 0), so (−√2, 0). `0 2`: mean (2, 3), standard (0, ½), so (0, √2).
        """
        table = Table([[0.0, 2.0], [2.0, 0.0], [4.0, 4.0]])
        texts = {"a": "1 2", "b": "0", "c": "0 2"}
        eye = torch.cat([torch.eye(2), torch.zeros(2, 1)], 1)  # no offset
        found = objective_vectors(table, table, texts, eye)
        root = 2**0.5
        close(found, torch.tensor([[root, 0.0], [-root, 0.0], [0.0, root]]), terms=3)

    @pytest.mark.parametrize("features", [2, 3, 8, 16])
    def test_length_is_the_root_of_q(self, model: Any, tokenizer: Any, features: int) -> None:
        """So that an entry is of size 1 however many there are; and always the same."""
        found = objective_vectors(
            model, tokenizer, TEXTS, fit_projection(model, tokenizer, TEXTS, features)
        )
        assert found.shape == (3, features)
        close(found.norm(dim=1), torch.full((3,), features**0.5), terms=16)
        again = objective_vectors(
            model, tokenizer, TEXTS, fit_projection(model, tokenizer, TEXTS, features)
        )
        assert torch.equal(found, again)
        assert not found.requires_grad

    def test_each_by_itself(self, model: Any, tokenizer: Any) -> None:
        """Once the projection is made, a vector does not depend on the others, nor on its name."""
        directions = fit_projection(model, tokenizer, TEXTS, 3)
        found = objective_vectors(model, tokenizer, TEXTS, directions)
        for i, text in enumerate(TEXTS.values()):
            [own] = objective_vectors(model, tokenizer, {"x": text}, directions)
            close(own, found[i], terms=16)

    def test_half_precision_embeddings(self, tokenizer: Any) -> None:
        exact = make_model(1, len(tokenizer))
        directions = fit_projection(exact, tokenizer, TEXTS, 3)
        before = objective_vectors(exact, tokenizer, TEXTS, directions)
        found = objective_vectors(exact.bfloat16(), tokenizer, TEXTS, directions)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, before, atol=0.1, rtol=0)

    @pytest.mark.parametrize("other", ["happy cat", " happy cat"])
    def test_alike_is_refused(self, model: Any, tokenizer: Any, other: str) -> None:
        texts = {**TEXTS, "d": other}
        if other.startswith(" "):
            texts["a"] = other
        with pytest.raises(ConfigError, match="'d' and 'a' are described alike") as caught:
            projection = fit_projection(model, tokenizer, TEXTS, 3)
            objective_vectors(model, tokenizer, texts, projection)
        assert caught.value.hint

    @pytest.mark.parametrize("count", [1, 2, 3, 7])
    def test_what_nothing_tells_apart_is_not_made_of_rounding(
        self, model: Any, tokenizer: Any, count: int
    ) -> None:
        """The same text so many times: less their mean nothing is left but float32's last bits."""
        texts = dict.fromkeys("abcdefg"[:count], "sad cat")
        projection = fit_projection(model, tokenizer, texts, 3)
        assert not objective_vectors(model, tokenizer, {"a": texts["a"]}, projection).any()
        if count > 1:
            with pytest.raises(ConfigError, match="'b' and 'a' are described alike"):
                objective_vectors(model, tokenizer, texts, projection)

    def test_no_tokens(self, model: Any, tokenizer: Any) -> None:
        with pytest.raises(ConfigError, match="the description of 'd' has no tokens"):
            fit_projection(model, tokenizer, {**TEXTS, "d": ""}, 3)

    @pytest.mark.parametrize("rank", [4, 8, 16])
    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_by_default_two_texts_are_two_vectors(
        self, model: Any, tokenizer: Any, rank: int, count: int
    ) -> None:
        """With Q as training chooses it, any words of different meaning can be told apart."""
        features = condition_dim(rank, count)
        words = [word for word in WORDS if word.isalpha()][:8]
        for texts in itertools.combinations(words, count):
            named = {text: text for text in texts}
            directions = fit_projection(model, tokenizer, named, features)
            found = objective_vectors(model, tokenizer, named, directions)
            assert len({tuple(row) for row in found.tolist()}) == count
