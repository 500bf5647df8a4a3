"""The data of a training run: which objectives they have, and how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab.errors import TrimtabError
from trimtab.training.config import TrainConfig
from trimtab.training.reading import TrainData, read_data

PAIR = {"prompt": "the cat sat", "chosen": "happy", "rejected": "sad"}
LABELS = [{**PAIR, "prompt": f"the cat {i}", "labels": {"a": 0, "b": i % 2}} for i in range(20)]
DESCRIBED = ["a=happy cat", "b=sad dog"]


def read(base: Path, data: object, method: str = "genarm", **options: Any) -> TrainData:
    """What the first objective asked for is trained on, or all of a conditioned ARM."""
    if method == "uniarm":
        options = {"describe": DESCRIBED, **options}
    config = TrainConfig(
        model=str(base), data=[str(data)], output_dir="out", method=method, **options
    )
    return read_data(config, "" if config.conditions else config.objective_names[0])


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(TrimtabError) as refused:
        read(*arguments, **options)
    return str(refused.value)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "labelled.jsonl", LABELS)


@pytest.mark.parametrize("method", ["parm", "uniarm"])
def test_objectives_of_a_conditioned_arm(
    base_dir: Path, labelled: Path, pairs_file: Path, method: str
) -> None:
    assert read(base_dir, labelled, method).objectives == ["a", "b"]
    more = {"describe": ["a=x", "b=y", "funny=z"]} if method == "uniarm" else {}
    said = refusal(base_dir, labelled, method, objectives="a,b,funny", **more)
    assert "the data have no label for funny; they have: a, b" in said
    said = refusal(base_dir, f"a={pairs_file}", method)
    assert f"--method {method} with the one objective a" in said and "use --method genarm" in said
    said = refusal(base_dir, pairs_file, method)
    assert "pairs.jsonl:1 names no objective" in said and "NAME=FILE" in said


def test_descriptions_are_of_the_objectives_of_the_data(base_dir: Path, labelled: Path) -> None:
    for describe, named in (
        ([], "no description of 'a'"),
        (["a=x", "b=y", "funny=z"], "'funny' is described but no objective; they are: a, b"),
    ):
        assert named in refusal(base_dir, labelled, "uniarm", describe=describe)


@pytest.mark.parametrize("name", ["very,good", "b=x", " "])
def test_objectives_that_no_preference_can_name(base_dir: Path, tmp_path: Path, name: str) -> None:
    """`--preference very,good=1` cannot be read: an ARM of that objective could not be steered."""
    rows = [{**row, "labels": {"a": 0, name: 1}} for row in LABELS]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    assert repr(name) in refusal(base_dir, path, "parm")


def test_plain_pairs_for_several_objectives(base_dir: Path, pairs_file: Path) -> None:
    said = refusal(base_dir, pairs_file, objectives="a,b")
    assert "the data name no objective: the ARMs for a,b would be the same" in said


@pytest.mark.parametrize("method", ["genarm", "parm"])
def test_evaluation_data_without_the_objective(base_dir: Path, tmp_path: Path, method: str) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [{**PAIR, "labels": {"a": 0, "b": 1}}])
    other = str(write_jsonl(tmp_path / "other.jsonl", [{**PAIR, "labels": {"z": 0}}]))
    options = {"objectives": "a,b", "eval_data": [other], "split": "none"}
    said = refusal(base_dir, data, method, **options)
    assert "--eval-data: the data have no" in said and "they have: z" in said


def test_a_split_without_pairs(base_dir: Path, tmp_path: Path) -> None:
    """By the hash, "q0" and "q1" are training prompts and "cat" a test prompt: none validates."""
    rows = [{**PAIR, "prompt": prompt} for prompt in ("q0", "q1", "cat")]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    said = refusal(base_dir, path)
    assert "the validation split is empty" in said and "--split none" in said
    assert len(read(base_dir, path, split="none").splits["train"]) == 3


def test_a_folder_of_an_objective(base_dir: Path, tmp_path: Path) -> None:
    assert f"a={tmp_path} is a folder" in refusal(base_dir, f"a={tmp_path}", "parm")
