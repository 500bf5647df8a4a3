"""Conditioned ARMs given what cannot work: one line, exit code 2, and nothing written.

As in test_bad_input.py, a case for a command; the rest is asserted in tests/unit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import test_bad_input
from conditioned import CORES, save_arm
from conftest import write_jsonl
from test_bad_input import GOOD, Refused

from trimtab.arms.conditioned import Core
from trimtab.arms.sidecar import Sidecar

refused = test_bad_input.refused  # the fixture: it looks at tmp_path before and after

LABELS = [{**GOOD, "prompt": f"the cat {i}", "labels": {"a": 0, "b": i % 2}} for i in range(20)]


@pytest.fixture(scope="module")
def arms(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Core, Path]:
    """A PARM and a UniARM of a, b and c, with random weights."""
    root = tmp_path_factory.mktemp("arms")
    folders = {core: save_arm(root / core, base_dir, core) for core in CORES}
    for core, folder in folders.items():
        Sidecar(method="parm" if core == "bilinear" else "uniarm").save(folder)
    return folders


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "labelled.jsonl", LABELS)


# --- preferences --------------------------------------------------------------------------------


@pytest.mark.parametrize("core", CORES)
def test_a_bad_preference(
    refused: Refused, arms: dict[Core, Path], base_dir: Path, tmp_path: Path, core: Core
) -> None:
    """Wherever one can be given."""
    preference = "a=0.5,b=0.5"
    named = "the preference has no weight for c; weight every objective (a, b, c)"
    arm, out = arms[core], tmp_path / "out"
    given = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "x", "response": "y"}])
    own = write_jsonl(
        tmp_path / "own.jsonl", [{"prompt": "x"}, {"prompt": "y", "preference": preference}]
    )
    steer = ["--base", base_dir, "--arm", arm]
    asked = ["--preference", preference]
    refused("generate", *steer, "--prompt", "x", "--output", out, *asked, names=[named])
    row = refused("generate", *steer, "--input", own, "--output", out, names=[named])
    assert "row 2 of the input: " in row
    refused("chat", *steer, *asked, names=[named])
    refused("export", "--arm", arm, "--output-dir", out, *asked, names=[named])
    refused("score", "--arm", arm, "--input", given, "--output", out, *asked, names=[named])


def test_a_preference_for_what_takes_none(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    given = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "x", "response": "y"}])
    command = ["score", "--arm", base_dir, "--input", given, "--output", tmp_path / "out"]
    refused(*command, "--preference", "a=1", names=["this reward model takes no preference"])


def test_measuring_no_objective_or_another(
    refused: Refused, arms: dict[Core, Path], labelled: Path
) -> None:
    command = ["accuracy", "--arm", arms["bilinear"], "--data", labelled]
    named = ["the ARM takes a preference over a, b, c", "--objective a"]
    refused(*command, names=named)
    refused(*command, "--objective", "d", names=named)
    refused(*command, "--objective", "c", names=["no objective 'c'", "they have: a, b"])


# --- which ARMs ---------------------------------------------------------------------------------


def test_naming_a_conditioned_arm(refused: Refused, arms: dict[Core, Path], base_dir: Path) -> None:
    arm = arms["bilinear"]
    for command in (
        ["generate", "--base", base_dir, "--prompt", "x"], ["chat", "--base", base_dir],
        ["bench", "speed", "--base", base_dir],
    ):  # fmt: skip
        named = [f"--arm both={arm} is conditioned on a, b, c", f"write --arm {arm}"]
        refused(*command, "--arm", f"both={arm}", names=named)


def test_two_arms_of_one_objective(
    refused: Refused, arms: dict[Core, Path], base_dir: Path, arm_dir: Path, tmp_path: Path
) -> None:
    """Two conditioned ARMs, or one beside a plain ARM: the objective is named."""
    command = ["generate", "--base", base_dir, "--prompt", "x", "--output", tmp_path / "out"]
    one = ["--arm", arms["bilinear"]]
    refused(*command, *one, "--arm", arms["affine"], names=["two ARMs for"])
    refused(*command, *one, "--arm", f"b={arm_dir}", names=["share an objective", "b"])


def test_a_soup_with_what_is_no_lora(
    refused: Refused, base_dir: Path, arm_dir: Path, tmp_path: Path
) -> None:
    command = ["generate", "--base", base_dir, "--prompt", "x", "--output", tmp_path / "out"]
    soup = [*command, "--combine", "soup"]
    whole = refused(*soup, "--arm", f"x={arm_dir}", names=["a soup is made of LoRAs"])
    assert "the ARM x is no plain LoRA" in whole
    refused(*soup, "--arm", f"x={arm_dir}", "--arm", f"y={base_dir}", names=["on one backbone"])


def test_descriptions_without_a_uniarm(
    refused: Refused, arms: dict[Core, Path], base_dir: Path, tmp_path: Path
) -> None:
    command = ["generate", "--base", base_dir, "--prompt", "x", "--output", tmp_path / "out"]
    describe = ["--describe", "kind=good and happy"]
    needs = ["--describe needs one ARM that knows objectives by their descriptions", "uniarm"]
    refused(*command, *describe, "--arm", arms["bilinear"], names=needs)
    uniarm = ["--arm", arms["affine"]]
    refused(*command, *uniarm, "--describe", "a=happy", names=["'a' is described already"])
    refused(*command, *uniarm, "--describe", "kind", names=["cannot read --describe 'kind'"])


def test_a_broken_adapter(
    refused: Refused, arms: dict[Core, Path], base_dir: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(arms["affine"], broken)
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    named = [weights, "corrupt"]
    command = ["--base", base_dir, "--arm", broken, "--prompt", "x"]
    refused("generate", *command, names=named)
    options = ["--preference", "a=1,b=0,c=0", "--output-dir", tmp_path / "out"]
    refused("export", "--arm", broken, *options, names=named)


# --- export -------------------------------------------------------------------------------------


def test_bad_exports(refused: Refused, arms: dict[Core, Path], tmp_path: Path) -> None:
    parm = ["export", "--arm", arms["bilinear"]]
    used = tmp_path / "used"
    used.mkdir()
    (used / "precious.txt").write_text("mine")
    preference = ["--preference", "a=1,b=0,c=0"]
    refused(*parm, *preference, "--output-dir", used, names=[used, "is not empty", "--overwrite"])
    file = used / "precious.txt"
    refused(*parm, *preference, "--output-dir", file, names=[file, "is a file"])


def test_an_export_whose_base_has_gone(
    refused: Refused, arms: dict[Core, Path], tmp_path: Path
) -> None:
    arm = tmp_path / "arm"
    shutil.copytree(arms["bilinear"], arm)
    path = arm / "adapter_config.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "base_model_name_or_path": "/nowhere/base"}))
    command = ["export", "--arm", arm, "--output-dir", tmp_path / "out"]
    named = ["was trained on /nowhere/base, which is not there", "base_model_name_or_path"]
    for merge in ([], ["--merge"]):
        refused(*command, "--preference", "a=1,b=0,c=0", *merge, names=named)
