"""`trimtab distill`: an ARM that steers as its guide does, without the guide's tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from conftest import write_jsonl
from oracle import specified_logp
from test_training import Crash, crash_at
from torch import Tensor

import trimtab
from trimtab.arms.sidecar import Sidecar
from trimtab.cli.main import main
from trimtab.distillation.config import DistillConfig
from trimtab.distillation.distill import _tokens_plan, run_distillation
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, DataError, OutputError
from trimtab.training.build import build_model
from trimtab.training.plan import TrainResult
from trimtab.training.teaching import TaughtCollator

TEXTS = ["the cat sat", "moon"]
PLAIN = "big red blue sun"
CONVERGED: dict[str, Any] = {
    "samples": 5, "unguided": 3, "max_new_tokens": 4, "num_train_epochs": 40, "lora_r": 16,
    "lora_target_modules": ["all-linear"], "learning_rate": 2e-2, "save_steps": 1.0,
    "gradient_accumulation_steps": 1, "per_device_train_batch_size": 16,
}  # fmt: skip
SHORT: dict[str, Any] = {"samples": 1, "max_new_tokens": 4, "max_steps": 4, "save_steps": 1}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [{"prompt": text, "chosen": "says nothing here"} for text in TEXTS]
    return str(write_jsonl(tmp_path_factory.mktemp("data") / "prompts.jsonl", rows))


@pytest.fixture(scope="module")
def tuned(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random LoRA of the base."""
    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(3)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base_dir)
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    peft.get_peft_model(plain, lora).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def guides(base_dir: Path, tuned: str) -> dict[str, dict[str, Any]]:
    """What a LoRA of the base can become: guided distributions that its LM head can give."""
    return {
        "instruction": {"instruct": {"plain": PLAIN}},
        "contrast": {"contrast": {"plain": f"{tuned}:{base_dir}"}},
    }


@pytest.fixture(scope="module")
def arms(
    base_dir: Path,
    prompts: str,
    guides: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, TrainResult]:
    """Each kind of guide, distilled to convergence."""
    root = tmp_path_factory.mktemp("arms")
    return {
        kind: trimtab.distill(
            base=str(base_dir), prompts=prompts, output_dir=str(root / kind), **guide, **CONVERGED
        )
        for kind, guide in guides.items()
    }


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def divergence(one: Tensor, other: Tensor) -> float:
    return float((one.exp() * (one - other)).sum())


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("kind", ["instruction", "contrast"])
def test_the_arm_steers_as_the_guide(
    base_dir: Path,
    arms: dict[str, TrainResult],
    guides: dict[str, dict[str, Any]],
    kind: str,
    strength: float,
) -> None:
    """On what it was trained on, three quarters of the guide's pull and more are the ARM's, too."""
    guide = trimtab.load(str(base_dir), **guides[kind])
    arm = trimtab.load(str(base_dir), {"plain": arms[kind].output_dir})
    left, whole = [], []
    for line in (Path(arms[kind].output_dir) / "samples.jsonl").read_text().splitlines()[::2]:
        row = json.loads(line)
        ids = guide.base.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        for t in range(min(3, len(ids))):
            at = [
                specified_logp(engine, Request(row["prompt"], strength=s), ids[:t])
                for engine, s in ((guide, strength), (arm, strength), (guide, 0.0))
            ]
            left.append(divergence(at[0], at[1]))
            whole.append(divergence(at[0], at[2]))
    assert sum(left) < 0.25 * sum(whole)


@pytest.mark.parametrize("kind", ["instruction", "away", "contrast", "to the base"])
def test_the_teacher_is_the_engine_at_strength_1(
    base_dir: Path, arm_dir: Path, tuned: str, prompts: str, tmp_path: Path, kind: str
) -> None:
    """The mean KL(teacher || base) of each sample is that of the specification, token by token."""
    guide: dict[str, Any] = {
        "instruction": {"instruct": {"plain": PLAIN}},
        "away": {"instruct": {"plain": f"-0.5:{PLAIN}"}},
        "contrast": {"contrast": {"plain": f"0.3:{arm_dir}:{tuned}"}},
        "to the base": {"contrast": {"plain": f"-1:{base_dir}:{arm_dir}"}},
    }[kind]
    config = DistillConfig(
        base=str(base_dir), prompts=prompts, output_dir=str(tmp_path / "out"), **guide,
        **{**SHORT, "samples": 3},
    )  # fmt: skip
    run_distillation(config)
    plan = _tokens_plan(config)
    assert plan.prepare is not None
    inputs = plan.prepare(plan.config, "plain", None, plan.data)
    model = build_model(plan.config, inputs)
    batch = TaughtCollator(inputs.pad_id)(inputs.samples["train"])
    with torch.no_grad():
        kl_N2 = inputs.teacher.load(model, plan.config)(model, batch)
    engine = trimtab.load(str(base_dir), **guide)
    for sample, found in zip(inputs.samples["train"], kl_N2.tolist(), strict=True):
        gaps = []
        for t in range(len(sample.response_ids)):
            guided, base = (
                specified_logp(
                    engine, Request(sample.sample.prompt, strength=s), sample.response_ids[:t]
                )
                for s in (1.0, 0.0)
            )
            gaps.append(divergence(guided, base))
        expected = sum(gaps) / len(gaps)
        assert expected > 0.005
        assert found == [pytest.approx(expected, rel=1e-3)] * 2  # a fresh LoRA is the base


