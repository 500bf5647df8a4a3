"""metrics.jsonl: what a resumed run keeps of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from trimtab.training.callbacks import MetricsFile


def begin(path: Path, step: int) -> list[int]:
    """The steps that are left when a run begins, or goes on, at a step."""
    state = SimpleNamespace(global_step=step, is_world_process_zero=True)
    MetricsFile(path).on_train_begin(None, state, None)
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_run_drops_what_it_will_repeat(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')
    assert begin(path, 2) == [1, 2]
    assert begin(path, 0) == []


def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    assert begin(path, 2) == [1]
    path.write_text('{"step": 1}\n{"st')
    assert begin(path, 2) == [1]


def test_records_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    assert begin(path, 0) == []
    state = SimpleNamespace(global_step=4, is_world_process_zero=True)
    MetricsFile(path).on_log(None, state, None, logs={"loss": 0.5})
    assert json.loads(path.read_text()) == {"step": 4, "loss": 0.5}
