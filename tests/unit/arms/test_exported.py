"""What an exported ARM is to Trimtab itself: an ARM of one objective that steers as it did."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from conditioned import CORES, save_arm
from conftest import save_model
from rounding import nats

import trimtab
from trimtab.arms.conditioned import Core
from trimtab.arms.export import export
from trimtab.arms.objectives import conditioned_on
from trimtab.arms.sidecar import Sidecar
from trimtab.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:.*lora_bias=True")  # PEFT: it cannot merge those

WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 5, "temperature": 0, "report": True, "ignore_eos": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def arms(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Core, Path]:
    """A PARM and a UniARM of a, b and c with random weights, as training leaves them."""
    root, methods = tmp_path_factory.mktemp("arms"), {"bilinear": "parm", "affine": "uniarm"}
    folders = {core: save_arm(root / core, base_dir, core) for core in CORES}
    for core, folder in folders.items():
        betas = {"a": 0.1, "b": 0.2, "c": 0.3}
        facts = Sidecar(
            method=methods[core],  # type: ignore[arg-type]
            betas=betas, beta=0.0, scale=1.5, prompt_format="raw", base_family="llama",
        )  # fmt: skip
        facts.save(folder)
    return folders


def same(ours: Any, theirs: Any, names: tuple[str, str]) -> None:
    """Two reports say the same of every token, the ARMs being called by two names."""
    assert [token.token_id for token in ours.tokens] == [token.token_id for token in theirs.tokens]
    for one, other in zip(ours.tokens, theirs.tokens, strict=True):
        assert one.logp_fused == nats(other.logp_fused)
        assert one.rewards[names[0]] == nats(other.rewards[names[1]])


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("core", CORES)
def test_it_steers_as_the_conditioned_arm(
    arms: dict[Core, Path], base_dir: Path, tmp_path: Path, core: Core, merge: bool
) -> None:
    """At that preference, with its scale and its way to read prompts."""
    export(str(arms[core]), tmp_path, preference=WEIGHTS, merge=merge)
    whole = trimtab.load(str(base_dir), {"all": str(arms[core])})
    [wanted] = whole.generate(["the cat"], preference=WEIGHTS, **OPTIONS)
    engine = trimtab.load(str(base_dir), {"one": str(tmp_path)})
    assert (engine.arms[0].adapter is None) == merge  # a LoRA, with or without bias, is fused
    [found] = engine.generate(["the cat"], **OPTIONS)
    same(found, wanted, ("one", "all"))
    [other] = whole.generate(["the cat"], preference={"a": 0, "b": 0, "c": 1}, **OPTIONS)
    assert other.tokens[0].rewards != wanted.tokens[0].rewards


@pytest.mark.parametrize("core", CORES)
def test_its_sidecar_and_card(
    arms: dict[Core, Path], base_dir: Path, tmp_path: Path, core: Core
) -> None:
    """How it was trained and what it was exported at are written down; it takes no preference."""
    export(str(arms[core]), tmp_path, preference="c=2,b=3,a=5")
    facts = Sidecar.load(tmp_path)
    trained = Sidecar.load(arms[core])
    assert (facts.method, facts.betas, facts.objective) == (trained.method, trained.betas, "a+b+c")
    assert (facts.scale, facts.prompt_format, facts.base_family) == (1.5, "raw", "llama")
    assert facts.preference == "a=0.5,b=0.3,c=0.2"
    assert facts.trimtab_version == trimtab.__version__
    assert conditioned_on(str(tmp_path)) == []
    card = (tmp_path / "README.md").read_text()
    assert "library_name: peft" in card and f"on `{base_dir}`" in card
    assert ("which PEFT applies and cannot merge" in card) == (core == "affine")
    assert "Exported at the preference a=0.5,b=0.3,c=0.2." in card
    own = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert own.get_vocab() == transformers.AutoTokenizer.from_pretrained(base_dir).get_vocab()


@pytest.mark.parametrize("core", CORES)
def test_scores_are_the_conditioned_arms(
    arms: dict[Core, Path], tmp_path: Path, core: Core
) -> None:
    export(str(arms[core]), tmp_path, preference=WEIGHTS, merge=True)
    prompts, texts = ["the cat", "the dog"], ["happy sad", "story"]
    ours = trimtab.score(str(tmp_path), prompts, texts)
    theirs = trimtab.score(str(arms[core]), prompts, texts, preference=WEIGHTS)
    for one, other in zip(ours, theirs, strict=True):
        assert one.token_rewards == nats(other.token_rewards)


@pytest.mark.parametrize("core", CORES)
def test_it_can_be_merged_later(
    arms: dict[Core, Path], base_dir: Path, tmp_path: Path, core: Core
) -> None:
    """Into what `merge` gives at once; what it was exported at is still known. Or, where it has a
    bias, a refusal: PEFT cannot merge those."""
    export(str(arms[core]), tmp_path / "lora", preference=WEIGHTS)
    try:
        export(str(tmp_path / "lora"), tmp_path / "later", merge=True)
    except ConfigError:
        assert core == "affine" and not (tmp_path / "later").exists()
        return
    export(str(arms[core]), tmp_path / "at-once", preference=WEIGHTS, merge=True)
    found, wanted = (
        trimtab.load(str(base_dir), {"one": str(tmp_path / name)}).generate(["the cat"], **OPTIONS)
        for name in ("later", "at-once")
    )
    same(found[0], wanted[0], ("one", "one"))
    assert Sidecar.load(tmp_path / "later").preference == "a=0.5,b=0.3,c=0.2"


@pytest.mark.parametrize("core", CORES)
def test_a_soup_of_two_keeps_their_shifts(
    arms: dict[Core, Path], base_dir: Path, tmp_path: Path, core: Core
) -> None:
    """`Σ p_i ΔW_i x`, biases included: all of one is that one. Or a refusal, but never half."""
    for name, preference in (("one", "a=1,b=0,c=0"), ("two", "a=0,b=0,c=1")):
        export(str(arms[core]), tmp_path / name, preference=preference)
    folders = {name: str(tmp_path / name) for name in ("one", "two")}
    try:
        engine = trimtab.load(str(base_dir), folders, combine="soup")
    except ConfigError:
        assert core == "affine"
        return
    for name in folders:
        weights = {n: float(n == name) for n in folders}
        [found] = engine.generate(["the cat"], preference=weights, **OPTIONS)
        [wanted] = trimtab.load(str(base_dir), {name: folders[name]}).generate(
            ["the cat"], **OPTIONS
        )
        same(found, wanted, ("one+two", name))


@pytest.mark.parametrize("what", ["arm", "base"])
def test_neither_the_arm_nor_its_base_is_written_over(tmp_path: Path, what: str) -> None:
    """Not even with `overwrite`: the export would be made of what it destroys."""
    base = save_model(tmp_path / "base")
    arm = save_arm(tmp_path / "arm", base, "bilinear")
    shutil.copytree(tmp_path / what, tmp_path / "copy")
    with pytest.raises(ConfigError):
        export(str(arm), tmp_path / what, preference=WEIGHTS, overwrite=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / what).iterdir()} == before
