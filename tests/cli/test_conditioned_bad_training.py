"""Training conditioned ARMs on what cannot work: one line, exit code 2, and nothing written.

As in test_bad_input.py, a case for a kind of input; the rest is asserted in tests/unit/training
(test_checks.py, test_reading.py) and tests/unit/data.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import test_bad_input
from conftest import write_jsonl
from test_bad_input import GOOD, Refused, train

refused = test_bad_input.refused  # the fixture: it looks at tmp_path before and after

LABELS = [{**GOOD, "prompt": f"the cat {i}", "labels": {"a": 0, "b": i % 2}} for i in range(20)]
DESCRIBED = ["--describe", "a=happy cat", "b=sad dog"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "labelled.jsonl", LABELS)


def conditioned(
    method: str, base: Path, data: object, out: Path, *more: object, described: bool = True
) -> list[object]:
    options = DESCRIBED if method == "uniarm" and described else []
    return train(base, data, out, "--method", method, *options, *more)


# --- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["parm", "uniarm"])
def test_bad_rows(refused: Refused, base_dir: Path, tmp_path: Path, method: str) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [*LABELS, {**GOOD, "labels": {"a": 2}}])
    named = ["rows.jsonl:21 has label 2 for 'a'; a label is 0 (chosen is"]
    refused(*conditioned(method, base_dir, path, tmp_path / "out"), names=named)


def test_one_objective(refused: Refused, base_dir: Path, pairs_file: Path, tmp_path: Path) -> None:
    command = conditioned("parm", base_dir, f"a={pairs_file}", tmp_path / "out")
    refused(*command, names=["--method parm with the one objective a", "use --method genarm"])


def test_no_training_pair_is_judged_on_an_objective(
    refused: Refused, base_dir: Path, tmp_path: Path
) -> None:
    """`cat` is a test prompt by its hash, the only one that `b` judged."""
    rows = [{**row, "labels": {"a": 0}} for row in LABELS]
    path = write_jsonl(
        tmp_path / "rows.jsonl", [*rows, {**GOOD, "prompt": "cat", "objective": "b"}]
    )
    command = conditioned("parm", base_dir, path, tmp_path / "out")
    refused(*command, names=["no training pair is judged on 'b'; add data"])


def test_files_that_are_not_there(refused: Refused, base_dir: Path, tmp_path: Path) -> None:
    command = conditioned("parm", base_dir, "a=none.jsonl", tmp_path / "out")
    refused(*command, names=["no such file: none.jsonl"])


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("parm", ["--preference-r", "9"], "--preference-r is 9; it must be 1 to --lora-r (8)"),
        ("parm", ["--beta", "a=0.1", "--objectives", "a,b"], "--beta a=0.1 has none for b"),
        ("parm", ["--no-shift"], "--shift means nothing for --method parm"),
        ("uniarm", ["--lora-target-modules", "lm_head"], "lm_head matches no layer"),
    ],
)
def test_bad_options(
    refused: Refused, base_dir: Path, labelled: Path, tmp_path: Path, method: str,
    options: list[str], named: str,
) -> None:  # fmt: skip
    command = conditioned(method, base_dir, labelled, tmp_path / "out")
    refused(*command, *options, names=[named])


@pytest.mark.parametrize(
    ("describe", "named"),
    [
        (["a=x"], "no description of 'b'"),
        (["a=happy", "b=happy"], "'b' and 'a' are described alike"),
    ],
)
@pytest.mark.parametrize("objectives", [[], ["--objectives", "a,b"]])
def test_bad_descriptions(
    refused: Refused, base_dir: Path, labelled: Path, tmp_path: Path, describe: list[str],
    objectives: list[str], named: str,
) -> None:  # fmt: skip
    more = [*objectives, *(["--describe", *describe] if describe else [])]
    command = conditioned("uniarm", base_dir, labelled, tmp_path / "out", described=False)
    refused(*command, *more, names=[named])


def test_an_objective_that_no_preference_can_name(
    refused: Refused, base_dir: Path, tmp_path: Path
) -> None:
    rows = [{**row, "labels": {"a": 0, "very,good": 1}} for row in LABELS]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    command = conditioned("parm", base_dir, path, tmp_path / "out", "--max-steps", 1)
    refused(*command, names=["'very,good'"])
