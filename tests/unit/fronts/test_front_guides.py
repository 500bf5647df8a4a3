"""Guides found in folders, and refused before a weight is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conditioned import save_arm
from conftest import save_model

from trimtab.errors import ConfigError, MissingFileError, ModelLoadError, TrimtabError
from trimtab.fronts.guides import Guide, read_guides, unguided

AB = ["a", "b"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` and `b`: whole-model ARMs that name their objectives, and a folder that is no ARM."""
    folder = tmp_path_factory.mktemp("guides") / "plain"
    for seed, name in enumerate(AB):
        arm(folder / name, name, seed)
    (folder / "notes").mkdir()
    return folder


@pytest.fixture(scope="module")
def lora(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with LoRA ARMs, as far as a folder shows."""
    folder = tmp_path_factory.mktemp("guides") / "lora"
    for name in AB:
        arm(folder / name, name)
        (folder / name / "config.json").unlink()
        facts = {"peft_type": "LORA", "base_model_name_or_path": str(base_dir)}
        (folder / name / "adapter_config.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def parm(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_arm(tmp_path_factory.mktemp("guides") / "parm", base_dir, "bilinear", "ba")


def arm(folder: Path, objective: str, seed: int = 0, **facts: Any) -> Path:
    save_model(folder, seed=seed)
    (folder / "trimtab.json").write_text(json.dumps({"objective": objective, **facts}))
    return folder


def read(*entries: object, soups: tuple[object, ...] = (), seeds: Any = (0,)) -> list[Guide]:
    return read_guides(
        [str(e) for e in entries], [str(s) for s in soups],
        objectives=AB, seeds=seeds, strength=1.5,
    )  # fmt: skip


def test_a_folder_of_arms_and_a_conditioned_arm(plain: Path, lora: Path, parm: Path) -> None:
    one, two, three = read(f"one={plain}", f"two={parm}@0.25", soups=(f"three={lora}",))
    assert one.arms == {0: {"a": str(plain / "a"), "b": str(plain / "b")}}
    assert two.arms == {0: {"two": str(parm)}}
    assert (one.strength, two.strength, three.strength) == (1.5, 0.25, 1.5)
    assert [g.combine for g in (one, two, three)] == ["fusion", "fusion", "soup"]
    assert unguided([0, 1]).arms == {0: {}, 1: {}}


def test_a_single_arm(plain: Path) -> None:
    [guide] = read_guides([f"x={plain / 'a'}"], [], objectives=["a"], seeds=[0], strength=1)
    assert guide.arms == {0: {"a": str(plain / "a")}}


def test_a_classifier_is_no_guide(plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "judges")
    config = folder / "b" / "config.json"
    facts = {**json.loads(config.read_text()), "architectures": ["LlamaForSequenceClassification"]}
    config.write_text(json.dumps(facts))
    with pytest.raises(ModelLoadError, match=r"b is a sequence classifier .*; it can judge whole"):
        read(f"one={folder}")


def test_a_guide_for_each_seed(tmp_path: Path, plain: Path) -> None:
    for seed in (3, 5):
        shutil.copytree(plain, tmp_path / f"s{seed}")
    one, same = read(f"one={tmp_path}/s{{seed}}@2", f"same={plain}", seeds=(3, 5))
    assert one.arms[3]["a"] == str(tmp_path / "s3" / "a")
    assert [seeds for seeds, _ in one.loads()] == [[3], [5]]
    assert [seeds for seeds, _ in same.loads()] == [[3, 5]]
    with pytest.raises(MissingFileError, match="no guide 'one' at"):
        read(f"one={tmp_path}/s{{seed}}", seeds=(3, 4))


def test_a_folder_may_have_an_at(tmp_path: Path, plain: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "arms@2")
    [whole, half] = read(f"whole={folder}", f"half={folder}@0.5")
    assert whole.strength == 1.5 and half.strength == 0.5
    assert whole.arms == half.arms


def test_identity_changes_with_weights_and_facts(tmp_path: Path, plain: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "copy")
    assert read(f"x={folder}")[0].identity() == read(f"x={plain}")[0].identity()
    (folder / "a" / "trimtab.json").write_text('{"objective": "a", "scale": 3}')
    assert read(f"x={folder}")[0].identity() != read(f"x={plain}")[0].identity()


@pytest.mark.parametrize(
    ("entries", "kind", "said"),
    [
        (["plain"], ConfigError, "cannot read --guide plain; write --guide NAME=FOLDER"),
        (["=x"], ConfigError, "cannot read --guide =x"),
        (["base=x"], ConfigError, "the name 'base' is taken by the unguided base; give x another"),
        (["draft=x"], ConfigError, "the name 'draft' is taken by the engine's drafter"),
        (["x={plain}", "x={plain}"], ConfigError, "two guides are called 'x'"),
        (["x={plain}@-1"], TrimtabError, "strength -1 is negative"),
        (["x={plain}@nan"], TrimtabError, "strength is not finite"),
        (["x={plain}/none"], MissingFileError, "no guide 'x' at"),
        (["x={plain}/notes"], ModelLoadError, "holds no ARM, and none of its folders does"),
        (["x={plain}/a"], ConfigError, "guide 'x' steers to a, but the scorers measure a, b"),
    ],
)
def test_entries_that_are_refused(entries: Any, kind: Any, said: str, plain: Path) -> None:
    with pytest.raises(kind, match=said):
        read(*(entry.format(plain=plain) for entry in entries))


def test_arms_that_are_refused(tmp_path: Path, plain: Path, parm: Path, base_dir: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "many")
    arm(folder / "c", "c")
    assert list(read(f"x={folder}")[0].arms[0]) == AB  # folders that are called so count alone
    (folder / "a").rename(folder / "0")
    with pytest.raises(ConfigError, match="guide 'x' steers to a, b, c, but the scorers measure"):
        read(f"x={folder}")
    arm(folder / "c", "b")
    with pytest.raises(ConfigError, match="guide 'x' has two models for 'b'"):
        read(f"x={folder}")
    arm(folder / "c", "c", method="trajectory")
    with pytest.raises(ModelLoadError, match="was trained with --method trajectory"):
        read(f"x={folder}")
    with pytest.raises(ConfigError, match=r"names no objective; write \{\"objective\""):
        read(f"x={base_dir}")
    shutil.copytree(parm, folder / "parm")
    shutil.rmtree(folder / "c")
    (folder / "parm" / "trimtab.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"parm is one ARM for all objectives; name it: --guide"):
        read(f"x={folder}")
    other = save_arm(tmp_path / "other", base_dir, "affine", "bc")
    with pytest.raises(ConfigError, match="guide 'x' steers to b, c, but the scorers measure a, b"):
        read(f"x={other}")


def test_soups_that_are_refused(plain: Path, parm: Path) -> None:
    with pytest.raises(ConfigError, match="whole model: only LoRA ARMs make a soup"):
        read(soups=(f"x={plain}",))
    with pytest.raises(
        ConfigError, match="one ARM for all objectives: there is nothing to average"
    ):
        read(soups=(f"x={parm}",))
    with pytest.raises(ConfigError, match="cannot read --soup x"):
        read(soups=("x",))


def test_policies(lora: Path, tmp_path: Path) -> None:
    """DPO models, and folders that others made; their strength ends at 1."""
    for name in AB:
        arm(tmp_path / "dpo" / name, name, method="dpo")
        (save_model(tmp_path / "plain" / name) / "trimtab.json").unlink(missing_ok=True)

    def read_policies(*entries: str, strength: float = 1.0, **combine: str) -> list[Guide]:
        return read_guides(
            [], [], entries, combine, objectives=AB, seeds=[0], strength=strength
        )  # fmt: skip

    one, two, three = read_policies(
        f"one={tmp_path}/dpo", f"two={tmp_path}/plain@0.5", f"three={lora}", two="forward-kl",
        three="factor-soup",
    )  # fmt: skip
    assert one.arms == {0: {name: str(tmp_path / "dpo" / name) for name in AB}}
    assert list(two.arms[0]) == AB and (one.strength, two.strength) == (1.0, 0.5)
    assert [g.combine for g in (one, two, three)] == ["fusion", "forward-kl", "factor-soup"]
    assert all(guide.policies and guide.identity()["policies"] for guide in (one, two, three))
    with pytest.raises(TrimtabError, match="strength 2 with the policies of guide 'x'; use 0"):
        read_policies(f"x={tmp_path}/dpo", strength=2)
    with pytest.raises(ConfigError, match=r"a is a whole model: .* leave --combine out"):
        read_policies(f"x={tmp_path}/dpo", x="soup")
    with pytest.raises(ConfigError, match="cannot read --combine x=mean; there are: fusion, soup"):
        read_policies(f"x={tmp_path}/dpo", x="mean")
    with pytest.raises(ConfigError, match="--combine names 'y', which is no guide of --policies"):
        read_policies(f"x={tmp_path}/dpo", y="soup")
    with pytest.raises(ModelLoadError, match="was trained with --method dpo: it is a policy"):
        read(f"x={tmp_path}/dpo")


def test_a_conditioned_arm_is_no_policy(parm: Path) -> None:
    with pytest.raises(ConfigError, match="one ARM for all objectives: no policy; give it with"):
        read_guides([], [], [f"x={parm}"], objectives=AB, seeds=[0], strength=1)


def test_a_folder_without_a_name_in_its_facts_is_named_by_itself(tmp_path: Path) -> None:
    for name in AB:
        arm(tmp_path / "arms" / name, "")
    assert list(read(f"x={tmp_path / 'arms'}")[0].arms[0]) == AB
