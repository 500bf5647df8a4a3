"""Trainings that end early: what is said, what is kept, and that all processes end alike."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import command_of_processes, save_model, train_with_processes
from rounding import AFTER_TRAINING
from safetensors.torch import load_file, save_file
from test_training import Crash, Workshop, crash_at, interrupt_at

from trimtab.cli.main import main
from trimtab.errors import ModelLoadError, OutputError, TrainingError
from trimtab.files import only_writer
from trimtab.training import stopping
from trimtab.training.plan import Interrupted
from trimtab.training.resume import SEAL, newest_checkpoint
from trimtab.training.trainer import PreferenceTrainer


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, base_dir: Path, pairs_file: Path) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("runs"), base_dir, pairs_file)


# --- divergence ---------------------------------------------------------------------------------


def broken_at(monkeypatch: pytest.MonkeyPatch, step: int, spoil: Callable[[Any], Any]) -> None:
    """From this step on (from 1) the loss is spoilt."""
    compute = PreferenceTrainer.compute_loss

    def spoilt(self: Any, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        loss, rewards = compute(self, model, inputs, True)
        if model.training and self.state.global_step + 1 >= step:
            loss = spoil(loss)
        return (loss, rewards) if return_outputs else loss

    monkeypatch.setattr(PreferenceTrainer, "compute_loss", spoilt)


class BrokenGradient(torch.autograd.Function):
    """A good loss with a gradient that is none."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0] * float("nan")


