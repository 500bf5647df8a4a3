"""What a run leaves behind while it goes: metrics.jsonl, checkpoints, progress."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from trimtab.files import write_text
from trimtab.jobs import Progress
from trimtab.training.processes import processes
from trimtab.training.resume import keep_newest, seal


class MetricsFile(TrainerCallback):
    """Appends log records to `metrics.jsonl`; a resumed run first drops what it will repeat."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the records up to the step that is resumed from."""
        if not state.is_world_process_zero:
            return
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if _step(line) <= state.global_step]
        write_text(self._path, "".join(f"{line}\n" for line in kept if state.global_step))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Append one record."""
        if logs and state.is_world_process_zero:
            with self._path.open("a") as handle:
                handle.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def _step(line: str) -> float:
    """The step of a record; a line torn by a kill, or a stopped run's summary, is not kept."""
    try:
        record = json.loads(line)
        return math.inf if "train_runtime" in record else float(record["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf


class Checkpoints(TrainerCallback):
    """Says of a checkpoint that it is whole once it is on disk, and only then drops older ones.

    Args:
        folder: where transformers puts them.
        keep: how many are kept; 0 keeps all.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait until every process has written its part."""
        processes().wait_for_everyone()
        if state.is_world_process_zero:
            seal(self._folder / f"checkpoint-{state.global_step}")
            keep_newest(self._folder, self._keep)


class LossSum(TrainerCallback, ExportableState):
    """Sum of the steps' losses. It travels in the checkpoint: a resumed run has the mean of all."""

    def __init__(self) -> None:
        self.total, self.steps = 0.0, 0

    @property
    def mean(self) -> float:
        """Mean loss of a step."""
        return self.total / max(self.steps, 1)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"total": self.total, "steps": self.steps}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on from the checkpoint's sum."""
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if saved:
            self.total, self.steps = (saved["attributes"][name] for name in ("total", "steps"))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count a step."""
        self.steps += 1


class ProgressReport(TrainerCallback):
    """Tells a `Progress` function about every step."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress, self._label = progress, label

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Announce the number of steps."""
        self._progress(self._label, state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report a step."""
        self._progress(self._label, state.global_step, state.max_steps)
