"""Conditioned ARMs given what cannot work: one line, exit code 2, and nothing written."""

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

PREFERENCES = [
    ("a=0.5,b=0.5", "the preference has no weight for c; weight every objective (a, b, c)"),
    ("a=1,b=0,c=0,d=0", "unknown objective 'd'; the objectives here are: a, b, c"),
    ("a=-1,b=1,c=1", "the weight of 'a' is negative"),
    ("a=0,b=0,c=0", "all weights of the preference are zero"),
    ("a=nan,b=0,c=1", "the weight of 'a' is not finite"),
    ("a,b,c", "cannot read 'a' in preference"),
    ("a=1,a=0,b=0,c=0", "objective 'a' is weighted twice"),
]


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("preference", "named"), PREFERENCES)
def test_bad_preferences(
    refused: Refused, arms: dict[Core, Path], base_dir: Path, tmp_path: Path, core: Core,
    preference: str, named: str,
) -> None:  # fmt: skip
    """Wherever a preference can be given."""
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
    """Two conditioned ARMs, the same twice, or one beside a plain ARM: the objective is named."""
    command = ["generate", "--base", base_dir, "--prompt", "x", "--output", tmp_path / "out"]
    one = ["--arm", arms["bilinear"]]
    other = save_arm(tmp_path / "other", base_dir, "bilinear", "cd")
    refused(*command, *one, "--arm", arms["affine"], names=["two ARMs for"])
    refused(*command, *one, *one, names=["two ARMs for"])
    refused(*command, *one, "--arm", f"b={arm_dir}", names=["share an objective", "b"])
    refused(*command, *one, "--arm", other, names=["share an objective", "c"])


def test_a_soup_with_what_is_no_lora(
    refused: Refused, arms: dict[Core, Path], base_dir: Path, arm_dir: Path, tmp_path: Path
) -> None:
    command = ["generate", "--base", base_dir, "--prompt", "x", "--output", tmp_path / "out"]
    soup = [*command, "--combine", "soup"]
    whole = refused(*soup, "--arm", f"x={arm_dir}", names=["a soup is made of LoRAs"])
    assert "the ARM x is no plain LoRA" in whole
    refused(*soup, "--arm", arms["affine"], names=["is no plain LoRA"])
    refused(*soup, "--arm", f"x={arm_dir}", "--arm", f"y={base_dir}", names=["on one backbone"])


def test_descriptions_without_a_uniarm(
    refused: Refused, arms: dict[Core, Path], base_dir: Path, arm_dir: Path, tmp_path: Path
) -> None:
    command = ["generate", "--base", base_dir, "--prompt", "x", "--output", tmp_path / "out"]
    describe = ["--describe", "kind=good and happy"]
    needs = ["--describe needs one ARM that knows objectives by their descriptions", "uniarm"]
    refused(*command, *describe, names=needs)
    refused(*command, *describe, "--arm", arms["bilinear"], names=needs)
    refused(*command, *describe, "--arm", f"x={arm_dir}", names=needs)
    uniarm = ["--arm", arms["affine"]]
    for text, named in (
        ("a=happy", "'a' is described already"),
        ("d=happy cat", "'d' and 'a' are described alike"),
        ("kind", "cannot read --describe 'kind'"),
        ("kind=", "cannot read --describe 'kind='"),
    ):
        refused(*command, *uniarm, "--describe", text, names=[named])
    refused(*command, *uniarm, "--describe", "d=x", "d=y", names=["'d' is described twice"])


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


def test_bad_exports(
    refused: Refused, arms: dict[Core, Path], base_dir: Path, arm_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parm = ["export", "--arm", arms["bilinear"]]
    refused(*parm, "--output-dir", out, names=["no preference to export at", "--preference a=0.33"])
    whole = ["export", "--arm", arm_dir, "--output-dir", out, "--preference", "a=1"]
    refused(*whole, names=["is a whole model", "nothing to export"])
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
