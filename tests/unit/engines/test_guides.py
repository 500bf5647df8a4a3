"""ARMs in memory: shared backbones, soups, and objectives known by description alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conditioned import TEXTS, save_arm
from conftest import make_tokenizer, save_model
from oracle import GREEDY
from peft import LoraConfig, TaskType, get_peft_model
from rounding import nats
from safetensors.torch import load_file, save_file

import trimtab
from trimtab.arms.describe import objective_vectors
from trimtab.arms.sidecar import Sidecar
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, PreferenceError

NEW = {"d": "very little story"}


def lora_on(base: Path, folder: Path, seed: int, **options: Any) -> Path:
    """A LoRA with random factors, as PEFT saves it."""
    torch.manual_seed(seed)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["q_proj"], **options)
    model = get_peft_model(plain, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def uniarm(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A UniARM of a, b and c."""
    return str(save_arm(tmp_path_factory.mktemp("uniarm"), base_dir, "affine"))


@pytest.fixture(scope="module")
def parm(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PARM of e and f."""
    return str(save_arm(tmp_path_factory.mktemp("parm"), base_dir, "bilinear", "ef"))


@pytest.fixture(scope="module")
def loras(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        name: str(lora_on(base_dir, tmp_path_factory.mktemp(name), seed))
        for seed, name in enumerate(("one", "two"))
    }


def rewards(engine: LocalEngine, preference: dict[str, float]) -> list[tuple[int, float]]:
    """The tokens of two greedy answers and the first ARM's rewards of them."""
    requests = [Request(text, preference, 1.5, GREEDY) for text in ("the cat", "moon")]
    answers = engine.generate(requests, report=True)
    name = engine.arms[0].name
    return [(token.token_id, token.rewards[name]) for a in answers for token in a.tokens]


def alike(one: list[tuple[int, float]], two: list[tuple[int, float]]) -> bool:
    return [t for t, _ in one] == [t for t, _ in two] and [r for _, r in one] == nats(
        [r for _, r in two]
    )


class TestSharing:
    def test_one_backbone_for_all_adapters(
        self, base_dir: Path, uniarm: str, parm: str, loras: dict[str, str]
    ) -> None:
        engine = trimtab.load(str(base_dir), {"x": uniarm, "y": parm, **loras})
        assert engine.objectives == ["a", "b", "c", "e", "f", "one", "two"]
        assert [len(group.streams) for group in engine.groups] == [5]
        assert {id(arm.model) for arm in engine.arms} == {id(engine.base.model)}

    def test_an_objective_twice(self, base_dir: Path, uniarm: str, loras: dict[str, str]) -> None:
        for arms in ({"x": uniarm, "a": loras["one"]}, {"x": uniarm, "y": uniarm}):
            with pytest.raises(ConfigError, match="two guides share an objective"):
                trimtab.load(str(base_dir), arms)

    def test_its_objectives_are_not_its_name(self, base_dir: Path, uniarm: str) -> None:
        engine = trimtab.load(str(base_dir), {"x": uniarm})
        with pytest.raises(
            PreferenceError, match="unknown objective 'x'; the objectives here are: a"
        ):
            engine.plan(Request("moon", {"x": 1.0}))


class TestDescribe:
    def test_an_unseen_objective(
        self, base_dir: Path, uniarm: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It can be weighted, it changes what is said, and a warning says what it is."""
        with caplog.at_level(logging.WARNING, "trimtab"):
            engine = trimtab.load(str(base_dir), {"x": uniarm}, describe=NEW)
        assert engine.objectives == ["a", "b", "c", "d"]
        assert [arm.objectives for arm in engine.arms] == [("a", "b", "c", "d")]
        assert "d is known by description only" in caplog.text
        one, two = (rewards(engine, {**dict.fromkeys("abcd", 0), n: 1}) for n in "ad")
        assert not alike(one, two)
        with pytest.raises(PreferenceError, match="no weight for d"):
            engine.plan(Request("moon", {"a": 1, "b": 1, "c": 1}))

    def test_without_weight_it_is_not_there(self, base_dir: Path, uniarm: str) -> None:
        known = trimtab.load(str(base_dir), {"x": uniarm})
        more = trimtab.load(str(base_dir), {"x": uniarm}, describe={**NEW, "e": "bad dog ran"})
        weights = {"a": 0.2, "b": 0.3, "c": 0.5}
        assert alike(rewards(known, weights), rewards(more, {**weights, "d": 0, "e": 0}))

    def test_is_one_more_vector(self, base_dir: Path, uniarm: str, tmp_path: Path) -> None:
        """The same as an ARM whose folder holds the description's vector among the others."""
        tensors = load_file(Path(uniarm) / "adapter_model.safetensors")
        facts = json.loads((Path(uniarm) / "adapter_config.json").read_text())
        model = transformers.AutoModelForCausalLM.from_pretrained(base_dir)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base_dir)
        new = objective_vectors(model, tokenizer, NEW, tensors["condition.projection"])
        tensors["condition.vectors"] = torch.cat([tensors["condition.vectors"], new])
        facts["objectives"].append("d")
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        (tmp_path / "adapter_config.json").write_text(json.dumps(facts))
        tokenizer.save_pretrained(tmp_path)
        trained = trimtab.load(str(base_dir), {"x": str(tmp_path)})
        described = trimtab.load(str(base_dir), {"x": uniarm}, describe=NEW)
        weights = {"a": 0.2, "b": 0.3, "c": 0.1, "d": 0.4}
        assert alike(rewards(trained, weights), rewards(described, weights))

    def test_beside_other_arms(self, base_dir: Path, uniarm: str, parm: str) -> None:
        """Only the UniARM learns of it."""
        engine = trimtab.load(str(base_dir), {"y": parm, "x": uniarm}, describe=NEW)
        assert engine.objectives == ["e", "f", "a", "b", "c", "d"]

    @pytest.mark.parametrize("arms", ["none", "parm", "lora", "two"])
    def test_needs_one_uniarm(
        self, base_dir: Path, uniarm: str, parm: str, loras: dict[str, str], arms: str
    ) -> None:
        given = {
            "none": {}, "parm": {"y": parm}, "lora": loras, "two": {"x": uniarm, "z": uniarm},
        }[arms]  # fmt: skip
        with pytest.raises(ConfigError, match="--describe needs one ARM that knows objectives"):
            trimtab.load(str(base_dir), given, describe=NEW)

    @pytest.mark.parametrize(
        ("describe", "named"),
        [
            ({"b": "sad dog"}, "'b' is described already"),
            ({"d": ""}, "description of 'd' has no tokens"),
            ({"d": "moon", "g": "moon"}, "'g' and 'd' are described alike"),
            ({"e": "bad dog"}, "share an objective"),
        ],
    )
    def test_names_and_texts_that_cannot_be(
        self, base_dir: Path, uniarm: str, parm: str, describe: dict[str, str], named: str
    ) -> None:
        """A trained objective, no words, the same words twice, another ARM's objective."""
        with pytest.raises(ConfigError, match=named) as caught:
            trimtab.load(str(base_dir), {"x": uniarm, "y": parm}, describe=describe)
        assert caught.value.hint and "\n" not in str(caught.value)

    def test_described_like_a_trained_one(self, base_dir: Path, uniarm: str) -> None:
        """Two objectives of one vector, as training refuses them."""
        with pytest.raises(ConfigError, match="described alike"):
            trimtab.load(str(base_dir), {"x": uniarm}, describe={"d": TEXTS["a"]})


class TestSoup:
    def test_is_one_arm_of_all_objectives(self, base_dir: Path, loras: dict[str, str]) -> None:
        engine = trimtab.load(str(base_dir), loras, combine="soup")
        assert [arm.name for arm in engine.arms] == ["one+two"]
        assert engine.objectives == ["one", "two"]
        assert [len(group.streams) for group in engine.groups] == [2]
        assert engine.plan(Request("moon", "one=1,two=3", 2.0)).weights == [2.0]

    @pytest.mark.parametrize("kind", ["whole", "uniarm", "dora", "nothing"])
    def test_of_what_it_cannot_be(
        self, base_dir: Path, arm_dir: Path, uniarm: str, tmp_path: Path, kind: str,
        loras: dict[str, str],
    ) -> None:  # fmt: skip
        """A whole model, a conditioned ARM, more than plain LoRA, no ARM at all."""
        arms = {"one": loras["one"], "x": uniarm}
        if kind == "whole":
            arms["x"] = str(arm_dir)
        if kind == "dora":
            arms["x"] = str(lora_on(base_dir, tmp_path, 3, use_dora=True))
        with pytest.raises(ConfigError) as caught:
            trimtab.load(str(base_dir), {} if kind == "nothing" else arms, combine="soup")
        assert caught.value.hint and "\n" not in str(caught.value)
        if kind == "uniarm":
            assert "is no plain LoRA" in str(caught.value)
        if kind in ("dora", "nothing"):  # which are not on two backbones
            assert "not on one backbone" not in str(caught.value)

    def test_of_arms_on_two_backbones(
        self, base_dir: Path, tmp_path: Path, loras: dict[str, str]
    ) -> None:
        other = save_model(tmp_path / "base", 7)
        arms = {"one": loras["one"], "far": str(lora_on(other, tmp_path / "far", 3))}
        with pytest.raises(ConfigError, match="not on one backbone"):
            trimtab.load(str(base_dir), arms, combine="soup")

    @pytest.mark.parametrize("order", [("one", "said"), ("said", "one")])
    def test_of_arms_that_differ_in_template(
        self, base_dir: Path, tmp_path: Path, loras: dict[str, str], order: tuple[str, str]
    ) -> None:
        """One of them would read prompts that it was not trained on; which one, by their order."""
        said = lora_on(base_dir, tmp_path, 3)
        template = "{% for m in messages %}{{ 'very very big: ' + m['content'] }}{% endfor %}"
        make_tokenizer(template=template).save_pretrained(said)
        arms = {"one": loras["one"], "said": str(said)}
        with pytest.raises(ConfigError):
            trimtab.load(str(base_dir), {name: arms[name] for name in order}, combine="soup")

    def test_of_arms_that_differ_in_scale(
        self, base_dir: Path, tmp_path: Path, loras: dict[str, str]
    ) -> None:
        """No weight would mean the same for both."""
        scaled = lora_on(base_dir, tmp_path, 3)
        Sidecar(scale=0.5).save(scaled)
        with pytest.raises(ConfigError, match="differ in scale or prompt format"):
            trimtab.load(str(base_dir), {**loras, "half": str(scaled)}, combine="soup")
