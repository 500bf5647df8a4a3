"""Whose code may run and which revision is meant: asked for each model apart, and handed on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers

import trimtab
from trimtab.arms.load import config_of, load_backbone, tokenizer_of
from trimtab.entries import parse_revisions
from trimtab.errors import ConfigError
from trimtab.models.load import load_model
from trimtab.models.origins import Origins


class Hub:
    """transformers' loaders, as if `someone/model` were at the hub and held a local folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        for kind in ("AutoConfig", "AutoTokenizer", "AutoModelForCausalLM", "GenerationConfig"):
            auto = getattr(transformers, kind)
            monkeypatch.setattr(auto, "from_pretrained", self._of(auto.from_pretrained, folder))

    def _of(self, load: Any, folder: Path) -> Any:
        def from_hub(name: str, **options: Any) -> Any:
            if name != "someone/model":
                return load(name, **options)
            self.asked.append((name, options))
            return load(str(folder), **{k: v for k, v in options.items() if k != "revision"})

        return from_hub

    def revisions(self) -> set[Any]:
        return {options.get("revision") for _, options in self.asked}


@pytest.fixture
def hub(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(base_dir, monkeypatch)


@pytest.fixture
def pinned_arm(hub: Hub, pairs_file: Path, tmp_path: Path) -> Path:
    """A LoRA trained on the hub's model at v3."""
    folder = tmp_path / "arm"
    trimtab.train(
        model="someone/model", revision="v3", data=pairs_file, output_dir=str(folder),
        max_steps=1, split="none",
    )  # fmt: skip
    return folder


def test_the_base_is_pinned_wherever_it_is_read(hub: Hub) -> None:
    trimtab.load("someone/model", revisions={"base": "v3"})
    assert len(hub.asked) == 4 and hub.revisions() == {"v3"}


def test_without_a_revision_none_is_asked_for(hub: Hub) -> None:
    trimtab.load("someone/model")
    assert hub.revisions() == {None}


def test_code_runs_for_the_named_model_alone(hub: Hub, arm_dir: Path) -> None:
    trimtab.load("someone/model", {"a": str(arm_dir)}, trust_remote_code=["a"])
    assert {options["trust_remote_code"] for _, options in hub.asked} == {False}
    hub.asked.clear()
    trimtab.load("someone/model", {"a": str(arm_dir)}, trust_remote_code=["base"])
    assert {options["trust_remote_code"] for _, options in hub.asked} == {True}


def test_an_adapter_records_its_models_revision_and_asks_for_it(hub: Hub, pinned_arm: Path) -> None:
    config = json.loads((pinned_arm / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/model" and config["revision"] == "v3"
    assert hub.revisions() == {"v3"}
    hub.asked.clear()
    load_backbone(str(pinned_arm))
    config_of(str(pinned_arm))
    assert len(hub.asked) == 2 and hub.revisions() == {"v3"}


def test_an_adapter_of_another_revision_is_not_put_on_the_base(hub: Hub, pinned_arm: Path) -> None:
    for revisions, groups in (({"base": "v3"}, 1), ({"base": "main"}, 2), ({}, 2)):
        engine = trimtab.load("someone/model", {"a": str(pinned_arm)}, revisions=revisions)
        assert len(engine.groups) == groups


@pytest.mark.parametrize("load", [load_model, config_of, tokenizer_of])
def test_a_folder_has_no_revision(load: Any, base_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"a revision for .*, which is on this machine"):
        load(str(base_dir), revision="main")


@pytest.mark.parametrize(
    ("trusted", "revisions"), [(["bsae"], {}), ([], {"bsae": "v1"}), (True, {}), ("base", {})]
)
def test_names_that_are_none(trusted: Any, revisions: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"bsae|name the models"):
        Origins.of(["base", "a"], trusted, revisions)


def test_entries_of_the_command_line() -> None:
    assert parse_revisions(["v1", "a=v2", "b=x=y"]) == {"base": "v1", "a": "v2", "b=x": "y"}
    for wrong in (["v1", "base=v2"], ["=v1"], ["a="]):
        with pytest.raises(ConfigError):
            parse_revisions(wrong)