def test_the_folder(base_dir: Path, arms: dict[str, TrainResult]) -> None:
    result = arms["instruction"]
    facts = Sidecar.load(result.output_dir)
    assert (facts.method, facts.objective, facts.reference) == ("distill", "plain", "start")
    rows = lines_of(Path(result.output_dir) / "samples.jsonl")
    assert [row["strength"] for row in rows] == ([1.0] * 5 + [0.0] * 3) * len(TEXTS)
    assert "distilled from a guide" in (Path(result.output_dir) / "README.md").read_text()
    engine = trimtab.load(str(base_dir), {"plain": result.output_dir})
    assert [len(group.streams) for group in engine.groups] == [2]  # no row for its reference
    records = lines_of(Path(result.output_dir) / "metrics.jsonl")
    explained = [record["explained"] for record in records if "explained" in record]
    assert explained[0] < 0.7 < explained[-1]


def test_pairs(base_dir: Path, prompts: str, tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    result = trimtab.distill(
        base=str(base_dir), prompts=prompts, output_dir=str(out), instruct={"plain": PLAIN},
        method="pairs", samples=4, max_new_tokens=6, max_steps=20, learning_rate=5e-3,
    )  # fmt: skip
    samples = lines_of(out / "samples.jsonl")
    pairs = lines_of(out / "pairs.jsonl")
    assert len(samples) == 16 and len(pairs) == 8
    assert [pair["chosen"] for pair in pairs[:4]] == [row["text"] for row in samples[:4]]
    assert [pair["rejected"] for pair in pairs[:4]] == [row["text"] for row in samples[4:8]]
    facts = Sidecar.load(out)
    assert (facts.method, facts.reference, facts.objective) == ("genarm", "start", "plain")
    assert result.metrics["train_loss"] < 0.69
    assert trimtab.accuracy(str(out), str(out / "pairs.jsonl"), split="all").arm.value > 0.6


@pytest.mark.parametrize("method", ["tokens", "pairs"])
def test_a_killed_run_goes_on(base_dir: Path, prompts: str, tmp_path: Path, method: str) -> None:
    from safetensors.torch import load_file

    common: dict[str, Any] = {
        "base": str(base_dir), "prompts": prompts, "instruct": {"plain": PLAIN},
        "method": method, **SHORT, "samples": 4,
    }  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trimtab.distill(output_dir=str(whole), **common)

    def killed(label: str, done: int, total: int) -> None:
        if label == "answering" and done == 3:
            raise Crash

    with pytest.raises(Crash):
        trimtab.distill(output_dir=str(cut), **common, progress=killed)
    kept = (cut / "samples.jsonl").read_text()
    assert len(kept.splitlines()) == 3
    with pytest.raises(Crash):
        trimtab.distill(output_dir=str(cut), **common, progress=crash_at(2))
    assert not (cut / "adapter_model.safetensors").exists()
    resumed = trimtab.distill(output_dir=str(cut), **common)
    assert resumed.resumed
    texts = [(folder / "samples.jsonl").read_text() for folder in (whole, cut)]
    assert texts[0] == texts[1] and texts[1].startswith(kept)
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (whole, cut))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=0)
    again = trimtab.distill(output_dir=str(cut), **common, progress=crash_at(0))
    assert again.metrics == resumed.metrics
    with pytest.raises(OutputError, match="with other settings"):
        trimtab.distill(output_dir=str(cut), **{**common, "learning_rate": 0.1})
    with pytest.raises(OutputError, match="with other settings"):
        trimtab.distill(output_dir=str(cut), **{**common, "instruct": {"plain": "yes"}})


def test_bad_input(base_dir: Path, prompts: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    good: dict[str, Any] = {
        "base": str(base_dir), "prompts": prompts, "output_dir": str(out),
        "instruct": {"plain": PLAIN},
    }  # fmt: skip
    empty = write_jsonl(tmp_path / "empty.jsonl", [{"text": "no prompt"}])
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    bad: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"instruct": {}}, ConfigError, "exactly one guide, and there is none"),
        ({"contrast": {"b": "x:y"}}, ConfigError, "exactly one guide, and there is plain, b"),
        ({"instruct": {"plain": " "}}, ConfigError, "has no text"),
        ({"samples": 0}, ConfigError, "--samples is 0"),
        ({"beta": 0.1}, ConfigError, "--beta means nothing for --method tokens"),
        ({"method": "pairs", "unguided": 2}, ConfigError, "--unguided means nothing"),
        ({"learning_rate": 0}, ConfigError, "--learning-rate is 0"),
        ({"prompts": str(empty)}, DataError, "has no `prompt`"),
        ({"output_dir": str(full)}, OutputError, "is not empty"),
        ({"output_dir": str(base_dir)}, ConfigError, "base's own folder"),
    ]
    for options, kind, match in bad:
        with pytest.raises(kind, match=match):
            trimtab.distill(**{**good, **options})
        assert not out.exists()


def test_held_out_prompts_measure_it(base_dir: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"the cat {i}"} for i in range(20)]
    prompts = write_jsonl(tmp_path / "prompts.jsonl", rows)
    result = trimtab.distill(
        base=str(base_dir), prompts=str(prompts), output_dir=str(tmp_path / "out"),
        instruct={"plain": PLAIN}, split="hash", **SHORT,
    )  # fmt: skip
    assert result.metrics["eval_n"] > 0
    assert result.metrics["eval_explained"] < 1 and result.metrics["eval_loss"] > 0


def test_the_command(
    base_dir: Path, prompts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plain"
    ask = ["distill", "--base", base_dir, "--prompts", prompts, "--output-dir", out]
    short = ["--samples", "1", "--max-new-tokens", "4", "--max-steps", "2"]
    command = [str(word) for word in (*ask, "--instruct", f"plain={PLAIN}", *short)]
    assert main(command) == 0
    assert f"plain is in {out}" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed"] is True
    assert main([str(word) for word in ask]) == 2
    assert "exactly one guide" in capsys.readouterr().err
    assert main([*command, "--instruct", "warm=Be warm."]) == 2
    assert "there is plain, warm" in capsys.readouterr().err
