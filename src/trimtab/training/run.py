"""`trimtab train` as a function: refuse early, train, resume, save whole."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from accelerate import PartialState

from trimtab.data.pairs import RowReport
from trimtab.data.sources import fingerprint
from trimtab.errors import ConfigError
from trimtab.files import storage_errors
from trimtab.training.build import build_trainer
from trimtab.training.callbacks import Progress
from trimtab.training.config import TrainConfig
from trimtab.training.inputs import Inputs, prepare_inputs
from trimtab.training.resume import RESULTS, Start, begin, find_start
from trimtab.training.save import save_result
from trimtab.training.trainer import PreferenceTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """One trained reward model.

    Attributes:
        output_dir: where it stands.
        objective: what it was trained for.
        metrics: the last evaluation (or training) metrics.
        report: which rows of the data were used.
        resumed: whether an interrupted run was continued.
    """

    output_dir: str
    objective: str
    metrics: dict[str, float]
    report: RowReport
    resumed: bool = False


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after a checkpoint was written."""


def train(config: TrainConfig, progress: Progress | None = None) -> list[TrainResult]:
    """Train one reward model per objective named in the config.

    Everything that can be refused is refused before weights are loaded or anything is written.
    Under `accelerate launch` or `torchrun` every process calls this; the first one writes.

    Raises:
        TrimtabError: bad data, options, model folder or output directory.
        Interrupted: Ctrl-C; continue with `resume_from_checkpoint="auto"`.
    """
    names = [""] if config.conditions else config.objective_names
    folders = {n: Path(config.output_dir) / (n if len(names) > 1 else "") for n in names}
    progress = progress if PartialState().is_main_process else None
    runs = [_prepare(config, name, folder, progress) for name, folder in folders.items()]
    PartialState().wait_for_everyone()  # no process writes before all have looked
    return [run.go(progress) for run in runs]


def _prepare(config: TrainConfig, objective: str, folder: Path, progress: Progress | None) -> _Run:
    identity = {**config.identity(), "data_sha256": fingerprint(config.data)}
    if folder.resolve() == Path(config.model).resolve():
        raise ConfigError(f"{folder} is the model's own folder", "choose another --output-dir")
    wanted = config.resume_from_checkpoint
    start = find_start(folder, identity, wanted, overwrite=config.overwrite)
    inputs = prepare_inputs(config, objective, progress)
    return _Run(config, objective, folder, inputs, identity, start)


@dataclass(frozen=True)
class _Run:
    """One reward model about to be trained: all inputs checked, nothing written yet."""

    config: TrainConfig
    objective: str
    folder: Path
    inputs: Inputs
    identity: dict[str, Any]
    start: Start

    def go(self, progress: Progress | None) -> TrainResult:
        """Train (or resume, or find it done), evaluate, save."""
        if self.start.done:
            return self._result(json.loads((self.folder / RESULTS).read_text()))
        first = PartialState().is_main_process
        if first:
            for line in self.inputs.report.lines():
                logger.warning("%s", line)
        transformers.set_seed(self.config.seed)
        trainer, stop = build_trainer(
            self.config, self.inputs, self.folder, self.objective, progress
        )
        with storage_errors(self.folder):
            if first:
                begin(self.folder, self.identity, self.start)
            trainer.train(resume_from_checkpoint=self.start.checkpoint)
            if stop.asked:
                raise Interrupted
            metrics = _measure(trainer, self.inputs)
            state = _gathered(trainer)
            if first:
                model = trainer.accelerator.unwrap_model(trainer.model)
                save_result(
                    self.folder, model, self.config, self.objective, self.inputs, metrics, state
                )
            trainer.accelerator.wait_for_everyone()
        return self._result(metrics)

    def _result(self, metrics: dict[str, float]) -> TrainResult:
        resumed = self.start.done or self.start.checkpoint is not None
        name = self.objective or "+".join(self.inputs.objectives)
        return TrainResult(str(self.folder), name, metrics, self.inputs.report, resumed)


def _measure(trainer: PreferenceTrainer, inputs: Inputs) -> dict[str, float]:
    """The final metrics; the last evaluation is reused when it was of the last step."""
    logs = trainer.state.log_history
    metrics = {"train_loss": trainer.loss_sum.mean}
    if "validation" in inputs.splits:
        done = [e for e in logs if "eval_loss" in e and e["step"] == trainer.state.global_step]
        found = done[-1] if done else trainer.evaluate()
        wanted = ("eval_loss", "eval_accuracy", "eval_margin", "eval_reward_chosen")
        metrics |= {k: v for k, v in found.items() if k.startswith(wanted)}
        metrics["eval_n"] = len(trainer.eval_dataset)
    seconds = [entry["train_runtime"] for entry in logs if "train_runtime" in entry]
    metrics["train_seconds"] = seconds[-1] if seconds else float("nan")
    return metrics


def _gathered(trainer: PreferenceTrainer) -> dict[str, Any] | None:
    """All weights on the first process, where FSDP or ZeRO has sharded them; else None."""
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        return None
    state: dict[str, Any] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return state
