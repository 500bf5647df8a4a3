"""Why a training ends early: a signal, or numbers that are none any more. All processes agree."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from trimtab.errors import TrainingError
from trimtab.training.processes import any_process

IMPATIENT = 1.0
"""Seconds after which a second signal stops at once. A launcher may send one twice: its own, and
the terminal's or the scheduler's that it passes on."""


class CleanStop(TrainerCallback):
    """On Ctrl-C or SIGTERM: finish the step, save, stop. A second signal stops at once."""

    def __init__(self) -> None:
        self._asked = 0.0  # when, on the monotonic clock; 0: not
        self._before: dict[int, Any] = {}

    def agreed(self) -> bool:
        """Whether any process was asked to stop. Every process has to ask at the same place."""
        return any_process(self._asked > 0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen for the signals (only the main thread may)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._asked:
            self._asked = now
        elif now - self._asked > IMPATIENT:
            self.release()
            os.kill(os.getpid(), number)  # once more, to whoever had it

    def release(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop when asked to."""
        if self.agreed():
            control.should_save = True
            control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Do not evaluate a run that stops amid an epoch; lose nothing after the last step."""
        if not self.agreed():
            return
        if state.global_step >= state.max_steps:
            control.should_save = True
        elif state.epoch % 1:
            control.should_evaluate = control.should_save = False

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop listening."""
        self.release()


class Diverged(TrainingError):
    """A loss or a weight is NaN or infinite.

    Attributes:
        step: the optimiser step at which it was seen, from 1.
        what: what is no number.
    """

    def __init__(self, step: int, what: str) -> None:
        hint = "lower --learning-rate or --beta, or warm up longer (--warmup-steps)"
        super().__init__(f"training diverged at step {step}: {what}", hint)
        self.step, self.what = step, what


class Divergence(TrainerCallback):
    """Ends a training that has diverged, before anything of that step is saved.

    A gradient that is no number makes weights that are none, so the loss and the weights tell.
    """

    def __init__(self) -> None:
        self._seen = ""

    def note(self, loss: float) -> None:
        """Look at the loss of one forward pass."""
        if not math.isfinite(loss):
            self._seen = f"the loss is {loss}"

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Raise on every process, where one has seen it.

        Raises:
            Diverged: now.
        """
        seen = self._seen or _broken_weight(model)
        if any_process(bool(seen)):
            raise Diverged(state.global_step, seen or "the loss of another process is no number")


def _broken_weight(model: nn.Module) -> str:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained or all_finite([p for _, p in trained]):
        return ""
    name = next(name for name, p in trained if not all_finite([p]))
    return f"the weights are NaN or infinite ({name.removeprefix('module.')})"


@torch.no_grad()
def all_finite(tensors: list[Any]) -> bool:
    """Whether every number in some tensors is one; of sharded ones, every number that is here."""
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return bool(torch.stack([t.isfinite().all() for t in local]).all())
