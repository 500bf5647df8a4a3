"""trimtab.json: optional, forward-compatible, and never half-read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimtab.arms.sidecar import Sidecar
from trimtab.errors import ModelLoadError


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


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_broken_one_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "trimtab.json").write_text(text)
    with pytest.raises(ModelLoadError, match=r"trimtab\.json"):
        Sidecar.load(tmp_path)
