"""`trimtab bench`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import main

Capture = pytest.CaptureFixture[str]
SMALL = ["--shape", "5m", "--repeats", "2", "--new-tokens", "3", "--points", "1x8", "2x4"]


def bench(*arguments: object) -> int:
    return main(["bench", "speed", *SMALL, *map(str, arguments)])


def test_random_models(tmp_path: Path, capsys: Capture) -> None:
    rows = ["--rows", "1 ARM fused", "--rows", "generate"]
    assert bench(*rows, "--no-memory", "--json", "--output-dir", tmp_path / "out") == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "out/results.json").read_text())
    names = {row["name"] for row in report["rows"]}
    assert {"base alone", "1 ARM fused"} < names
    assert not any("separate" in name for name in names)
    for row in report["rows"]:
        assert row["repeats"] == 2
        assert row["ms_per_token"] > 0 and row["first_token_ms"] > 0
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        if row["name"] == "base alone":
            assert row["ratio"] == row["ratio_low"] == row["ratio_high"] == 1
    assert report["conditions"]["threads"] >= 1
    table = (tmp_path / "out/table.md").read_text()
    assert "batch 1, prompts of 8 tokens, 2 repeats" in table and "1 ARM fused" in table
    assert (tmp_path / "out/speed.png").stat().st_size > 1000


def test_memory_is_measured_in_its_own_process(capsys: Capture) -> None:
    """Weights of 5.6 M parameters are 11 MB in bfloat16; two copies are more than one."""
    rows = ["--rows", "1 ARM as separate"]
    assert bench(*rows, "--json") == 0
    memory = json.loads(capsys.readouterr().out)["peak_memory_bytes"]
    one, two = memory["base alone"], memory["1 ARM as separate copies"]
    assert 11e6 < one < 40e6
    assert two > one + 11e6


def test_own_models(base_dir: Path, arm_dir: Path, capsys: Capture) -> None:
    models = ["--base", base_dir, "--arm", f"helpful={arm_dir}"]
    assert bench(*models, "--no-memory", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    names = [row["name"] for row in rows if row["batch"] == 1]
    assert names[0] == "base alone"
    assert {"guided", "guided, speculation on", "guided, speculation auto"} < set(names)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--points", "8"], "BATCHxPROMPT"),
        (["--points", "0x8"], "BATCHxPROMPT"),
        (["--new-tokens", "1"], "2 or more"),
        (["--repeats", "0"], "1 or more"),
        (["--revision", "v1"], "add --base"),
        (["--trust-remote-code", "base"], "add --base"),
    ],
)
def test_bad_input(arguments: list[str], words: str, capsys: Capture) -> None:
    assert main(["bench", "speed", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_an_unknown_benchmark(capsys: Capture) -> None:
    assert main(["bench", "sped"]) == 2
    assert "bench speed" in capsys.readouterr().err


def test_results_are_not_overwritten(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "results.json").write_text("mine")
    assert bench("--output-dir", tmp_path) == 2
    assert (tmp_path / "results.json").read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
