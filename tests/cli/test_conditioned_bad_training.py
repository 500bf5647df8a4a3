"""Training conditioned ARMs on what cannot work: one line, exit code 2, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"labels": {"a": 2}}, "rows.jsonl:21 has label 2 for 'a'; a label is 0 (chosen is"),
        ({"scores": {"a": [1]}}, "rows.jsonl:21 has scores [1] for 'a'; give two numbers"),
        ({}, "rows.jsonl:21 names no objective; write --data NAME=FILE"),
        ({"labels": {"a": 0}, "chosen": "\ud83d"}, "rows.jsonl:21 has a `chosen` with half a char"),
    ],
)
def test_bad_rows(
    refused: Refused, base_dir: Path, tmp_path: Path, method: str, row: dict[str, Any], named: str
) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [*LABELS, {**GOOD, **row}])
    refused(*conditioned(method, base_dir, path, tmp_path / "out"), names=[named])


@pytest.mark.parametrize("method", ["parm", "uniarm"])
def test_objectives_of_the_data(
    refused: Refused, base_dir: Path, labelled: Path, pairs_file: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "out"
    more = ["--describe", "a=x", "b=y", "funny=z"] if method == "uniarm" else []
    command = train(base_dir, labelled, out, "--method", method, *more)
    named = ["the data have no label for funny", "they have: a, b"]
    refused(*command, "--objectives", "a,b,funny", names=named)
    one = [f"--method {method} with the one objective a", "use --method genarm"]
    command = conditioned(method, base_dir, f"a={pairs_file}", out)
    refused(*command, names=one)
    command = conditioned(method, base_dir, labelled, out, described=False)
    refused(*command, "--objectives", "a", names=one)
    command = conditioned(method, base_dir, pairs_file, out)
    refused(*command, names=["pairs.jsonl:1 names no objective", "NAME=FILE"])


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
    refused(
        *conditioned("parm", base_dir, f"a={tmp_path}", tmp_path / "out"), names=["is a folder"]
    )


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("parm", ["--finetuning", "full"], "--method parm is an adapter; leave out --finetuning"),
        ("parm", ["--preference-r", "9"], "--preference-r is 9; it must be 1 to --lora-r (8)"),
        ("parm", ["--preference-r", "0"], "--preference-r is 0"),
        ("parm", ["--lora-r", "1"], "--lora-r is 1; PARM needs a rank of 2 or more"),
        ("parm", ["--preference-alpha", "0"], "--preference-alpha is 0"),
        ("parm", ["--beta", "a=0.1", "--objectives", "a,b"], "--beta a=0.1 has none for b"),
        ("parm", ["--beta", "a=0.1,b=0", "--objectives", "a,b"], "--beta is a=0.1,b=0"),
        ("parm", ["--beta", "a=0.1,b=0.1"], "--beta a=0.1,b=0.1 has one for 'a'; name only"),
        ("parm", ["--beta", "a=0.1,b=1,B=1", "--objectives", "a,b"], "has one for 'B'"),
        ("parm", ["--beta", "much"], "cannot read --beta much; give a number, or NAME=NUMBER"),
        ("parm", ["--describe", "a=x"], "--describe means nothing for --method parm"),
        ("parm", ["--no-shift"], "--shift means nothing for --method parm"),
        ("uniarm", ["--preference-r", "4"], "--preference-r means nothing for --method uniarm"),
        ("genarm", ["--preference-draws", "row"], "it is for: parm, uniarm"),
        ("uniarm", ["--global-weight", "-1"], "--global-weight is -1"),
        ("uniarm", ["--condition-dim", "0"], "--condition-dim is 0"),
        ("uniarm", ["--finetuning", "full"], "--method uniarm is an adapter"),
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
        ([], "no description of 'a'; write --describe a=\"what it means\""),
        (["a=x"], "no description of 'b'"),
        (["a=x", "b=y", "funny=z"], "'funny' is described but no objective; they are: a, b"),
        (["a=x", "a=y", "b=z"], "'a' is described twice"),
        (["a=x", "b"], "cannot read --describe 'b'"),
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


@pytest.mark.parametrize("name", ["very,good", "b=x", " "])
def test_objectives_that_no_preference_can_name(
    refused: Refused, base_dir: Path, tmp_path: Path, name: str
) -> None:
    """`--preference very,good=1` cannot be read: an ARM of that objective could not be steered."""
    rows = [{**row, "labels": {"a": 0, name: 1}} for row in LABELS]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    command = conditioned("parm", base_dir, path, tmp_path / "out", "--max-steps", 1)
    refused(*command, names=[repr(name)])
