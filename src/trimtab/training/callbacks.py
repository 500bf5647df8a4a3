"""What a run leaves behind while it goes: metrics.jsonl, progress, a clean stop on Ctrl-C."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""


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
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(f"{line}\n" for line in kept if state.global_step))

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


class CleanStop(TrainerCallback):
    """On Ctrl-C or SIGTERM: finish the step, save, stop. A second signal stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen for the signals (only the main thread may)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.release()

    def release(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop when asked to."""
        if self.asked:
            control.should_save = True
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Do not evaluate a run that stops amid an epoch; lose nothing after the last step."""
        if not self.asked:
            return
        if state.global_step >= state.max_steps:
            control.should_save = True
        elif state.epoch % 1:
            control.should_evaluate = control.should_save = False

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop listening."""
        self.release()
