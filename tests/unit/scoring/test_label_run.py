"""Relabelled pairs: what `trimtab.label` writes and counts, and what it refuses."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import relabelling
from conftest import write_jsonl
from relabelling import CHAT, PAIRS, RULED, names, refused, relabel, rows
from safetensors.torch import load_file, save_file

from trimtab import TrimtabError, score_file
from trimtab.arms.reward_model import RewardModel
from trimtab.data.loading import read_pairs

data = relabelling.data
in_a_folder_with_rules = relabelling.in_a_folder_with_rules


def test_labels_by_hand(data: Path, tmp_path: Path) -> None:
    """`wordy` is a cost: shorter is better. The third pair ties on both."""
    out = tmp_path / "labelled.jsonl"
    found, _ = relabel(data, out, costs=["wordy"])
    assert rows(out) == [
        {
            "prompt": "the cat", "chosen": "happy happy", "rejected": "sad",
            "labels": {"happy": 0, "wordy": 1}, "scores": {"happy": [2, 0], "wordy": [11, 3]},
        },
        {
            "prompt": CHAT, "chosen": "sad dog", "rejected": "happy",
            "labels": {"happy": 1, "wordy": 1}, "scores": {"happy": [0, 1], "wordy": [7, 5]},
        },
        {
            "prompt": "the dog", "chosen": "sat", "rejected": "ran",
            "labels": {"happy": None, "wordy": None}, "scores": {"happy": [0, 0], "wordy": [3, 3]},
        },
    ]  # fmt: skip
    assert (found["pairs"], found["rows"]) == (3, {"read": 3})
    assert found["objectives"]["happy"] == {"chosen": 1, "rejected": 1, "tie": 1, "missing": 0}
    assert found["objectives"]["wordy"] == {"chosen": 0, "rejected": 2, "tie": 1, "missing": 0}
    assert {k: (v["value"], v["n"]) for k, v in found["agreement"].items()} == {
        "chosen and happy": (0.5, 2), "chosen and wordy": (0, 2), "happy and wordy": (0.5, 2),
    }  # fmt: skip
    assert names(tmp_path) == ["labelled.jsonl", "labelled.jsonl.job.json", "pairs.jsonl"]
    happy, report = read_pairs([str(out)], "happy")
    assert [(p.chosen, p.rejected) for p in happy] == [("happy happy", "sad"), ("happy", "sad dog")]
    assert report.counts == {"judged on no objective": 1}


def test_labels_that_are_there_are_kept(data: Path, tmp_path: Path) -> None:
    """`happy` is the data's own verdict: the third pair is no tie; on the second they differ."""
    out = tmp_path / "labelled.jsonl"
    found, _ = relabel(f"happy={data}", out, keep_labels=True)
    assert [row["labels"] for row in rows(out)] == [
        {"happy": 0, "wordy": 0}, {"happy": 0, "wordy": 0}, {"happy": 0, "wordy": None},
    ]  # fmt: skip
    assert [row["kept"] for row in rows(out)] == [["happy"]] * 3
    assert found["objectives"]["happy"] == {"chosen": 3, "rejected": 0, "tie": 0, "missing": 0}
    kept = {name: (e["value"], e["n"]) for name, e in found["agreement_with_kept"].items()}
    assert kept == {"happy": (0.5, 2), "wordy": (None, 0)}
    assert list(found["agreement"]) == ["happy and wordy"]  # `chosen` is what was kept
    refused("holds rows of another run", f"wordy={data}", out, keep_labels=True)  # other labels
    refused("names no objective", data, tmp_path / "no.jsonl", keep_labels=True)
    write_jsonl(data, [*PAIRS, {**PAIRS[0], "labels": {"happy": 1, "long": 0}}])
    one = tmp_path / "one.jsonl"
    found, _ = relabel(data, one, keep_labels=True, skip_bad_rows=True)  # three name no objective
    assert (found["pairs"], list(found["agreement"])) == (
        1, ["happy and wordy", "happy and long", "wordy and long"],
    )  # fmt: skip


