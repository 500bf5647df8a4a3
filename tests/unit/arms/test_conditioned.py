"""Conditioned ARMs as models: what they compute, where they sit, and what is trained of them.

All in float64, with preferences in quarters, which float32 holds exactly: rounding decides nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conditioned import CORES, by_formula, conditioned, save_arm
from conftest import make_model
from rounding import NATS
from torch import Tensor

from trimtab.arms.conditioned import ConditionedConfig, Core, condition_model, conditioned_layers
from trimtab.arms.load import load_arm
from trimtab.errors import ConfigError, PreferenceError

ROWS = torch.tensor([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
IDS = torch.arange(4, 12)[None]


@pytest.fixture(scope="module", params=CORES)
def core(request: pytest.FixtureRequest) -> Core:
    found: Core = request.param
    return found


@pytest.fixture(scope="module")
def arm(core: Core, base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditioned ARM of a, b and c on the base, with random weights."""
    return save_arm(tmp_path_factory.mktemp("arm") / core, base_dir, core)


@pytest.fixture(scope="module")
def plain(base_dir: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base_dir).double().eval()


def logits(model: Any, rows: Tensor, ids: Tensor = IDS) -> Tensor:
    """One row of the same tokens per preference, or many rows for one preference."""
    model.conditioning.open(rows)
    with torch.no_grad():
        found: Tensor = model(ids.expand(max(len(rows), len(ids)), -1)).logits
    return found


