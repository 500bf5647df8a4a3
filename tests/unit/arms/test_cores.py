"""What a preference does between the low-rank factors: by hand, and the same in all three forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from oracle import dense
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trimtab.arms.conditioned import (
    ConditionedConfig,
    ConditionedLayer,
    Conditioning,
    condition_model,
    conditioned_layers,
)
from trimtab.arms.cores import AffineCore, BilinearCore, Mix
from trimtab.training.adapt import condition_dim

many = examples(60)
LLAMA_7B: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 32000,
}  # fmt: skip


def mix(*preferences: list[float], vectors: Tensor | None = None) -> Mix:
    """Rows' preferences; objectives have no vectors unless they are given, [K, Q]."""
    p = torch.tensor(preferences)
    return Mix(p, p @ (torch.zeros(p.shape[1], 0) if vectors is None else vectors))


def config_of(core: Any, objectives: int, **changes: Any) -> ConditionedConfig:
    names = tuple(f"o{i}" for i in range(objectives))
    values: dict[str, Any] = {"r": 8, "preference_r": 4, "condition_dim": 3, **changes}
    return ConditionedConfig(
        core, names, lora_alpha=8.0, lora_dropout=0.0,
        **{"target_modules": ("q_proj", "k_proj", "v_proj"), **values},
    )  # fmt: skip


def fill(core: nn.Module, **values: Any) -> None:
    for name, value in values.items():
        getattr(core, name).data = torch.tensor(value)


