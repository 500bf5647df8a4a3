"""`trimtab accuracy` on data with subsets, in RewardBench's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_bad_input
from classifiers import classifier, saved
from conftest import write_jsonl
from test_bad_input import Refused
from test_commands import run, run_json

import trimtab
from trimtab.arms.reward_model import RewardModel

refused = test_bad_input.refused  # the fixture: it looks at tmp_path before and after
Capture = pytest.CaptureFixture[str]

NAMES = ("alpacaeval-easy", "xstest-should-respond", "hep-python")


def bench_row(i: int) -> dict[str, Any]:
    """Columns of `allenai/reward-bench`; every third pair is matched in length."""
    words = "happy dog " * (1 + i % 4)
    rejected = "sad cat " if i % 3 else words.replace("happy", "bad ! ")
    return {
        "prompt": f"the cat {i}", "chosen": words, "chosen_model": "one", "rejected": rejected,
        "rejected_model": "two", "subset": NAMES[i % 3], "id": i,
    }  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(
        tmp_path_factory.mktemp("bench") / "b.jsonl", [bench_row(i) for i in range(24)]
    )


def test_each_subset_by_hand(base_dir: Path, bench: Path, capsys: Capture) -> None:
    """Against rewards scored one by one."""
    command = ["accuracy", "--arm", base_dir, "--data", bench, "--split", "all"]
    found = run_json(capsys, *command)
    model = RewardModel(str(base_dir))
    right: dict[str, dict[str, list[bool]]] = {name: {"sum": [], "mean": []} for name in NAMES}
    for i in range(24):
        row = bench_row(i)
        better, worse = model.score([row["prompt"]] * 2, [row["chosen"], row["rejected"]])
        right[row["subset"]]["sum"].append(better.reward > worse.reward)
        means = [s.reward / len(s.token_rewards) for s in (better, worse)]
        right[row["subset"]]["mean"].append(means[0] > means[1])
    assert list(found["subsets"]) == list(NAMES) and found["by"] == "subset"
    for name, of in found["subsets"].items():
        assert of["arm"]["value"] == of["arm_summed"]["value"] == sum(right[name]["sum"]) / 8
        assert of["arm_per_token"]["value"] == sum(right[name]["mean"]) / 8
        assert of["longer"]["n"] == 8 and of["bag_of_words"] is None
    pooled = [one for of in right.values() for one in of["sum"]]
    assert found["arm"]["value"] == pytest.approx(sum(pooled) / 24)
    assert found["subset_mean"]["arm"]["value"] == pytest.approx(sum(pooled) / 24)  # 8 in each
    assert found["length_matched"]["arm"]["n"] == 8
    assert set(found["lengths"]) == {"arm", "arm_summed", "arm_per_token"}
    assert found["lengths"]["arm"]["answers"]["pearson"]["n"] == 48
    run(*command)
    said = capsys.readouterr().out
    for words in ("columns not used: chosen_model, rejected_model, id", "unweighted mean",
                  "xstest-should", "within 10 %", "differences in pairs", "per token"):  # fmt: skip
        assert words in said


def test_a_split_may_have_no_pair_of_a_subset(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = [{**bench_row(i), "subset": f"part {i}"} for i in range(24)]
    found = run_json(
        capsys, "accuracy", "--arm", base_dir, "--data", write_jsonl(tmp_path / "x.jsonl", rows)
    )
    assert 0 < len(found["subsets"]) < 24
    assert sorted([*found["subsets"], *found["absent"]]) == sorted(f"part {i}" for i in range(24))
    assert found["bag_of_words"]["n"] == found["n"] == len(found["subsets"])


def test_another_column_and_rows_without_it(
    base_dir: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = [{**bench_row(i), "section": i % 2 or None} for i in range(24)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    command = ["accuracy", "--arm", base_dir, "--data", path, "--split", "all", "--by"]
    found = run_json(capsys, *command, "section")
    assert (found["by"], list(found["subsets"])) == ("section", ["1"])
    assert found["subsets"]["1"]["arm"]["n"] == 12 and found["n"] == 24
    run(*command, "section")
    assert "12 rows: no `section`: in no subset (x.jsonl:1, x.jsonl:3" in capsys.readouterr().out
    assert run_json(capsys, *command, "")["subsets"] == {}


def test_a_scalar_head(bench: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = saved(tmp_path / "judge", classifier())
    command = ["accuracy", "--arm", folder, "--data", bench, "--split", "all"]
    found = run_json(capsys, *command, "--length-tolerance", 0)
    assert (found["rewards"], found["arm_per_token"], found["arm_summed"]) == ("head", None, None)
    assert list(found["lengths"]) == ["arm"] and found["length_matched"] is None
    run(*command, "--length-tolerance", 0)
    said = capsys.readouterr().out
    assert "there is none per token" in said and "no pair has lengths within 0 %" in said


def test_in_python_and_in_other_layouts(base_dir: Path, tmp_path: Path) -> None:
    """A subset is kept whatever the layout: here PKU-SafeRLHF's, judged on two objectives."""
    rows = [
        {
            "prompt": f"the cat {i}", "response_0": "happy dog", "response_1": "sad cat",
            "better_response_id": i % 2, "safer_response_id": 0, "source": "ab"[i % 2],
        }
        for i in range(12)
    ]  # fmt: skip
    path = write_jsonl(tmp_path / "pku.jsonl", rows)
    report = trimtab.accuracy(
        str(base_dir), str(path), objective="helpful", split="all", by="source"
    )
    assert report.subsets["a"].arm.value + report.subsets["b"].arm.value == 1  # sides are swapped
    assert not report.rows.unused


def test_refused(refused: Refused, base_dir: Path, bench: Path, tmp_path: Path) -> None:
    command = ["accuracy", "--arm", base_dir, "--data", bench, "--split", "all"]
    refused(*command, "--by", "section", names=["no pair has the column `section`", "id"])
    for value in ("-0.1", "1.5", "nan"):
        refused(*command, "--length-tolerance", value, names=["--length-tolerance is", "0 to 1"])
    odd = tmp_path / "odd.jsonl"
    odd.write_text(json.dumps({**bench_row(0), "subset": ["a", "b"]}) + "\n")
    refused("accuracy", "--arm", base_dir, "--data", odd, names=["odd.jsonl:1", "`subset`"])