class TestForward:
    def test_is_the_formula(self, arm: Path, plain: Any) -> None:
        """Dense matrices by the papers' equations, added to a plain model."""
        model = load_arm(str(arm)).double()
        for row in ROWS:
            whole = by_formula(plain, arm, dict(zip("abc", row.tolist(), strict=True)))
            with torch.no_grad():
                expected = whole(IDS).logits
            # the vectors of texts are mixed in float32
            torch.testing.assert_close(logits(model, row[None]), expected, atol=NATS, rtol=0)
            assert not torch.allclose(expected, plain(IDS).logits, atol=0.5)

    def test_rows_are_single_runs(self, core: Core, plain: Any) -> None:
        model = conditioned(plain, core)
        together = logits(model, ROWS)
        for row, found in zip(ROWS, together, strict=True):
            torch.testing.assert_close(logits(model, row[None])[0], found)
        assert not torch.allclose(together[0], together[1], atol=0.1)

    def test_one_preference_for_all_rows(self, core: Core, plain: Any) -> None:
        model = conditioned(plain, core)
        ids = torch.randint(4, 40, (3, 6), generator=torch.Generator().manual_seed(0))
        shared, repeated = (logits(model, ROWS[:1].repeat(n, 1), ids) for n in (1, 3))
        torch.testing.assert_close(shared, repeated)

    def test_transposed_layers(self, core: Core) -> None:
        """GPT-2's Conv1D keeps its weight as [in, out], and its three in one."""
        torch.manual_seed(0)
        gpt = transformers.GPT2Config(
            vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        plain = transformers.AutoModelForCausalLM.from_config(gpt).double().eval()
        model = conditioned(plain, core, layers=("c_attn", "c_fc"))
        assert [layer.lora_B.shape[0] for _, layer in conditioned_layers(model)] == [48, 64] * 2
        for row, found in zip(ROWS, logits(model, ROWS), strict=True):
            torch.testing.assert_close(logits(model, row[None])[0], found)

    def test_half_precision_backbone(self, core: Core, plain: Any) -> None:
        """The adapter stays float32 and the layers' outputs bfloat16."""
        model = conditioned(plain, core).bfloat16()
        for _, layer in conditioned_layers(model):
            for tensor in layer.tensors().values():
                tensor.data = tensor.data.float()
        found = logits(model, ROWS)
        assert found.dtype == torch.bfloat16
        exact = logits(conditioned(plain, core), ROWS)
        assert float((found.float() - exact).abs().mean()) < 0.1

    @pytest.mark.parametrize("rows", [1, 3])
    def test_a_preference_made_on_the_cpu(self, core: Core, plain: Any, rows: int) -> None:
        """The model may be on a GPU; the meta device stands for it, which takes no CPU tensors."""
        model = conditioned(plain, core).to("meta")
        model.conditioning.open(ROWS[:rows])
        assert model(IDS.expand(3, -1).to("meta")).logits.shape[:2] == (3, 8)

    def test_a_preference_of_another_length(self, core: Core, plain: Any) -> None:
        with pytest.raises(PreferenceError, match=r"has 2 entries; the objectives are: a, b, c"):
            conditioned(plain, core).conditioning.open(torch.tensor([[0.5, 0.5]]))


class TestTargets:
    def condition(self, *layers: str) -> list[str]:
        config = ConditionedConfig("bilinear", ("a", "b"), 4, 4, 0.0, layers, preference_r=2)
        model = condition_model(make_model(0, 20, layers=1), config)
        return [name.removeprefix("model.layers.0.") for name, _ in conditioned_layers(model)]

    def test_all_linear_is_all_but_the_head(self) -> None:
        found = self.condition("all-linear")
        assert [name.rpartition(".")[2] for name in found] == [
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        ]  # fmt: skip

    def test_short_and_full_names(self) -> None:
        assert self.condition("v_proj", "model.layers.0.mlp.up_proj") == [
            "self_attn.v_proj", "mlp.up_proj",
        ]  # fmt: skip

    @pytest.mark.parametrize("layers", [("no_proj",), ("proj",), ("lm_head",), ("norm",)])
    def test_no_choice_of_layers(self, layers: tuple[str, ...]) -> None:
        with pytest.raises(ConfigError, match=f"{layers[0]} is no choice of layers to condition"):
            self.condition(*layers)


class TestGradients:
    def gradients(self, model: Any, rows: Tensor) -> dict[str, Tensor]:
        """Of the mean log-prob of a few tokens in three rows."""
        ids = torch.randint(4, 40, (3, 6), generator=torch.Generator().manual_seed(1))
        model.zero_grad(set_to_none=True)
        model.conditioning.open(rows)
        model(ids).logits.log_softmax(-1)[..., 7].mean().backward()
        return {name: w.grad for name, w in model.named_parameters() if w.grad is not None}

    @pytest.mark.parametrize("rows", [1, 3])
    def test_reach_the_adapter_and_nothing_else(self, core: Core, plain: Any, rows: int) -> None:
        model = conditioned(plain, core)
        found = self.gradients(model, ROWS[:rows])
        own = {"bilinear": ["W1", "U"], "affine": ["G", "D"]}[core]
        kinds = ("lora_A", "lora_B", *(f"core.{name}" for name in own))
        layers = [name for name, _ in conditioned_layers(model)]
        assert sorted(found) == sorted(f"{name}.{kind}" for name in layers for kind in kinds)
        assert all(bool((gradient != 0).any()) for gradient in found.values())

    def test_equal_rows_are_one_preference(self, core: Core, plain: Any) -> None:
        model = conditioned(plain, core)
        shared, repeated = (self.gradients(model, ROWS[:1].repeat(n, 1)) for n in (1, 3))
        for name, gradient in shared.items():
            torch.testing.assert_close(repeated[name], gradient)

    def test_rows_add_up(self, core: Core, plain: Any) -> None:
        """Three preferences at once: the mean over rows of what each gives alone."""
        model = conditioned(plain, core)
        together = self.gradients(model, ROWS)
        ids = torch.randint(4, 40, (3, 6), generator=torch.Generator().manual_seed(1))
        model.zero_grad(set_to_none=True)
        for row, own in zip(ROWS, ids, strict=True):
            model.conditioning.open(row[None])
            (model(own[None]).logits.log_softmax(-1)[..., 7].mean() / 3).backward()
        for name, gradient in together.items():
            found = model.get_parameter(name).grad
            torch.testing.assert_close(found, gradient)
