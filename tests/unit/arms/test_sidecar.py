"""trimtab.json: optional, forward-compatible, and never half-read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import save_model

from trimtab.arms.sidecar import Sidecar, require_base, same_backbone, store_scale
from trimtab.errors import MissingFileError, ModelLoadError
from trimtab.models.folder import weights_fingerprint


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    facts = Sidecar(method="trajectory", objective="kind", beta=0.1, scale=2.5, prompt_format="raw")
    facts.save(tmp_path)
    assert Sidecar.load(tmp_path) == facts
    assert json.loads((tmp_path / "trimtab.json").read_text())["scale"] == 2.5


def test_a_folder_without_one_is_an_arm_with_the_defaults(tmp_path: Path) -> None:
    assert Sidecar.load(tmp_path) == Sidecar()
    assert Sidecar.load(tmp_path / "none") == Sidecar()
    assert (Sidecar().method, Sidecar().scale) == ("genarm", 1.0)


def test_facts_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "trimtab.json").write_text('{"objective": "kind", "from_the_future": 1}')
    assert Sidecar.load(tmp_path) == Sidecar(objective="kind")


@pytest.mark.parametrize("place", [0, 2, None])
def test_a_calibration_leaves_all_other_values_in_their_place(
    tmp_path: Path, place: int | None
) -> None:
    facts = [
        ("preference", "fröhlich"), ("from_the_future", {"b": [1, None], "a": 10**20}),
        ("beta", 1e-7), ("objective", "kind"),
    ]  # fmt: skip
    if place is not None:
        facts.insert(place, ("scale", 1.0))
    (tmp_path / "trimtab.json").write_text(json.dumps(dict(facts)), encoding="utf-8")
    store_scale(tmp_path, 0.4)
    after = list(json.loads((tmp_path / "trimtab.json").read_text(encoding="utf-8")).items())
    assert after.pop(len(facts) if place is None else place) == ("scale", 0.4)
    assert after == [fact for fact in facts if fact[0] != "scale"]


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_broken_one_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "trimtab.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"trimtab\.json"):
        Sidecar.load(tmp_path)


@pytest.fixture
def adapter(tmp_path: Path, base_dir: Path) -> Path:
    """The facts of an adapter trained on a copy of the base."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(base_dir, base)
    adapter.mkdir()
    facts = {"peft_type": "LORA", "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(facts))
    Sidecar(base_fingerprint=weights_fingerprint(str(base))).save(adapter)
    return adapter


def test_a_backbone_is_known_by_its_weights(
    tmp_path: Path, adapter: Path, base_dir: Path, arm_dir: Path
) -> None:
    base = tmp_path / "base"
    assert same_backbone(str(adapter), str(base))
    assert same_backbone(str(adapter), str(base_dir))  # a copy
    assert not same_backbone(str(adapter), str(arm_dir))
    assert require_base(str(adapter)) == str(base)
    save_model(base, seed=7)  # another model in its place
    assert not same_backbone(str(adapter), str(base))
    with pytest.raises(ModelLoadError, match=r"no longer holds the weights .* base_fingerprint"):
        require_base(str(adapter))
    Sidecar().save(adapter)  # as the error's hint says
    assert same_backbone(str(adapter), str(base))
    assert require_base(str(adapter)) == str(base)


def test_without_a_fingerprint_it_is_the_place_that_counts(
    tmp_path: Path, adapter: Path, base_dir: Path
) -> None:
    (adapter / "trimtab.json").unlink()  # as PEFT writes a folder
    assert same_backbone(str(adapter), str(tmp_path / "base"))
    assert not same_backbone(str(adapter), str(base_dir))
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(MissingFileError, match="base_model_name_or_path"):
        require_base(str(adapter))
