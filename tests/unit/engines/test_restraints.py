"""Bias, penalties and forms: against arithmetic, transformers' own processors, and jsonschema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from conftest import examples, save_model
from hypothesis import given
from hypothesis import strategies as st

import trimtab
from trimtab.engines.local import LocalEngine
from trimtab.engines.restraints import Restraint, restrained
from trimtab.engines.sampling import Sampling
from trimtab.errors import ConfigError


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    folder = tmp_path_factory.mktemp("restrained")
    save_model(folder / "base", 0)
    save_model(folder / "arm", 1)
    engine = trimtab.load(str(folder / "base"), {"good": str(folder / "arm")})
    yield engine
    engine.close()


@examples(50)
@given(
    st.lists(st.integers(0, 19), max_size=12),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, 19), st.floats(-100, 100), max_size=5),
    st.integers(0, 2**31),
)
def test_nats_are_taken_as_openai_says(
    said: list[int], presence: float, frequency: float, bias: dict[int, float], seed: int
) -> None:
    """μ_j − c_j · α_frequency − 1[c_j > 0] · α_presence + bias_j (OpenAI's API reference)."""
    logp = torch.randn(20, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias)
    expected = [
        float(logp[j]) - said.count(j) * frequency - (j in said) * presence + bias.get(j, 0.0)
        for j in range(20)
    ]
    found = Restraint(sampling).begun(said).on(logp)
    torch.testing.assert_close(
        found.double(), torch.tensor(expected).double().log_softmax(-1), atol=1e-4, rtol=1e-5
    )


def test_what_is_not_allowed_has_no_probability() -> None:
    allowed = torch.tensor([True, False, True])
    found = restrained(torch.tensor([0.5, 0.25, 0.25]).log(), {}, allowed)
    torch.testing.assert_close(found.exp(), torch.tensor([2 / 3, 0.0, 1 / 3]))


def greedy(engine: LocalEngine, prompt: str = "the cat", **options: Any) -> trimtab.Completion:
    [answer] = engine.generate([prompt], temperature=0, **options)
    return answer


def test_the_engine_decodes_as_token_by_token(engine: LocalEngine) -> None:
    """Its own log-probs of every place, restrained by hand, give its own tokens."""
    sampling: dict[str, Any] = {
        "presence_penalty": 1.2, "frequency_penalty": 0.7, "logit_bias": {3: -100.0, 40: 4.0},
    }  # fmt: skip
    answer = greedy(engine, max_new_tokens=24, **sampling)
    assert answer.token_ids != greedy(engine, max_new_tokens=24).token_ids
    for at in range(len(answer.token_ids)):
        begun = list(answer.token_ids[:at])
        places = [[*begun, token] for token in range(engine.base.vocabulary.size)]
        found = engine.log_likelihoods(["the cat"] * len(places), places, batch_size=64)
        logp = torch.tensor([one.logp_fused[-1] for one in found])
        by_hand = Restraint(Sampling(**sampling)).begun(begun).on(logp)
        assert int(by_hand.argmax()) == answer.token_ids[at]
        if at == 3:
            break


def test_penalties_are_vllms(engine: LocalEngine) -> None:
    """vLLM counts the tokens of the answer alone, and so do we: the prompt's are not punished."""
    prompt = "cat cat cat"
    plain = greedy(engine, prompt, max_new_tokens=1)
    assert greedy(engine, prompt, max_new_tokens=1, frequency_penalty=2).text == plain.text


def test_who_is_not_restrained_is_left_alone(engine: LocalEngine) -> None:
    """In one batch, drafting or not, whatever the others want."""
    plain = trimtab.Sampling(temperature=0, max_new_tokens=16)
    odd = plain.but(logit_bias={40: 100.0})
    requests = [
        trimtab.Request("the cat", sampling=sampling, speculate=how)
        for sampling, how in ((plain, "on"), (odd, "on"), (plain, "off"), (odd, "off"))
    ]
    first, second, third, fourth = engine.generate(requests)
    assert first.token_ids == third.token_ids == greedy(engine, max_new_tokens=16).token_ids
    assert second.token_ids == fourth.token_ids == [40] * 16
    assert second.drafted == 0


def test_log_probs_are_from_before(engine: LocalEngine) -> None:
    plain = greedy(engine, max_new_tokens=1, report=True).tokens[0]
    forced = greedy(
        engine, max_new_tokens=1, report=True, logit_bias={plain.token_id: 50.0}
    ).tokens[0]
    assert forced.logp_fused == pytest.approx(plain.logp_fused)
    assert forced.kl == pytest.approx(plain.kl)


SCHEMAS: list[Any] = [
    {"type": "object"},
    {"type": "boolean"},
    {"enum": ["red", "blue", 3]},
    {"type": "array", "items": {"enum": [1, 23]}, "minItems": 2, "maxItems": 3},
    {"type": "string", "maxLength": 5},
    {"type": "string", "pattern": "^[a-c]{2,4}$"},
    {"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 3, "maximum": 70}]},
    {
        "type": "object",
        "properties": {"a": {"const": "x"}, "b": {"$ref": "#/$defs/b"}},
        "required": ["a", "b"],
        "additionalProperties": False,
        "$defs": {"b": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_of_the_schema(engine: LocalEngine, schema: Any, temperature: float) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    answers = engine.generate(
        ["the cat"] * 4, temperature=temperature, response_format=form, max_new_tokens=200
    )
    whole = [answer for answer in answers if answer.finish_reason == "stop"]
    assert whole or schema == {"type": "object"}  # which may go on for ever
    for answer in whole:
        jsonschema.validate(json.loads(answer.text), schema)


def test_a_form_goes_on_with_a_begun_answer_and_n(engine: LocalEngine) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"enum": ["red", "blue"]}}}
    answers = engine.generate(["the cat"], n=8, response_format=form, strength=3)
    assert {answer.text for answer in answers} <= {'"red"', '"blue"'}


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({}, "of type None"),
        ({"type": "xml"}, "of type 'xml'"),
        ({"type": "json_schema"}, "no JSON schema"),
        ({"type": "json_schema", "json_schema": {"schema": 5}}, "no JSON schema"),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "frog"}}}, "frog"),
        ({"type": "json_schema", "json_schema": {"schema": {"if": {}}}}, "if"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"$ref": "http://x.example/y"}}},
            "response_format",
        ),
    ],
)
def test_forms_that_cannot_be_held_to(engine: LocalEngine, form: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        greedy(engine, response_format=form)


def test_settings_out_of_range() -> None:
    for options, told in (
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"logit_bias": {-1: 1.0}}, "token ids"),
        ({"logit_bias": {1: 101.0}}, "logit_bias of token 1"),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "must end"),
    ):
        with pytest.raises(ConfigError, match=told):
            Sampling(**options)  # type: ignore[arg-type]


