"""ARMs whose rewards are against their start, decoded: the specification, and what it costs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conditioned import save_arm
from conftest import make_tokenizer, save_model
from oracle import is_specified, specified_logp
from test_local_engine import OTHER_TEMPLATE, make_lora, requests_for
from test_opposed_folders import agrees
from test_processor import GREEDY, PROMPTS, Base

import trimtab
from trimtab.arms.sidecar import Sidecar
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, ModelLoadError
from trimtab.models.folder import weights_fingerprint

FACTS = Sidecar(objective="a", reference="start", scale=0.75)


@pytest.fixture(scope="module")
def arms(base_dir: Path, arm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A LoRA of the base with its own tokenizer files, one of another model, two whole models."""
    root = tmp_path_factory.mktemp("arms")
    make_lora(root / "lora", base_dir, 3, make_tokenizer())
    make_lora(root / "other lora", arm_dir, 4)
    save_model(root / "whole", seed=5)
    save_model(root / "whole of another", seed=6)
    for name, start in (("whole", base_dir), ("whole of another", arm_dir)):
        facts = replace(FACTS, start=str(start), base_fingerprint=weights_fingerprint(str(start)))
        facts.save(root / name)
    for name in ("lora", "other lora"):
        FACTS.save(root / name)
    return {p.name: str(p) for p in root.iterdir()}


KINDS = ("lora", "other lora", "whole", "whole of another")


@pytest.mark.parametrize("kind", KINDS)
def test_it_decodes_as_the_specification(base_dir: Path, arms: dict[str, str], kind: str) -> None:
    engine = trimtab.load(str(base_dir), {"a": arms[kind]})
    [arm] = engine.arms
    assert arm.reference is not None and arm.scale == 0.75
    agrees(engine)


def test_what_it_costs(base_dir: Path, arms: dict[str, str]) -> None:
    """Beside a LoRA of the base its reference is the base's own row; others add one stream."""
    streams = {
        kind: [len(group.streams) for group in trimtab.load(str(base_dir), {"a": arm}).groups]
        for kind, arm in arms.items()
    }
    assert streams == {
        "lora": [2], "whole": [1, 1], "other lora": [1, 2], "whole of another": [1, 1, 1],
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_contrast_with_its_start(
    base_dir: Path, arm_dir: Path, arms: dict[str, str], kind: str
) -> None:
    start = str(arm_dir if "other" in kind else base_dir)
    as_arm = trimtab.load(str(base_dir), {"a": arms[kind]})
    as_contrast = trimtab.load(str(base_dir), contrast={"a": f"0.75:{arms[kind]}:{start}"})
    for request in requests_for(as_arm, GREEDY.but(temperature=1.0)):
        one, other = (e.generate([request])[0] for e in (as_arm, as_contrast))
        assert one.token_ids == other.token_ids


def test_without_its_reference_it_is_another_guide(
    base_dir: Path, arms: dict[str, str], tmp_path: Path
) -> None:
    """The fact in the sidecar counts: without it the same weights give other distributions."""
    plain = tmp_path / "plain"
    shutil.copytree(arms["lora"], plain)
    replace(FACTS, reference="none").save(plain)
    engines = [trimtab.load(str(base_dir), {"a": str(a)}) for a in (arms["lora"], plain)]
    logps = [specified_logp(engine, Request("the cat"), []) for engine in engines]
    assert float((logps[0] - logps[1]).abs().max()) > 0.1


def test_the_start_reads_what_the_arm_reads(base_dir: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = OTHER_TEMPLATE
    arm = make_lora(tmp_path / "lora", base_dir, 3, tokenizer)
    FACTS.save(arm)
    engine = trimtab.load(str(base_dir), {"a": str(arm)})
    prompts = engine.plan(Request("the cat sat")).prompts
    assert prompts["base"] != prompts["a"] == prompts["a.reference"]
    assert [len(group.streams) for group in engine.groups] == [3]
    agrees(engine)


@pytest.mark.parametrize("kind", KINDS)
def test_the_processor_is_the_engine(base_dir: Path, arms: dict[str, str], kind: str) -> None:
    base = Base(base_dir)
    guide = trimtab.ArmLogitsProcessor(arms[kind], base.model, base.tokenizer, strength=1.5)
    engine = trimtab.load(str(base_dir), {"a": arms[kind]})
    for prompt, ids in zip(PROMPTS, base.answers(PROMPTS, guide), strict=True):
        assert is_specified(engine, Request(prompt, strength=1.5, sampling=GREEDY), ids)
    before = base.answers(PROMPTS)
    weak = trimtab.ArmLogitsProcessor(arms[kind], base.model, base.tokenizer, strength=0)
    assert base.answers(PROMPTS, weak) == before


def test_a_soup_has_the_common_start(base_dir: Path, arms: dict[str, str], tmp_path: Path) -> None:
    second = make_lora(tmp_path / "second", base_dir, 8, make_tokenizer())
    FACTS.save(second)
    engine = trimtab.load(str(base_dir), {"a": arms["lora"], "b": str(second)}, combine="soup")
    alone = trimtab.load(str(base_dir), {"b": str(second)})
    for text in ("the cat", "moon"):
        one = engine.generate([text], preference={"a": 0, "b": 1}, temperature=0, max_new_tokens=8)
        assert one[0].token_ids == alone.generate(
            [text], temperature=0, max_new_tokens=8
        )[0].token_ids  # fmt: skip
    replace(FACTS, reference="none").save(second)
    with pytest.raises(ConfigError, match="only some ARMs of a soup have a reference"):
        trimtab.load(str(base_dir), {"a": arms["lora"], "b": str(second)}, combine="soup")


def test_a_conditioned_arm_has_none(base_dir: Path, tmp_path: Path) -> None:
    parm = save_arm(tmp_path / "parm", base_dir, "bilinear")
    (parm / "trimtab.json").write_text(json.dumps({"method": "parm", "reference": "start"}))
    base = Base(base_dir)
    for read in (
        lambda: trimtab.load(str(base_dir), {"a": str(parm)}),
        lambda: trimtab.score(str(parm), ["a"], ["b"]),
        lambda: trimtab.ArmLogitsProcessor(str(parm), base.model, base.tokenizer),
    ):
        with pytest.raises(ModelLoadError, match="has the reference 'start', which it cannot have"):
            read()