class TestByHand:
    def test_bilinear(self) -> None:
        """R = 3 with r2 = 2; W1 = 3; U_a takes (x, y) to (y, 0) and U_b takes it to (0, x).

        z = (1, 5, 7): 3 · 1 = 3. At p = (1, 0) (7, 0), at (½, ½) (3.5, 2.5), at (0, 1) (0, 5).
        """
        core = BilinearCore(2, 3, 2)
        fill(core, W1=[[3.0]], U=[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
        rows = mix([1.0, 0.0], [0.5, 0.5], [0.0, 1.0])
        found = core.apply_rows(torch.tensor([[[1.0, 5.0, 7.0]]]).repeat(3, 1, 1), rows)
        assert found[:, 0].tolist() == [[3.0, 7.0, 0.0], [3.0, 3.5, 2.5], [3.0, 0.0, 5.0]]

    def test_bilinear_folded(self) -> None:
        """R = 2, r2 = 1, W1 = 3, U = 10 and 20; p = (¼, ¾): W2 = 2.5 + 15 = 17.5.

        B = (1 1; 0 2) becomes (3 17.5; 0 35).
        """
        core = BilinearCore(2, 2, 1)
        fill(core, W1=[[3.0]], U=[[10.0], [20.0]])
        folded, bias = core.fold(torch.tensor([[1.0, 1.0], [0.0, 2.0]]), mix([0.25, 0.75]))
        assert folded.tolist() == [[3.0, 17.5], [0.0, 35.0]]
        assert bias is None

    def test_bilinear_as_columns(self) -> None:
        """The same core and B: A1, then A2 once per objective; up by 3 B1, 10 B2 and 20 B2.

        The first column is every objective's, the others are their own.
        """
        core = BilinearCore(2, 2, 1)
        fill(core, W1=[[3.0]], U=[[10.0], [20.0]])
        a, b = torch.tensor([[7.0], [8.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
        term = core.columns(a, b, mix([1.0, 0.0], [0.0, 1.0]))
        assert term.gain is not None and term.shift is None
        assert term.a.flatten().tolist() == [7.0, 8.0, 8.0]
        assert term.b.tolist() == [[3.0, 10.0, 20.0], [0.0, 20.0, 40.0]]
        assert term.gain.tolist() == [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]

    def test_affine(self) -> None:
        """Q = 1, R = 2, G = (1; 0), D = (0; 4), objectives at 1 and −1.

        p = (¾, ¼): c = ½, gain (1.5, 1), shift (0, 2): z = (2, 3) becomes (3, 5).
        p = (½, ½): c = 0, and z stays z. p = (0, 1): c = −1, gain (0, 1), shift (0, −4): (0, −1).
        """
        core = AffineCore(1, 2)
        fill(core, G=[[1.0], [0.0]], D=[[0.0], [4.0]])
        vectors = torch.tensor([[1.0], [-1.0]])
        rows = mix([0.75, 0.25], [0.5, 0.5], [0.0, 1.0], vectors=vectors)
        found = core.apply_rows(torch.tensor([[[2.0, 3.0]]]).repeat(3, 1, 1), rows)
        assert found[:, 0].tolist() == [[3.0, 5.0], [2.0, 3.0], [0.0, -1.0]]

    def test_affine_folded_and_as_columns(self) -> None:
        """The same core at c = ½ with B = (1 10): B diag(1.5, 1) = (1.5 10), bias 10 · 2 = 20.

        Columns keep A and B; the objectives at c = ±1 gain (2, 1) and (0, 1), shift (0, ±4).
        """
        core = AffineCore(1, 2)
        fill(core, G=[[1.0], [0.0]], D=[[0.0], [4.0]])
        vectors, b = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, 10.0]])
        folded, bias = core.fold(b, mix([0.75, 0.25], vectors=vectors))
        assert bias is not None
        assert (folded.tolist(), bias.tolist()) == ([[1.5, 10.0]], [20.0])
        term = core.columns(torch.eye(2), b, mix([1.0, 0.0], [0.0, 1.0], vectors=vectors))
        assert term.gain is not None and term.shift is not None
        assert term.gain.tolist() == [[2.0, 1.0], [0.0, 1.0]]
        assert term.shift.tolist() == [[0.0, 4.0], [0.0, -4.0]]
        assert torch.equal(term.a, torch.eye(2)) and torch.equal(term.b, b)


@st.composite
def cores(draw: Any) -> tuple[Any, Tensor, Tensor, Tensor, Tensor, Mix]:
    """A random core; A, B, x [N, T, in]; objective vectors; the rows' preferences."""
    k, n, t = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    r1, r2 = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    ins, outs, q = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    kind = draw(st.sampled_from(["bilinear", "affine", "affine without shift"]))
    core: Any = AffineCore(q, r1 + r2, shift=kind == "affine")
    if kind == "bilinear":
        core = BilinearCore(k, r1 + r2, r2)
    core.double()

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for weight in core.parameters():
        weight.data = random(*weight.shape)
    a, b, x = random(r1 + r2, ins), random(outs, r1 + r2), random(n, t, ins)
    weights = torch.tensor(
        [[draw(st.floats(0.0625, 8.0, width=32)) for _ in range(k)] for _ in range(n)],
        dtype=torch.float64,
    )
    p, vectors = weights / weights.sum(-1, keepdim=True), random(k, q)
    return core, a, b, x, vectors, Mix(p, p @ vectors)


@many
@given(cores())
@torch.no_grad()
def test_three_forms_of_one_core(given: Any) -> None:
    """Rows by their own preference, folded into B, and columns with gains: one update."""
    core, a, b, x, vectors, rows = given
    by_row = core.apply_rows(x @ a.t(), rows) @ b.t()
    term = core.columns(a, b, Mix(torch.eye(len(vectors), dtype=torch.float64), vectors))
    for i, preference in enumerate(rows.preference):
        folded, bias = core.fold(b, Mix(rows.preference[i : i + 1], rows.vector[i : i + 1]))
        own = x[i] @ a.t() @ folded.t() + (0.0 if bias is None else bias)
        torch.testing.assert_close(own, by_row[i])
        weight, shift = dense(term, preference.tolist())
        own = x[i] @ weight.t() + (0.0 if shift is None else shift)
        torch.testing.assert_close(own, by_row[i])


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("core", ["bilinear", "affine"])
def test_at_the_start_the_layer_is_the_frozen_one(core: Any, rows: int) -> None:
    """B = 0: bit for bit, for one preference and for one per row."""
    inner, config = nn.Linear(5, 4), config_of(core, 2)
    conditioning = Conditioning(config.objectives, torch.randn(2, 3))
    layer = ConditionedLayer(inner, config, conditioning)
    conditioning.open(torch.tensor([[0.3, 0.7]] * rows))
    x = torch.randn(2, 3, 5)
    assert torch.equal(layer(x), inner(x))
    assert bool(layer.lora_A.abs().sum() > 0)


def test_affine_tells_objectives_apart_from_the_start() -> None:
    """γ = G c with c of length √Q has a deviation of 1: G's entries have 1 / √Q.

    20,000 independent rows: the sample deviation is within .02 but for odds of 1 in 10,000
    (its own deviation is 1 / √40,000 = .005). D starts at zero.
    """
    torch.manual_seed(0)
    for features in (2, 6):
        core = AffineCore(features, 20_000)
        vector = torch.randn(1, features)
        vector *= features**0.5 / vector.norm()
        gain = core._gain(vector)[0].detach()
        assert float(gain.std()) == pytest.approx(1.0, abs=0.02)
        assert float(gain.mean()) == pytest.approx(1.0, abs=0.04)
        assert core.D is not None and not core.D.any()


def test_affine_without_modulation_is_plain_lora() -> None:
    """G = D = 0: y = W x + s · B A x at any preference, s = 8 / 8; G and D do get a gradient."""
    inner, config = nn.Linear(5, 4), config_of("affine", 2)
    conditioning = Conditioning(config.objectives, torch.randn(2, 3))
    layer = ConditionedLayer(inner, config, conditioning).double()
    layer.lora_B.data.normal_()
    layer.core.G.data.zero_()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    expected = inner(x) + x @ layer.lora_A.t() @ layer.lora_B.t()
    for rows in ([[0.3, 0.7]], [[1.0, 0.0], [0.2, 0.8]]):
        conditioning.open(torch.tensor(rows))
        torch.testing.assert_close(layer(x), expected)
    layer(x).square().sum().backward()
    assert all(bool(weight.grad.abs().sum() > 0) for weight in layer.core.parameters())


class TestParameters:
    def count(self, config: ConditionedConfig, **shape: Any) -> int:
        """Trained parameters of a LLaMA, counted without memory for them."""
        with torch.device("meta"):
            llama = transformers.LlamaConfig(**{**LLAMA_7B, **shape})
            model = transformers.AutoModelForCausalLM.from_config(llama)
        model = condition_model(model, config)
        trained = {name: w.numel() for name, w in model.named_parameters() if w.requires_grad}
        saved = [t for _, layer in conditioned_layers(model) for t in layer.tensors().values()]
        assert sum(trained.values()) == sum(t.numel() for t in saved)
        return sum(trained.values())

    @pytest.mark.parametrize("core", ["bilinear", "affine"])
    def test_llama_7b(self, core: Any) -> None:
        """3 · 32 layers of A and B, 2 · 8 · 4096 = 65,536 each, and a core.

        Bilinear: W1 4 · 4 and two U of 4 · 4, 48. Affine: G and D, 2 · 8 · 3 = 48.
        96 · (65,536 + 48) = 6,296,064, as PARM's paper has it.
        """
        assert self.count(config_of(core, 2)) == 6_296_064

    def test_affine_has_no_weight_per_objective(self) -> None:
        """Two objectives or nine; PARM's cores grow by 16 weights for each."""
        small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "intermediate_size": 8, "vocab_size": 9}  # fmt: skip
        affine = [self.count(config_of("affine", k), **small) for k in (2, 9)]
        bilinear = [self.count(config_of("bilinear", k), **small) for k in (2, 9)]
        assert affine[0] == affine[1] == bilinear[0]
        assert bilinear[1] == bilinear[0] + 7 * 16 * 3

    @pytest.mark.parametrize("rank", range(8, 17))
    def test_by_default_affine_has_no_more_than_bilinear(self, rank: int) -> None:
        """2 r Q against r1² + K · r2² with training's r2 = r / 2, for one to eight objectives."""
        for objectives in range(1, 9):
            bilinear = BilinearCore(objectives, rank, rank // 2)
            affine = AffineCore(condition_dim(rank, objectives), rank)
            counts = [sum(w.numel() for w in core.parameters()) for core in (affine, bilinear)]
            assert counts[0] <= counts[1], f"{objectives} objectives"


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made, not looked at, while it is entered."""

    def __init__(self, *known: nn.Module) -> None:
        super().__init__()
        self.known = {w.untyped_storage().data_ptr() for m in known for w in m.parameters()}
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("core", ["bilinear", "affine"])
def test_never_a_dense_update(core: Any, rows: int) -> None:
    """64 x 64 features, three rows of two tokens: nothing of 4096 elements, back and forth."""
    inner = nn.Linear(64, 64).requires_grad_(False)
    config = config_of(core, 2)
    conditioning = Conditioning(config.objectives, torch.randn(2, 3))
    layer = ConditionedLayer(inner, config, conditioning)
    layer.lora_B.data.normal_()
    conditioning.open(torch.tensor([[0.3, 0.7]] * rows))
    x = torch.randn(3, 2, 64, requires_grad=True)
    with Largest(layer) as seen:
        layer(x).square().sum().backward()
    assert 0 < seen.elements <= 64 * 8
    with Largest(layer) as seen:
        torch.mm(layer.lora_B, layer.lora_A)
    assert seen.elements == 64 * 64  # else it would see nothing