def test_a_token_beyond_the_vocabulary(engine: LocalEngine) -> None:
    with pytest.raises(ConfigError, match="99999 is no token id"):
        greedy(engine, logit_bias={99999: 1.0})


def test_kl_is_the_mean_of_the_reports(engine: LocalEngine, tmp_path: Path) -> None:
    answer = greedy(engine, max_new_tokens=12, report=True)
    mean = sum(token.kl for token in answer.tokens) / len(answer.tokens)
    assert answer.kl == pytest.approx(mean, abs=1e-5) and answer.kl > 0
    assert greedy(engine, max_new_tokens=12, speculate="on").kl == pytest.approx(mean, abs=1e-4)
    assert greedy(engine, max_new_tokens=12, strength=0).kl == 0


def test_rewards_of_given_answers_are_the_reward_models(
    engine: LocalEngine, tmp_path: Path
) -> None:
    from trimtab.arms.reward_model import RewardModel

    arm = save_model(tmp_path / "arm", 1)
    scored = RewardModel(str(arm)).score(["the cat", "a dog"], ["sat on the mat", "ran"])
    found = engine.log_likelihoods(
        ["the cat", "a dog"], ["sat on the mat", "ran"], rewards=True, end_of_turn=True,
        preference={"good": 1}, strength=0,
    )  # fmt: skip
    for one, own in zip(found, scored, strict=True):
        assert sum(one.rewards["good"]) == pytest.approx(own.reward, abs=1e-3)


class Never:
    """A form that wants a token which cannot come."""

    def copy(self) -> Never:
        return self

    def take(self, token: int) -> None:
        pass

    def allowed(self) -> torch.Tensor:
        return torch.tensor([True, False])


def test_a_form_that_nothing_can_meet_is_an_error_before_a_token_is_chosen() -> None:
    impossible = torch.tensor([0.0, 1.0]).log()
    with pytest.raises(ConfigError, match="can come"):
        Restraint(Sampling(), Never()).on(impossible)


def test_a_search_takes_no_restraint(engine: LocalEngine) -> None:
    searcher = trimtab.search(engine, "best-of-n")
    for options in ({"logit_bias": {1: 1.0}}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(ConfigError, match="leave them out"):
            searcher.generate(["the cat"], **options)  # type: ignore[arg-type]
