"""The part of `trimtab train` that needs PyTorch: inputs, trainer, training, saving."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import transformers

from trimtab.arms.hub import push
from trimtab.errors import TrainingError
from trimtab.files import only_writer, storage_errors
from trimtab.jobs import Progress
from trimtab.training.build import build_trainer
from trimtab.training.inputs import Inputs, prepare_inputs
from trimtab.training.plan import Interrupted, Plan, TrainResult
from trimtab.training.processes import processes
from trimtab.training.resume import RESULTS, Start, begin, newest_checkpoint
from trimtab.training.save import save_result
from trimtab.training.stopping import CleanStop, Diverged
from trimtab.training.trainer import PreferenceTrainer

logger = logging.getLogger(__name__)

_MEASURED = ("eval_loss", "eval_accuracy", "eval_margin", "eval_reward_chosen", "eval_explained")


def carry_out(plans: Sequence[Plan], progress: Progress | None) -> list[TrainResult]:
    """Train what is planned. Of several processes the first one has the folders and writes.

    Raises:
        TrimtabError: what `train` says.
        Interrupted: a signal.
    """
    first = processes().is_main_process
    progress = progress if first else None
    with ExitStack() as locks:
        for plan in plans if first else ():
            locks.enter_context(only_writer(plan.folder, folder=True))
        processes().wait_for_everyone()  # no process looks before the folders are ours
        runs = [_prepare(plan, progress) for plan in plans]
        processes().wait_for_everyone()  # no process writes before all have looked
        return [run.publish(run.go(progress)) for run in runs]


def _prepare(plan: Plan, progress: Progress | None) -> _Run:
    start = plan.start()
    prepare = plan.prepare or prepare_inputs
    return _Run(plan, prepare(plan.config, plan.objective, progress, plan.data), start)


@dataclass(frozen=True)
class _Run:
    """One reward model about to be trained: all inputs checked, nothing written yet."""

    plan: Plan
    inputs: Inputs
    start: Start

    def go(self, progress: Progress | None) -> TrainResult:
        """Train (or resume, or find it done), evaluate, save."""
        folder, config = self.plan.folder, self.plan.config
        if self.start.done:
            return self._result(json.loads((folder / RESULTS).read_text()))
        first = processes().is_main_process
        if first:
            for line in self.inputs.tally.lines():
                logger.warning("%s", line)
        transformers.set_seed(config.seed)
        trainer, stop = build_trainer(config, self.inputs, folder, self.plan.objective, progress)
        with storage_errors(folder):
            if first:
                begin(folder, self.plan.identity, self.start)
            self._train(trainer, stop)
            metrics = self._measure(trainer)
            state = _gathered(trainer)
            if first:
                model = trainer.accelerator.unwrap_model(trainer.model)
                objective, to = self.plan.objective, self.plan.destination
                place = to.repo if to else ""
                save_result(folder, model, config, objective, self.inputs, metrics, state, place)
            trainer.accelerator.wait_for_everyone()
        return self._result(metrics)

    def publish(self, result: TrainResult) -> TrainResult:
        """Push what is finished, where that was asked for."""
        to = self.plan.destination
        return replace(result, url=push(self.plan.folder, to)) if to else result

    def _train(self, trainer: PreferenceTrainer, stop: CleanStop) -> None:
        """Train to the end, or say where it ended and what is kept."""
        try:
            trainer.train(resume_from_checkpoint=self.start.checkpoint)
            stopped = stop.agreed()
        except Diverged as end:
            kept = newest_checkpoint(self.plan.folder)
            raise TrainingError(
                end.args[0],
                f"{end.hint}; nothing of this step was saved"
                + (f", the state before is in {kept}" if kept else ""),
            ) from None
        finally:
            stop.release()
        if stopped:
            whole = newest_checkpoint(self.plan.folder)
            raise Interrupted if whole else KeyboardInterrupt

    def _measure(self, trainer: PreferenceTrainer) -> dict[str, float]:
        """The final metrics; the last evaluation is reused when it was of the last step."""
        logs = trainer.state.log_history
        metrics = {"train_loss": trainer.loss_sum.mean}
        if "validation" in self.inputs.rows and self.plan.config.eval_strategy != "no":
            done = [e for e in logs if "eval_loss" in e and e["step"] == trainer.state.global_step]
            measured = done[-1] if done else trainer.evaluate()
            metrics |= {k: v for k, v in measured.items() if k.startswith(_MEASURED)}
            metrics["eval_n"] = len(trainer.eval_dataset)
        seconds = [entry["train_runtime"] for entry in logs if "train_runtime" in entry]
        metrics["train_seconds"] = seconds[-1] if seconds else float("nan")
        return metrics

    def _result(self, metrics: dict[str, float]) -> TrainResult:
        resumed = self.start.done or self.start.checkpoint is not None
        name = self.plan.objective or "+".join(self.inputs.objectives)
        folder = str(self.plan.folder)
        return TrainResult(folder, name, metrics, self.inputs.tally, resumed)


def _gathered(trainer: PreferenceTrainer) -> dict[str, Any] | None:
    """All weights on the first process, where FSDP or ZeRO has sharded them; else None."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return state
