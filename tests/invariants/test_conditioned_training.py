"""Training one ARM for every preference: what must not change the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import train_with_processes, write_jsonl
from rounding import AFTER_TRAINING
from safetensors.torch import load_file
from test_training import Crash, Workshop, crash_at, interrupt_at
from torch import Tensor

from trimtab.arms.conditioned import conditioned_layers
from trimtab.training.build import build_trainer
from trimtab.training.conditioned import PreferenceDraws
from trimtab.training.inputs import prepare_inputs
from trimtab.training.plan import Interrupted

pytestmark = pytest.mark.filterwarnings("ignore:mtime may not be reliable")

HAPPY, SAD = "happy happy the dog", "sad sad the cat sat"
DESCRIBED = {"parm": [], "uniarm": ["a=happy cat", "b=sad dog"]}
METHODS = ["parm", "uniarm"]
DRAWS = ["batch", "row"]


class Conditioned(Workshop):
    """Trains tiny PARM and UniARM on pairs that two objectives judge; not all pairs by both."""

    def config(self, name: str, **options: Any) -> Any:
        described = DESCRIBED[options.setdefault("method", "parm")]
        return super().config(name, **{"describe": described, "objectives": "a,b", **options})

    def checkpoints_are_lean(self, name: str) -> None:
        """They hold the adapter and its optimiser, nothing of the frozen backbone."""
        final = self.weights(name)
        learned = [key for key in final if not key.startswith("condition.")]
        [*checkpoints] = (self.root / name / "checkpoints").glob("checkpoint-*")
        assert checkpoints
        for checkpoint in checkpoints:
            [weights] = checkpoint.glob("*.safetensors")
            saved = load_file(weights)
            assert {k: v.shape for k, v in saved.items()} == {k: v.shape for k, v in final.items()}
            assert not [*checkpoint.glob("*.bin"), *checkpoint.glob("config.json")]
            optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
            assert len(optimizer["state"]) == len(learned)


def judged(missing: bool) -> list[dict[str, Any]]:
    """Forty prompts; `a` wants happy and `b` sad. A third has no label of one of them, or all."""
    labels = [{"a": 0, "b": 1}, {"a": 0, "b": 1}, {"a": 0}, {"a": 0, "b": 1}, {"b": 1}]
    words = [("cat", "sat"), ("dog", "ran very little"), ("sun", "sat on the big red mat, you")]
    return [
        {
            "prompt": "the {} {} {}".format(*words[i % 3], i),
            "chosen": HAPPY,
            "rejected": SAD,
            "labels": labels[i % 5] if missing else labels[0],
        }
        for i in range(40)
    ]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, base_dir: Path) -> Conditioned:
    root = tmp_path_factory.mktemp("conditioned")
    return Conditioned(root, base_dir, write_jsonl(root / "judged.jsonl", judged(missing=True)))


@pytest.mark.parametrize("method", METHODS)
def test_accumulation(shop: Conditioned, method: str) -> None:
    """With a preference for each pair, 8 pairs at once are 2 × 4 and 8 × 1 accumulated."""
    for size in (8, 4, 1):
        shop.train(
            f"{method}-{size}", method=method, preference_draws="row", max_steps=3,
            per_device_train_batch_size=size, gradient_accumulation_steps=8 // size,
        )  # fmt: skip
    shop.same(f"{method}-8", f"{method}-4", tolerance=AFTER_TRAINING)
    shop.same(f"{method}-8", f"{method}-1", tolerance=AFTER_TRAINING)


def test_accumulation_with_a_preference_for_each_pass(
    shop: Conditioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four passes of a step draw four preferences, so they are not one pass with one …

    … and where all draws are alike (Dirichlet with a = 10⁷ is .5 ± .0002), they are.
    """
    asked: list[tuple[int, int]] = []
    draw = PreferenceDraws.draw

    def recorded(self: PreferenceDraws, step: int, micro: int, rows: Sequence[int]) -> Tensor:
        asked.append((step, micro))
        return draw(self, step, micro, rows)

    monkeypatch.setattr(PreferenceDraws, "draw", recorded)
    for alpha in (0.5, 1e7):
        for size in (8, 2):
            asked.clear()
            shop.train(
                f"passes-{alpha}-{size}", max_steps=3, preference_alpha=alpha,
                per_device_train_batch_size=size, gradient_accumulation_steps=8 // size,
            )  # fmt: skip
            assert asked == [(s, m) for s in range(3) for m in range(8 // size)]
    apart = zip(shop.losses("passes-0.5-8"), shop.losses("passes-0.5-2"), strict=True)
    assert all(abs(one - other) > 1e-4 for one, other in apart)
    shop.same("passes-10000000.0-8", "passes-10000000.0-2", tolerance=1e-3)


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing(
    shop: Conditioned, method: str, draws: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that are run again in the backward pass find the preferences of their forward pass."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    tokens = 0
    forward = LlamaMLP.forward

    def counted(self: Any, x: Tensor) -> Tensor:
        nonlocal tokens
        tokens += x.shape[0] * x.shape[1]
        found: Tensor = forward(self, x)
        return found

    monkeypatch.setattr(LlamaMLP, "forward", counted)
    names = [f"{method}-{draws}-again-{on}" for on in (False, True)]
    computed = []
    for on, name in zip((False, True), names, strict=True):
        tokens = 0
        shop.train(
            name, method=method, preference_draws=draws, gradient_checkpointing=on, max_steps=4,
            gradient_accumulation_steps=2, group_by_length=False,
        )  # fmt: skip
        computed.append(tokens)
    shop.same(*names, tolerance=AFTER_TRAINING)
    assert computed[1] > 1.5 * computed[0]


@pytest.mark.parametrize("draws", DRAWS)
def test_evaluating_on_the_way(shop: Conditioned, draws: str) -> None:
    """It takes no preference out of the sequence of draws, and leaves none behind."""
    options = {"preference_draws": draws, "max_steps": 4, "gradient_accumulation_steps": 2}
    for often in (1, 4):
        shop.train(f"{draws}-eval-{often}", eval_strategy="steps", eval_steps=often, **options)
    shop.same(f"{draws}-eval-1", f"{draws}-eval-4", tolerance=0)


def test_gradient_checkpointing_with_dropout(shop: Conditioned) -> None:
    for on in (False, True):
        shop.train(f"dropout-{on}", gradient_checkpointing=on, lora_dropout=0.3, max_steps=4)
    shop.same("dropout-False", "dropout-True", tolerance=AFTER_TRAINING)


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("method", METHODS)
class TestResuming:
    OPTIONS: dict[str, Any] = {  # noqa: RUF012
        "max_steps": 8, "save_steps": 3, "lora_dropout": 0.2,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    }  # fmt: skip

    def options(self, method: str, draws: str) -> dict[str, Any]:
        return {**self.OPTIONS, "method": method, "preference_draws": draws}

    def test_interrupted_and_crashed(self, shop: Conditioned, method: str, draws: str) -> None:
        """Nothing tells the run from one that was never stopped: losses, weights, measurements."""
        options, kind = self.options(method, draws), f"{method}-{draws}"
        wanted = shop.train(f"{kind}-whole", **options)
        with pytest.raises(Interrupted):
            shop.train(f"{kind}-ctrl-c", interrupt_at(5), **options)
        with pytest.raises(Crash):
            shop.train(f"{kind}-crash", crash_at(5), **options)
        for how in ("ctrl-c", "crash"):
            found = shop.train(f"{kind}-{how}", resume_from_checkpoint="auto", **options)
            assert found.resumed
            shop.same(f"{kind}-{how}", f"{kind}-whole", tolerance=0)
            ours = {k: v for k, v in found.metrics.items() if "seconds" not in k}
            assert ours == pytest.approx({k: wanted.metrics[k] for k in ours}, abs=1e-6)
            shop.checkpoints_are_lean(f"{kind}-{how}")


@pytest.mark.slow
@pytest.mark.parametrize(("method", "draws"), [("parm", "row"), ("uniarm", "batch")])
def test_two_processes_train_what_one_does(
    shop: Conditioned, tmp_path: Path, method: str, draws: str
) -> None:
    """DDP over two processes of 4 pairs = one process of 8; a batch's preference is theirs both."""
    described = ["--describe", *DESCRIBED[method]] if DESCRIBED[method] else []
    options = ("--method", method, "--preference-draws", draws, *described)
    weights = [
        train_with_processes(n, shop.base, shop.data, tmp_path / str(n), *options) for n in (1, 2)
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=AFTER_TRAINING, rtol=0, msg=name)


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("method", METHODS)
def test_bf16(shop: Conditioned, method: str, draws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed in bfloat16, kept in float32."""
    dtypes: set[torch.dtype] = set()
    linear = torch.nn.functional.linear

    def spied(*args: Any) -> Tensor:
        dtypes.add((out := linear(*args)).dtype)
        return out

    monkeypatch.setattr("trimtab.training.build.check_rewards", lambda *_, **__: None)
    monkeypatch.setattr(torch.nn.functional, "linear", spied)
    name = f"{method}-{draws}-bf16"
    shop.train(name, method=method, preference_draws=draws, bf16=True, max_steps=3)
    assert dtypes == {torch.bfloat16}
    assert {tensor.dtype for tensor in shop.weights(name).values()} == {torch.float32}
    assert all(math.isfinite(loss) for loss in shop.losses(name))


@pytest.mark.parametrize("method", METHODS)
def test_the_backbone_stays_as_it_was(shop: Conditioned, method: str) -> None:
    """Bit for bit, in memory and on disk; every trained tensor has moved."""
    config = shop.config(f"{method}-frozen", method=method, max_steps=3, save_strategy="no")
    on_disk = {path: path.read_bytes() for path in shop.base.iterdir()}
    folder = Path(config.output_dir)
    folder.mkdir()
    trainer, _ = build_trainer(config, prepare_inputs(config, ""), folder, "", None)
    before = {name: w.detach().clone() for name, w in trainer.model.named_parameters()}
    trainer.train()
    own = {
        f"{name}.{key.replace('.weight', '')}"
        for name, layer in conditioned_layers(trainer.model)
        for key in layer.tensors()
    }
    for name, weight in trainer.model.named_parameters():
        assert (name in own) == weight.requires_grad
        assert (name in own) != torch.equal(weight, before[name]), name
        assert (name in own) or weight.grad is None
    assert {path: path.read_bytes() for path in shop.base.iterdir()} == on_disk
