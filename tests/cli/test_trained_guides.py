"""ARMs with a start in the commands that read ARMs, and a policy where an ARM is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import write_jsonl

import trimtab
from trimtab.cli.main import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(base_dir: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`arm` with a start, and the policy `dpo`."""
    root = tmp_path_factory.mktemp("trained")
    for name, how in (("arm", ["--reference", "start"]), ("dpo", ["--method", "dpo"])):
        command = ["train", "--model", base_dir, "--data", pairs_file, "--output-dir", root / name]
        command += ["--objectives", "happy", "--split", "none", "--max-steps", "8", *how]
        command += ["--learning-rate", "0.01", "--save-strategy", "no"]
        assert main([str(word) for word in command]) == 0
    return root


def run(capsys: Capture, *words: object) -> str:
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_commands_take_it(
    base_dir: Path, trained: Path, pairs_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    arm, rows = trained / "arm", [{"prompt": "the cat", "response": "happy dog"}]
    asked = write_jsonl(tmp_path / "rows.jsonl", rows)
    [scored] = trimtab.score(str(arm), ["the cat"], ["happy dog"])
    told = json.loads(run(capsys, "score", "--arm", arm, "--input", asked, "--json"))
    assert told[0]["reward"] == pytest.approx(scored.reward, abs=1e-5)
    assert abs(scored.reward) < 10  # a log-likelihood of these is under -20
    report = run(capsys, "accuracy", "--arm", arm, "--data", pairs_file, "--split", "all", "--json")
    assert json.loads(report)["arm"]["value"] == 1.0
    labels = tmp_path / "labels.jsonl"
    run(capsys, "label", "--data", pairs_file, "--output", labels, "--scorer", f"happy={arm}")
    first = json.loads(labels.read_text().splitlines()[0])
    better, worse = first["scores"]["happy"]
    assert better > worse and abs(better) < 10
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "the cat"}, {"prompt": "moon"}])
    folder, short = tmp_path / "calibrated", ["--max-new-tokens", "4", "--resamples", "100"]
    run(
        capsys, "calibrate", "--base", base_dir, "--arm", arm, "--prompts", prompts, "--target-kl",
        "0.05", "--output-dir", folder, *short,
    )  # fmt: skip
    [answer] = json.loads(
        run(capsys, "generate", "--base", base_dir, "--arm", arm, "--prompt", "the cat", "--json",
            "--max-new-tokens", "4")
    )  # fmt: skip
    assert answer["preference"] == {"happy": 1.0}


def test_an_output_file_is_not_continued_under_another_reward(
    base_dir: Path, trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The same weights with another fact in the sidecar are another guide."""
    prompts = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "the cat"}])
    ask = ["generate", "--base", base_dir, "--arm", trained / "arm", "--input", prompts]
    ask += ["--output", tmp_path / "out.jsonl", "--max-new-tokens", "4"]
    run(capsys, *ask)
    sidecar = trained / "arm" / "trimtab.json"
    before = sidecar.read_text()
    sidecar.write_text(before.replace('"reference": "start"', '"reference": "none"'))
    assert sidecar.read_text() != before
    assert main([str(word) for word in ask]) == 2
    assert "another run" in capsys.readouterr().err
    sidecar.write_text(before)


def test_a_policy_is_refused_as_an_arm(
    base_dir: Path, trained: Path, pairs_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    dpo = trained / "dpo"
    prompts = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a"}])
    for words in (
        ["generate", "--base", base_dir, "--arm", f"a={dpo}", "--prompt", "x"],
        ["calibrate", "--base", base_dir, "--arm", dpo, "--prompts", prompts, "--target-kl", "0.1",
         "--output-dir", tmp_path / "c"],
    ):  # fmt: skip
        assert main([str(word) for word in words]) == 2
        [line] = capsys.readouterr().err.strip().splitlines()
        assert "it is a policy, and no ARM" in line and "--contrast NAME=" in line
    contrast = f"a={dpo}:{base_dir}"
    run(capsys, "generate", "--base", base_dir, "--contrast", contrast, "--prompt", "x",
        "--max-new-tokens", "3")  # fmt: skip
    report = run(capsys, "accuracy", "--arm", dpo, "--data", pairs_file, "--split", "all", "--json")
    assert json.loads(report)["arm"]["value"] == 1.0