SPOILS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "nan loss": (lambda loss: loss * float("nan"), "the loss is nan"),
    "infinite loss": (lambda loss: loss + float("inf"), "the loss is inf"),
    "gradient": (BrokenGradient.apply, "the weights are NaN or infinite"),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_it_stops_at_that_step(shop: Workshop, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Steps 1 to 3 are good, and a checkpoint is written every step: that of step 3 is kept."""
    spoil, what = SPOILS[kind]
    broken_at(monkeypatch, 4, spoil)
    with pytest.raises(TrainingError, match="training diverged at step 4: ") as said:
        shop.train(kind, save_steps=1)
    kept = shop.root / kind / "checkpoints" / "checkpoint-3"
    for words in (what, "--learning-rate", f"the state before is in {kept}"):
        assert words in str(said.value)
    assert newest_checkpoint(shop.root / kind) == kept
    assert all(t.isfinite().all() for t in load_file(kept / "adapter_model.safetensors").values())
    assert not list((shop.root / kind).glob("*.safetensors"))
    assert [record["step"] for record in shop.records(kind)] == [1, 2, 3]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_weight_that_overflows(shop: Workshop) -> None:
    with pytest.raises(TrainingError, match="diverged at step 1: the weights are NaN or infinite"):
        shop.train("overflow", learning_rate=1e39, warmup_steps=0)


def test_an_earlier_model_stays_where_another_diverges(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.train("earlier", max_steps=2)
    before = shop.weights("earlier")
    broken_at(monkeypatch, 1, SPOILS["nan loss"][0])
    with pytest.raises(TrainingError, match=r"nothing of this step was saved$"):
        shop.train("earlier", max_steps=2, overwrite=True)
    assert all(torch.equal(before[k], tensor) for k, tensor in shop.weights("earlier").items())


def test_an_evaluation_that_gives_no_number(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = PreferenceTrainer.compute_loss

    def spoilt(self: Any, model: Any, *rest: Any, **options: Any) -> Any:
        found = compute(self, model, *rest, **options)
        return found if model.training else (found[0] * float("nan"), found[1])

    monkeypatch.setattr(PreferenceTrainer, "compute_loss", spoilt)
    with pytest.raises(TrainingError, match="diverged at step 6: the evaluation's loss is nan"):
        shop.train("evaluation")
    assert not list((shop.root / "evaluation").glob("*.safetensors"))


def test_on_the_command_line(
    shop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--model", shop.base, "--data", shop.data, "--output-dir", tmp_path / "out"]
    command += ["--learning-rate", "1e39", "--warmup-steps", "0", "--max-steps", "2"]
    assert main([str(word) for word in command]) == 2
    errors = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("training:")]
    assert len(errors) == 1 and "training diverged at step 1" in errors[0]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_model_of_no_numbers_is_not_trained(shop: Workshop, tmp_path: Path, value: str) -> None:
    base = save_model(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float(value)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    for options in ({}, {"finetuning": "full"}, {"method": "trajectory"}):
        with pytest.raises(ModelLoadError, match=r"NaN or infinite \(model\.layers\.1\.mlp\.up"):
            shop.train("no-numbers", model=str(base), **options)
    assert not (shop.root / "no-numbers").exists()


# --- checkpoints --------------------------------------------------------------------------------


def test_a_torn_checkpoint_is_not_gone_on_from(shop: Workshop) -> None:
    """One that is not sealed may lack anything, though transformers' last file is there."""
    with pytest.raises(Interrupted):
        shop.train("torn", interrupt_at(4), save_steps=2, max_steps=9, save_total_limit=2)
    folder = shop.root / "torn"
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["checkpoint-4", "checkpoint-5"]
    (folder / "checkpoints" / "checkpoint-5" / SEAL).unlink()
    (folder / "checkpoints" / "checkpoint-5" / "trainer_state.json").write_text("{")
    assert newest_checkpoint(folder) == folder / "checkpoints" / "checkpoint-4"
    options: dict[str, Any] = {"save_steps": 2, "save_total_limit": 2, "max_steps": 9}
    assert shop.train("torn", resume_from_checkpoint="auto", **options).resumed
    shop.train("torn-not", **options)
    shop.same("torn", "torn-not", tolerance=0)


def test_a_checkpoint_is_torn_while_it_is_written_again(shop: Workshop) -> None:
    """Going on from an earlier one by name: a kill must not leave the later one half new."""
    options: dict[str, Any] = {"save_steps": 1, "save_total_limit": 0, "overwrite": True}
    with pytest.raises(Interrupted):
        shop.train("again", interrupt_at(4), **options)
    named = shop.root / "again" / "checkpoints" / "checkpoint-2"
    with pytest.raises(Crash):
        shop.train("again", crash_at(2), resume_from_checkpoint=str(named), **options)
    assert newest_checkpoint(shop.root / "again") == named


# --- no evaluation ------------------------------------------------------------------------------


def test_no_evaluation_is_none(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PreferenceTrainer, "evaluate", lambda *_, **__: pytest.fail("evaluated"))
    result = shop.train("unevaluated", eval_strategy="no")
    assert set(result.metrics) == {"train_loss", "train_seconds"}
    capsys.readouterr()
    out = shop.root / "said"
    command = ["train", "--model", shop.base, "--data", shop.data, "--output-dir", out]
    command += ["--objectives", "helpful", "--max-steps", 1, "--eval-strategy", "no"]
    assert main([str(word) for word in command]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    named = f"trimtab accuracy --arm {out} --data {shop.data} --split validation"
    assert said == f"Not evaluated. Do it: {named}"
    assert main(named.split()[1:]) == 0


# --- one writer, several processes --------------------------------------------------------------


def test_a_folder_that_another_run_writes(shop: Workshop) -> None:
    with (
        only_writer(shop.root / "taken", folder=True),
        pytest.raises(OutputError, match="another run is writing"),
    ):
        shop.train("taken")
    shop.train("taken", max_steps=1)


def test_a_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """But not one that comes with the first, as a launcher and a terminal send it."""
    clock = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    stop = stopping.CleanStop()
    stop.on_train_begin(None, None, None)
    try:
        for later in (0.0, 0.5):
            clock[0] = 100.0 + later
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.agreed()
        clock[0] = 102.0
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    finally:
        stop.release()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def workers_of(launcher: int) -> list[int]:
    """The processes that a launcher has started, by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (place / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        rank = [entry[5:] for entry in environment if entry.startswith(b"RANK=")]
        if parent == launcher and rank:
            found[int(rank[0])] = int(place.name)
    return [found[rank] for rank in sorted(found)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_two_processes_stop_at_one_step(shop: Workshop, tmp_path: Path) -> None:
    """One is told, both end with one checkpoint; what goes on from it ends as if undisturbed."""
    options = ("--num-train-epochs", 8, "--logging-steps", 1, "--save-strategy", "no")
    out, metrics = tmp_path / "out", tmp_path / "out" / "metrics.jsonl"
    command = command_of_processes(2, shop.base, shop.data, out, *options)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            assert run.poll() is None, run.communicate()
            time.sleep(0.005)
        os.kill(workers_of(run.pid)[1], signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode != 0
    [checkpoint] = (out / "checkpoints").iterdir()
    assert newest_checkpoint(out) == checkpoint
    step = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    assert 3 <= step < 40 and not (out / "trimtab.json").exists()
    more = (*options, "--resume-from-checkpoint", "auto")
    again = train_with_processes(2, shop.base, shop.data, out, *more)
    alone: dict[str, Any] = {"per_device_train_batch_size": 8, "learning_rate": 0.01}
    alone |= {"split": "none", "group_by_length": False, "num_train_epochs": 8, "max_steps": -1}
    shop.train("alone", objectives="", **alone)
    for name, tensor in shop.weights("alone").items():
        torch.testing.assert_close(again[name], tensor, atol=AFTER_TRAINING, rtol=0)
