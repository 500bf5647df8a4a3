"""Contrasts and instructions from folders, against the specification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conditioned import save_arm
from conftest import make_tokenizer, save_model
from oracle import GREEDY, is_specified, word_tokenizer
from test_local_engine import make_lora, requests_for

import trimtab
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, MissingFileError, VocabularyError


@pytest.fixture(scope="module")
def lora_dir(tmp_path_factory: pytest.TempPathFactory, base_dir: Path) -> str:
    return str(make_lora(tmp_path_factory.mktemp("lora"), base_dir, seed=3))


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("other"), seed=5))


def agrees(engine: LocalEngine) -> None:
    for sampling in (GREEDY, GREEDY.but(temperature=1.0)):
        requests = requests_for(engine, sampling.but(max_new_tokens=12))
        for request, answer in zip(requests, engine.generate(requests), strict=True):
            assert is_specified(engine, request, answer.token_ids)


def test_all_kinds(base_dir: Path, arm_dir: Path, lora_dir: str, other_dir: str) -> None:
    base = str(base_dir)
    engine = trimtab.load(
        base,
        {"arm": str(arm_dir)},
        contrast={"dpo": f"{lora_dir}:{base}", "away": (other_dir, str(arm_dir))},
        instruct={"plain": "big red blue sun", "rude": {"text": "yes no", "weight": -0.5}},
    )
    assert engine.objectives == ["arm", "dpo", "away", "plain", "rude"]
    assert [arm.scale for arm in engine.arms] == [1.0, 1.0, 1.0, 1.0, -0.5]
    # base, LoRA and two instructions on one copy; the ARM, which is the other's reference; that
    assert [len(group.streams) for group in engine.groups] == [4, 1, 1]
    agrees(engine)


def test_a_lora_reads_its_own_template(base_dir: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ 'very big: ' + messages[-1]['content'] }}"
    lora = make_lora(tmp_path / "lora", base_dir, 3, tokenizer)
    engine = trimtab.load(str(base_dir), contrast={"a": (str(lora), str(base_dir))})
    prompts = engine.plan(Request("the cat sat")).prompts
    assert prompts["a"] != prompts["a.reference"] == prompts["base"]
    agrees(engine)


def refused(match: str, error: type[Exception], base: Path, **guides: Any) -> None:
    with pytest.raises(error, match=match):
        trimtab.load(str(base), **guides)


def test_bad_input(base_dir: Path, lora_dir: str, tmp_path: Path) -> None:
    base = str(base_dir)
    parm = str(save_arm(tmp_path / "parm", base_dir, "bilinear"))
    none = str(tmp_path / "none")
    refused("conditioned on a, b, c", ConfigError, base_dir, contrast={"x": (parm, base)})
    refused("untuned model of x", MissingFileError, base_dir, contrast={"x": (lora_dir, none)})
    big = {"a": "be big"}
    refused("called 'base'", ConfigError, base_dir, instruct={"base": "be big"})
    refused("two guides are called 'a'", ConfigError, base_dir, instruct=big, arms={"a": lora_dir})
    refused("no model is called 'y'", ConfigError, base_dir, instruct=big, revisions={"y": "1"})


def test_other_words_are_refused_by_name(base_dir: Path, tmp_path: Path) -> None:
    size = len(make_tokenizer())
    foreign = str(save_model(tmp_path / "foreign", 1, tokenizer=word_tokenizer(size)))
    base, other = str(base_dir), VocabularyError
    refused("the untuned model of x", other, base_dir, contrast={"x": (base, foreign)})
    refused("the tuned model of x", other, base_dir, contrast={"x": (foreign, base)})
