"""Training as a whole: what must not change the result, and what a run leaves behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from conftest import train_with_processes, write_jsonl
from peft import PeftModel
from rounding import AFTER_TRAINING
from safetensors.torch import load_file
from torch import Tensor

import trimtab
from trimtab.arms.load import load_arm, tokenizer_of
from trimtab.arms.rewards import ArmRewards
from trimtab.data.collate import PairCollator
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import split_of
from trimtab.data.sources import fingerprint
from trimtab.data.tokenize import TokenPair, tokenize_pair
from trimtab.errors import OutputError
from trimtab.models.folder import weights_fingerprint
from trimtab.training.config import TrainConfig
from trimtab.training.plan import Interrupted, TrainResult
from trimtab.training.run import run_training

pytestmark = pytest.mark.filterwarnings("ignore:mtime may not be reliable")


NOISE = 1e-4 if torch.cuda.is_available() else 0.0
"""On a GPU sums are added in no fixed order: no two runs are alike bit for bit."""


class Workshop:
    """Trains tiny ARMs on the `happy` and `sad` pairs, each into its own folder."""

    def __init__(self, root: Path, base: Path, data: Path) -> None:
        self.root, self.base, self.data = root, base, data

    def config(self, name: str, **options: Any) -> TrainConfig:
        defaults: dict[str, Any] = {
            "model": str(self.base),
            "data": [str(self.data)],
            "output_dir": str(self.root / name),
            "objectives": "helpful",
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "max_steps": 6,
            "logging_steps": 1,
            "save_steps": 2,
            "learning_rate": 2e-3,
            "lora_dropout": 0.0,
        }
        return TrainConfig(**{**defaults, **options})

    def train(self, name: str, progress: Any = None, **options: Any) -> TrainResult:
        [result] = run_training(self.config(name, **options), progress)
        return result

    def records(self, name: str) -> list[dict[str, Any]]:
        lines = (self.root / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def losses(self, name: str) -> list[float]:
        return [record["loss"] for record in self.records(name) if "loss" in record]

    def weights(self, name: str) -> dict[str, Tensor]:
        folder = self.root / name
        adapter = folder / "adapter_model.safetensors"
        return load_file(adapter if adapter.exists() else folder / "model.safetensors")

    def same(self, one: str, two: str, *, tolerance: float) -> None:
        """Two runs lost the same at every step and ended with the same weights."""
        tolerance = max(tolerance, NOISE)
        assert self.losses(one) == pytest.approx(self.losses(two), abs=tolerance)
        a, b = self.weights(one), self.weights(two)
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], atol=tolerance, rtol=0, msg=name)

    def validation(self) -> list[TokenPair]:
        tokenizer = tokenizer_of(str(self.base))
        pairs, _ = read_pairs([str(self.data)])
        return [tokenize_pair(tokenizer, p) for p in pairs if split_of(p.prompt) == "validation"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, base_dir: Path, pairs_file: Path) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("runs"), base_dir, pairs_file)


@pytest.fixture(scope="module")
def lora(shop: Workshop) -> TrainResult:
    """A LoRA ARM trained to the end, shared by the tests that only look at it."""
    return shop.train("lora", max_steps=30, learning_rate=5e-3, save_steps=10)


@pytest.fixture(scope="module")
def full(shop: Workshop) -> TrainResult:
    """The same with all weights trained."""
    return shop.train("full", finetuning="full", max_steps=30, save_steps=10)


class TestWhatMustNotMatter:
    @pytest.mark.parametrize("finetuning", ["lora", "full"])
    def test_accumulation(self, shop: Workshop, finetuning: str) -> None:
        """Batches of 8 are 8 batches of 1, accumulated, also where an epoch ends with 5 pairs.

        29 training pairs: 8 + 8 + 8 + 5 in an epoch, so step 4 averages over 5.
        """
        common = {"finetuning": finetuning, "max_steps": 6}
        names = [f"{finetuning}-{n}x{8 // n}" for n in (8, 2, 1)]
        for n, name in zip((8, 2, 1), names, strict=True):
            options = {"per_device_train_batch_size": n, "gradient_accumulation_steps": 8 // n}
            shop.train(name, **common, **options)
        shop.same(names[0], names[2], tolerance=AFTER_TRAINING)
        if finetuning == "lora":
            # 5 pairs in batches of 2, 2 and 1: the mean of means is not the mean over pairs
            found, expected = (shop.losses(name)[:3] for name in names[:2])
            assert found == pytest.approx(expected, abs=AFTER_TRAINING)

    @pytest.mark.parametrize("finetuning", ["lora", "full"])
    def test_gradient_checkpointing(
        self, shop: Workshop, finetuning: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Recomputed activations are the same, dropout included; more is computed, so it is on."""
        from transformers.models.llama.modeling_llama import LlamaMLP

        calls = 0
        forward = LlamaMLP.forward

        def counted(self: Any, x: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            result: Tensor = forward(self, x)
            return result

        monkeypatch.setattr(LlamaMLP, "forward", counted)
        computed = []
        for on in (False, True):
            calls = 0
            shop.train(
                f"{finetuning}-checkpointing-{on}",
                finetuning=finetuning,
                gradient_checkpointing=on,
                lora_dropout=0.2,
            )
            computed.append(calls)
        assert computed[1] > 1.5 * computed[0]
        runs = [f"{finetuning}-checkpointing-{on}" for on in (False, True)]
        shop.same(*runs, tolerance=AFTER_TRAINING)

    def test_head_chunks(self, shop: Workshop) -> None:
        for chunk in (1, 7, 1024):
            shop.train(f"chunk-{chunk}", head_chunk_tokens=chunk)
        shop.same("chunk-1", "chunk-1024", tolerance=AFTER_TRAINING)
        shop.same("chunk-7", "chunk-1024", tolerance=AFTER_TRAINING)

    def test_side_of_the_padding(self, shop: Workshop, lora: TrainResult) -> None:
        model = load_arm(lora.output_dir)
        sides = [PairCollator(0, side)(shop.validation()) for side in ("left", "right")]
        assert int(sides[0]["attention_mask"][:, 0].min()) == 0  # there is padding, and it moves
        assert int(sides[1]["attention_mask"][:, 0].min()) == 1
        with torch.no_grad():
            left, right = (ArmRewards()(model, batch) for batch in sides)
        torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-4)

    def test_the_seed_is_what_decides(self, shop: Workshop) -> None:
        for name, seed in (("seed-a", 1), ("seed-b", 1), ("seed-c", 2)):
            shop.train(name, seed=seed, lora_dropout=0.3)
        shop.same("seed-a", "seed-b", tolerance=0)
        assert shop.losses("seed-a") != shop.losses("seed-c")

    @pytest.mark.parametrize("finetuning", ["lora", "full"])
    def test_bf16_computes_in_bfloat16(
        self, shop: Workshop, finetuning: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """… and keeps the trained weights in float32."""
        dtypes: list[torch.dtype] = []
        linear = torch.nn.functional.linear

        def spied(*args: Any) -> Tensor:
            dtypes.append((out := linear(*args)).dtype)
            return out

        monkeypatch.setattr("trimtab.training.build.check_rewards", lambda *_, **__: None)
        monkeypatch.setattr(torch.nn.functional, "linear", spied)
        name = f"bf16-{finetuning}"
        shop.train(name, finetuning=finetuning, bf16=True, max_steps=2)
        assert set(dtypes) == {torch.bfloat16}
        assert {tensor.dtype for tensor in shop.weights(name).values()} == {torch.float32}


def interrupt_at(step: int) -> Callable[[str, int, int], None]:
    """A progress function that presses Ctrl-C when a step is done."""

    def progress(label: str, done: int, total: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


class Crash(Exception):
    """The machine goes away."""


def crash_at(step: int) -> Callable[[str, int, int], None]:
    def progress(label: str, done: int, total: int) -> None:
        if done == step:
            raise Crash

    return progress


LONG: dict[str, Any] = {"max_steps": 20, "save_steps": 6, "lora_dropout": 0.2}  # over 2 epochs


@pytest.fixture(scope="module")
def whole(shop: Workshop) -> None:
    """The run that nothing interrupts."""
    shop.train("whole", **LONG)


@pytest.mark.usefixtures("whole")
class TestResuming:
    def undisturbed(self, shop: Workshop, name: str) -> None:
        """Nothing tells the run from one that was never interrupted."""
        shop.same(name, "whole", tolerance=0)
        found, wanted = shop.records(name), shop.records("whole")
        assert [(r["step"], sorted(r)) for r in found] == [(r["step"], sorted(r)) for r in wanted]
        for record, other in zip(found, wanted, strict=True):
            for key in ("loss", "accuracy", "margin", "learning_rate", "eval_loss", "epoch"):
                known = record.get(key)
                same = known if known is None else pytest.approx(known, abs=NOISE, rel=NOISE)
                assert other.get(key) == same, (key, record["step"])
        results = [
            json.loads((shop.root / n / "results.json").read_text()) for n in (name, "whole")
        ]
        for key in ("eval_loss", "eval_accuracy", "eval_margin", "eval_n", "train_loss"):
            assert results[0][key] == pytest.approx(results[1][key], abs=1e-6), key

    @pytest.mark.parametrize("step", [0, 7, 8, 18])
    def test_ctrl_c(self, shop: Workshop, step: int) -> None:
        """With dropout, so that the random state counts; in the first epoch and in a later one."""
        handler = signal.getsignal(signal.SIGINT)
        name = f"ctrl-c-{step}"
        with pytest.raises(Interrupted):
            shop.train(name, interrupt_at(step), **LONG)
        assert signal.getsignal(signal.SIGINT) is handler
        assert not (shop.root / name / "trimtab.json").exists()
        result = shop.train(name, resume_from_checkpoint="auto", **LONG)
        assert result.resumed
        self.undisturbed(shop, name)

    def test_ctrl_c_twice_in_one_run(self, shop: Workshop) -> None:
        for step in (3, 12):
            with pytest.raises(Interrupted):
                shop.train("twice", interrupt_at(step), resume_from_checkpoint="auto", **LONG)
        shop.train("twice", resume_from_checkpoint="auto", **LONG)
        self.undisturbed(shop, "twice")

    def test_a_crash(self, shop: Workshop) -> None:
        """Two steps after a checkpoint nothing is saved: step 7 is trained again, not recorded
        twice."""
        with pytest.raises(Crash):
            shop.train("crash", crash_at(8), **LONG)
        assert [r["step"] for r in shop.records("crash")] == [*range(1, 8)]
        assert shop.train("crash", resume_from_checkpoint="auto", **LONG).resumed
        self.undisturbed(shop, "crash")

    def test_a_crash_before_any_checkpoint(self, shop: Workshop) -> None:
        with pytest.raises(Crash):
            shop.train("early", crash_at(2), **LONG)
        assert not shop.train("early", resume_from_checkpoint="auto", **LONG).resumed
        self.undisturbed(shop, "early")

    def test_a_named_checkpoint(self, shop: Workshop) -> None:
        with pytest.raises(Crash):
            shop.train("named", crash_at(7), **LONG)
        [checkpoint] = (shop.root / "named" / "checkpoints").glob("checkpoint-*")
        assert shop.train("named", resume_from_checkpoint=str(checkpoint), **LONG).resumed
        self.undisturbed(shop, "named")

    def test_all_weights_and_accumulation(self, shop: Workshop) -> None:
        options: dict[str, Any] = {
            "finetuning": "full",
            "max_steps": 9,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
        }
        shop.train("full-whole", **options)
        with pytest.raises(Interrupted):
            shop.train("full-twice", interrupt_at(4), **options)
        shop.train("full-twice", resume_from_checkpoint="auto", **options)
        shop.same("full-twice", "full-whole", tolerance=0)

    def test_without_grouping(self, shop: Workshop) -> None:
        options: dict[str, Any] = {**LONG, "group_by_length": False}
        shop.train("ungrouped-whole", **options)
        with pytest.raises(Interrupted):
            shop.train("ungrouped-twice", interrupt_at(9), **options)
        shop.train("ungrouped-twice", resume_from_checkpoint="auto", **options)
        shop.same("ungrouped-twice", "ungrouped-whole", tolerance=0)

    def test_at_the_last_step(self, shop: Workshop) -> None:
        """Ctrl-C when the last step is done: nothing is lost, whatever the saving strategy."""
        options: dict[str, Any] = {"max_steps": 4, "save_strategy": "no"}
        shop.train("last-whole", **options)
        with pytest.raises(Interrupted):
            shop.train("last", interrupt_at(4), **options)
        steps: list[int] = []
        result = shop.train(
            "last", lambda _, n, total: steps.append(n), resume_from_checkpoint="auto", **options
        )
        assert result.resumed and set(steps) <= {4}
        shop.same("last", "last-whole", tolerance=0)

    def test_other_settings_are_refused(self, shop: Workshop) -> None:
        before = (shop.root / "whole" / "results.json").read_bytes()
        changed = {**LONG, "learning_rate": 1e-3, "seed": 5}
        with pytest.raises(OutputError, match=r"other settings \(learning_rate, seed\)"):
            shop.train("whole", resume_from_checkpoint="auto", **changed)
        assert (shop.root / "whole" / "results.json").read_bytes() == before
        shop.train("redone", max_steps=1)
        redone = shop.train(
            "redone", max_steps=1, seed=5, resume_from_checkpoint="auto", overwrite=True
        )
        assert not redone.resumed  # as the error's hint promises

    def test_other_data_are_refused(self, shop: Workshop, tmp_path: Path) -> None:
        """The same file name, another row in it."""
        copy = tmp_path / "pairs.jsonl"
        copy.write_text(shop.data.read_text())
        options: dict[str, Any] = {"data": [str(copy)], "max_steps": 2}
        shop.train("other-data", **options)
        copy.write_text(shop.data.read_text() + shop.data.read_text().splitlines()[0] + "\n")
        with pytest.raises(OutputError, match="data_sha256"):
            shop.train("other-data", resume_from_checkpoint="auto", **options)

    def test_a_finished_run_is_left_alone(self, shop: Workshop) -> None:
        folder = shop.root / "whole"
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
        result = shop.train("whole", crash_at(0), resume_from_checkpoint="auto", **LONG)
        assert result.resumed and result.metrics == json.loads(
            (folder / "results.json").read_text()
        )
        assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}

    def test_a_finished_run_is_not_trained_over(self, shop: Workshop) -> None:
        with pytest.raises(OutputError, match="not empty"):
            shop.train("whole", **LONG)

    def test_overwriting_begins_again(self, shop: Workshop) -> None:
        """A run that overwrites another and crashes is not mistaken for the one it overwrote."""
        shop.train("over", seed=9, **LONG)
        with pytest.raises(Crash):
            shop.train("over", crash_at(3), overwrite=True, **LONG)
        shop.train("over", resume_from_checkpoint="auto", **LONG)
        self.undisturbed(shop, "over")

        with pytest.raises(Crash):
            shop.train("over", crash_at(8), overwrite=True, **LONG)
        assert shop.train("over", resume_from_checkpoint="auto", **LONG).resumed
        self.undisturbed(shop, "over")


class TestWhatItLeavesBehind:
    @pytest.mark.parametrize("kind", ["lora", "full"])
    def test_plain_libraries_load_it(self, shop: Workshop, kind: str, request: Any) -> None:
        """transformers and PEFT alone give the logits that Trimtab's loader gives …"""
        result: TrainResult = request.getfixturevalue(kind)
        auto = transformers.AutoModelForCausalLM
        if kind == "lora":
            theirs = PeftModel.from_pretrained(auto.from_pretrained(shop.base), result.output_dir)
        else:
            theirs = auto.from_pretrained(result.output_dir)
        theirs.eval()
        ours = load_arm(result.output_dir)
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        with torch.no_grad():
            assert torch.equal(ours(ids).logits, theirs(ids).logits)
            untrained = auto.from_pretrained(shop.base)(ids).logits
            assert not torch.allclose(ours(ids).logits, untrained, atol=1e-2)
            # … and they are those of the model that was evaluated
            chosen, rejected = ArmRewards()(theirs, PairCollator(0)(shop.validation())).chunk(2)
        margin = (chosen - rejected).mean().item()
        assert margin == pytest.approx(result.metrics["eval_margin"], abs=1e-3)
        reward = chosen.mean().item()
        assert reward == pytest.approx(result.metrics["eval_reward_chosen"], abs=1e-3)
        tokenizer = transformers.AutoTokenizer.from_pretrained(result.output_dir)
        base_tokenizer = tokenizer_of(str(shop.base))
        assert tokenizer.get_vocab() == base_tokenizer.get_vocab()
        assert tokenizer.chat_template == base_tokenizer.chat_template

    def test_the_folder(self, lora: TrainResult, full: TrainResult) -> None:
        """The files that others look for; no pickle beside the weights, nothing half-saved."""
        common = {"README.md", "trimtab.json", "results.json", "metrics.jsonl", "tokenizer.json"}
        for result, own in (
            (lora, {"adapter_config.json", "adapter_model.safetensors"}),
            (full, {"config.json", "model.safetensors"}),
        ):
            names = {path.name for path in Path(result.output_dir).iterdir()}
            assert common | own <= names
            assert not any(name.startswith(".") or name.endswith((".bin", ".pt")) for name in names)

    def test_sidecar(self, shop: Workshop, lora: TrainResult) -> None:
        facts = json.loads((Path(lora.output_dir) / "trimtab.json").read_text())
        expected = {
            "method": "genarm",
            "objective": "helpful",
            "beta": 0.05,
            "scale": 1.0,
            "base_family": "llama",
            "base_fingerprint": weights_fingerprint(str(shop.base)),
            "prompt_format": "auto",
            "data_sha256": fingerprint([str(shop.data)]),
            "trimtab_version": trimtab.__version__,
        }
        assert {key: facts[key] for key in expected} == expected
        assert len(facts["base_fingerprint"]) == len(facts["data_sha256"]) == 64
        adapter = json.loads((Path(lora.output_dir) / "adapter_config.json").read_text())
        assert Path(adapter["base_model_name_or_path"]) == shop.base.resolve()

    def test_model_card(
        self, shop: Workshop, lora: TrainResult, full: TrainResult, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        command = ["/somewhere/bin/trimtab", "train", "--objectives", "help ful"]
        monkeypatch.setattr("sys.argv", command)
        carded = shop.train("carded", max_steps=1)
        texts = [(Path(r.output_dir) / "README.md").read_text() for r in (lora, full, carded)]
        for text in texts:
            assert fingerprint([str(shop.data)]) in text
            front = yaml.safe_load(text.split("---\n")[1])
            assert "base_model" not in front and "datasets" not in front  # not at the hub
            assert f"`{shop.base}`" in text and f"`{shop.data.name}`" in text
            assert "reward-model" in front["tags"] and "helpful" in front["tags"]
            assert "| eval_accuracy |" in text and "29 train" in text
        assert "library_name: peft" in texts[0]
        assert "library_name: transformers" in texts[1]
        assert "trimtab.train(" in texts[0]
        assert "trimtab train --objectives 'help ful'" in texts[2]

    def test_metrics(self, shop: Workshop, lora: TrainResult) -> None:
        records = shop.records("lora")
        trained = [r for r in records if "loss" in r]
        assert [r["step"] for r in trained] == list(range(1, 31))
        assert all(
            {"accuracy", "margin", "learning_rate", "grad_norm"} <= r.keys() for r in trained
        )
        assert any("eval_accuracy" in r and "eval_margin" in r for r in records)
        mean = sum(r["loss"] for r in trained) / len(trained)
        assert lora.metrics["train_loss"] == pytest.approx(mean, rel=1e-3)

    @pytest.mark.parametrize("kind", ["lora", "full"])
    def test_it_learns(self, shop: Workshop, kind: str, request: Any) -> None:
        """The loss falls below ln 2 = .693, chance; prompts never seen are judged right."""
        result: TrainResult = request.getfixturevalue(kind)
        losses = shop.losses(kind)
        assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
        assert sum(losses[-5:]) / 5 < 0.4
        assert result.metrics["eval_accuracy"] == 1.0
        prompts = ["the big moon", "hello thank you", "once upon a time"]
        sides = [
            trimtab.score(result.output_dir, prompts, [text] * 3)
            for text in ("happy happy the dog", "sad sad the cat sat")
        ]
        for happy, sad in zip(*sides, strict=True):
            assert happy.reward > sad.reward

    def test_several_objectives(self, shop: Workshop, tmp_path: Path) -> None:
        """One ARM and one folder each; where the labels disagree, so do the ARMs."""
        rows = [
            {
                "prompt": f"the cat {i}",
                "response_0": "happy happy",
                "response_1": "sad sad",
                "labels": {"helpful": 0, "harmless": 1},
            }
            for i in range(24)
        ]
        for row in rows:
            row["chosen"], row["rejected"] = row.pop("response_0"), row.pop("response_1")
        data = write_jsonl(tmp_path / "labelled.jsonl", rows)
        config = shop.config(
            "several",
            data=[str(data)],
            objectives="helpful,harmless",
            split="none",
            max_steps=15,
            learning_rate=5e-3,
        )
        results = run_training(config)
        assert [r.objective for r in results] == ["helpful", "harmless"]
        folders = [shop.root / "several" / name for name in ("helpful", "harmless")]
        assert [Path(r.output_dir) for r in results] == folders
        margins = []
        for folder in (*folders, shop.base):
            happy, sad = (
                trimtab.score(str(folder), ["the dog"], [text])[0].reward
                for text in ("happy happy", "sad sad")
            )
            margins.append(happy - sad)
        untrained = margins.pop()
        assert margins[0] > untrained + 1 and margins[1] < untrained - 1
        named = [json.loads((f / "trimtab.json").read_text())["objective"] for f in folders]
        assert named == ["helpful", "harmless"]
        again = run_training(
            TrainConfig(**{**config.__dict__, "resume_from_checkpoint": "auto"}), crash_at(0)
        )
        assert [r.metrics for r in again] == [r.metrics for r in results]


@pytest.mark.slow
def test_two_processes_train_what_one_does(
    base_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    """DDP over two processes of 4 pairs = one process of 8; the first process alone writes."""
    weights = [train_with_processes(n, base_dir, pairs_file, tmp_path / str(n)) for n in (1, 2)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=AFTER_TRAINING, rtol=0)