def test_reward_models_label_too(base_dir: Path, arm_dir: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labelled.jsonl"
    texts = {"chosen": "the cat 1 sat", "rejected": "the cat 1 ran"}  # raw: an implicit prompt
    write_jsonl(data, [*PAIRS, texts])
    relabel(data, out, {"one": str(base_dir), "two": str(arm_dir)})
    found = rows(out)
    model = RewardModel(str(arm_dir))
    expected = model.score([CHAT, CHAT], ["sad dog", "happy"])
    assert found[1]["scores"]["two"] == pytest.approx([s.reward for s in expected], rel=1e-4)
    raw = model.score(["the cat 1"] * 2, [" sat", " ran"], prompt_format="raw")
    assert found[3]["scores"]["two"] == pytest.approx([s.reward for s in raw], rel=1e-4)
    assert "prompt" not in found[3] and found[3]["chosen"] == texts["chosen"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_torn_file_goes_on(number: int, data: Path, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    for out in (whole, torn):
        relabel(data, out)
    lines = torn.read_bytes().splitlines(keepends=True)
    torn.write_bytes(b"".join(lines[:number]) + lines[number][:20])
    relabel(data, torn)
    assert torn.read_bytes() == whole.read_bytes()


def test_rows_that_cannot_be_used_are_named(data: Path, tmp_path: Path) -> None:
    write_jsonl(data, [*PAIRS, {**PAIRS[0], "chosen": ""}, {**PAIRS[0], "chosen": None}])
    out = tmp_path / "labelled.jsonl"
    refused("pairs.jsonl:5 has no `chosen`", data, out)
    assert not out.exists()
    found, said = relabel(data, out, skip_bad_rows=True)
    assert "1 row left out: one side is empty (pairs.jsonl:4)" in said
    assert found["rows"] == {"read": 5, "one side is empty": 1, "has no `chosen`": 1}


@pytest.mark.parametrize(
    ("options", "scorers", "reason"),
    [
        ({}, {"chosen": "label_rules:happy"}, "an objective is called 'chosen'"),
        ({}, {"happy": "label_rules:none"}, "has no function 'none'"),
        ({}, {"happy": "none/at/all"}, "no reward model at none/at/all"),
        ({"costs": ["funny"]}, RULED, "--costs names 'funny'"),
        ({}, {"so happy": "label_rules:happy"}, "objective 'so happy' is no name; use"),
        ({}, {"a" * 300: "label_rules:happy"}, "has too long a name"),
        ({"revisions": {"happy": "v2"}}, RULED, "a revision for 'happy', whose scorer is no model"),
        ({"trust_remote_code": ["funny"]}, RULED, "no model is called 'funny'"),
        ({}, {"happy": "judge:m@http://[::1/v1"}, "cannot read the judge of 'happy'"),
        ({}, {"happy": "judge:m@http://h:abc/v1"}, "cannot read the judge of 'happy'"),
    ],
)
def test_bad_input_is_one_line(
    options: Mapping[str, Any], scorers: Mapping[str, str], reason: str, data: Path, tmp_path: Path
) -> None:
    told = refused(reason, data, tmp_path / "labelled.jsonl", scorers, **options)
    assert not told and names(tmp_path) == ["pairs.jsonl"]


def test_every_file_of_data_has_to_be_there(data: Path, tmp_path: Path) -> None:
    sources = [str(data), "none.jsonl"]
    told = refused("no such file: none.jsonl", sources, tmp_path / "labelled.jsonl")
    assert not told and names(tmp_path) == ["pairs.jsonl"]


def test_a_rule_that_fails_names_the_row(data: Path, tmp_path: Path) -> None:
    reason = "the rule label_rules:fails fails on pairs.jsonl:1 rejected (ZeroDivisionError"
    refused(reason, data, tmp_path / "labelled.jsonl", {"happy": "label_rules:fails"})
    assert names(tmp_path) == ["pairs.jsonl"]


def test_the_file_of_another_run_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labelled.jsonl"
    relabel(data, out)
    before = out.read_bytes()
    reason = "holds rows of another run; choose another --output"
    refused(reason, data, out, costs=["wordy"])
    assert out.read_bytes() == before
    relabel(data, out, costs=["wordy"], overwrite=True)
    assert rows(out)[0]["labels"] == {"happy": 0, "wordy": 1}


def test_nan_gives_no_label(tmp_path: Path, data: Path, base_dir: Path) -> None:
    """A reward model with one broken weight: once, every pair was labelled 0."""
    broken = tmp_path / "broken"
    shutil.copytree(base_dir, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "labelled.jsonl"
    reason = f"{broken} gives NaN on ordinary text"
    refused(f"{reason}; its weights are damaged", data, out, {"good": str(broken)})
    assert not out.exists()
    with pytest.raises(TrimtabError, match=re.escape(reason)):
        score_file(str(broken), input=str(data))


def test_what_the_second_scorer_cannot_read_is_found_before_the_first_is_loaded(
    base_dir: Path, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = "trimtab.arms.reward_model.load_arm_and_start"
    monkeypatch.setattr(loads, None)  # would fail if called
    write_jsonl(data, [*PAIRS, {**PAIRS[0], "chosen": "happy " * 300}])
    both = {"happy": "label_rules:happy", "good": str(base_dir)}
    reason = r"pairs\.jsonl:4 chosen has .* the model reads 256; shorten it"
    with pytest.raises(TrimtabError, match=reason):
        relabel(data, tmp_path / "labelled.jsonl", both)
    assert names(tmp_path) == ["pairs.jsonl"]
    with pytest.raises(TrimtabError, match=r"pairs\.jsonl:4 chosen has"):
        score_file(str(base_dir), input=str(data))
    write_jsonl(data, PAIRS)
    with pytest.raises(TrimtabError, match="takes no preference; leave --preference out"):
        score_file(str(base_dir), input=str(data), preference="a=1")
    with pytest.raises(TrimtabError, match="--batch-size is 0; it must be 1 or more"):
        score_file(str(base_dir), input=str(data), batch_size=0)


@pytest.mark.parametrize("how", ["itself", "named", "relative", "linked", "settings", "second"])
def test_the_data_is_never_written_over(
    how: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, out = [str(data)], data
    if how == "named":
        sources = [f"happy={data}"]
    elif how == "relative":
        monkeypatch.syspath_prepend(Path.cwd())
        monkeypatch.chdir(tmp_path)
        out = Path("../") / tmp_path.name / "pairs.jsonl"
    elif how == "linked":
        out = tmp_path / "link.jsonl"
        out.symlink_to(data)
    elif how == "settings":
        sources = [str(data.rename(tmp_path / "pairs.jsonl.job.json"))]
    elif how == "second":
        sources.append(str(write_jsonl(tmp_path / "other.jsonl", PAIRS)))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    reason = "is read as --data: writing it would destroy it; choose another --output"
    assert not refused(reason, sources, out, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
