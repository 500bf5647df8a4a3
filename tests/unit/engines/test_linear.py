"""Joined linear layers: the same numbers as the layers by themselves, on the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import make_model
from oracle import dense
from rounding import close
from torch import Tensor, nn

from trimtab.arms.adapter import AdapterWeights, LowRank
from trimtab.engines.local.adapted import AdaptedLayer, RowTerms, Terms
from trimtab.engines.local.linear import JointLinear, Piece, clusters, join_layers
from trimtab.models.shared import share_weights

INSIDE = 16
"""Terms of an output: six input features, and a rank of up to three that they go through."""


def pair(rank: int, inside: int, outside: int, generator: torch.Generator) -> LowRank:
    return LowRank(
        torch.randn(rank, inside, generator=generator),
        torch.randn(outside, rank, generator=generator),
    )


def terms_of(count: int, dtype: torch.dtype = torch.float32) -> RowTerms:
    """For so many plain LoRAs."""
    return RowTerms([AdapterWeights({})] * count, dtype=dtype)


def rows_of(requests: int, streams: int, adapters: int) -> Tensor:
    """Requests of a few plain streams and one per adapter, each with all of its own adapter."""
    return torch.eye(streams)[:, streams - adapters :].repeat(requests, 1)


def layers_of(widths: Sequence[int], biases: Sequence[bool], inside: int = 6) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(inside, width, bias=b) for width, b in zip(widths, biases, strict=True)]


def separate(layer: nn.Linear, own: Terms | None, x: Tensor, streams: int) -> Tensor:
    """The layer by itself; the last streams' rows with their low-rank terms as dense matrices."""
    y: Tensor = layer(x)
    for k, term in enumerate(own or ()):
        if term is not None:
            y[streams - len(own or ()) + k :: streams] += (
                x[streams - len(own or ()) + k :: streams] @ (term.b @ term.a).t()
            )
    return y


class TestJointLinear:
    def test_by_hand(self) -> None:
        """x = (1, 2). Layer one: (1 1) gives 3, with bias ½ 3.5. Layer two: (0 1) gives 2.

        Stream 1 adds to layer two A = (1 1), B = 10: 30, in all 32.
        """
        one, two = nn.Linear(2, 1), nn.Linear(2, 1, bias=False)
        one.weight.data, one.bias.data = torch.tensor([[1.0, 1.0]]), torch.tensor([0.5])
        two.weight.data = torch.tensor([[0.0, 1.0]])
        terms = terms_of(1)
        own: Terms = [LowRank(torch.tensor([[1.0, 1.0]]), torch.tensor([[10.0]]))]
        joint = JointLinear([one, two], [None, own], terms, pack=False)
        terms.open(rows_of(1, 2, 1))
        x = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]]])
        with torch.no_grad():
            assert joint.output(0, x).flatten().tolist() == [3.5, 3.5]
            assert joint.output(1, x).flatten().tolist() == [2.0, 32.0]

    @pytest.mark.parametrize("biases", [(False,) * 3, (True,) * 3, (False, True, False)])
    @pytest.mark.parametrize("where", ["none", "all", "first", "last", "middle"])
    @pytest.mark.parametrize("tokens", [1, 5])
    def test_is_the_layers(self, biases: tuple[bool, ...], where: str, tokens: int) -> None:
        """Widths 4, 3 and 5; two requests of three streams: plain, rank 2 and rank 3."""
        widths, streams = (4, 3, 5), 3
        layers = layers_of(widths, biases)
        before = [layer.weight.detach().clone() for layer in layers]
        generator = torch.Generator().manual_seed(1)
        chosen = {"none": (), "all": (0, 1, 2), "first": (0,), "last": (2,), "middle": (1,)}[where]
        pairs: list[Terms | None] = [
            [pair(2, 6, width, generator), pair(3, 6, width, generator)] if i in chosen else None
            for i, width in enumerate(widths)
        ]
        if where == "all":
            pairs[1] = [None, pair(3, 6, 3, generator)]
        terms = terms_of(2) if chosen else None
        x = torch.randn(2 * streams, tokens, 6, generator=generator)
        with torch.no_grad():
            expected = [separate(a, b, x, streams) for a, b in zip(layers, pairs, strict=True)]
            joint = JointLinear(layers, pairs, terms, pack=False)
            if terms:
                terms.open(rows_of(2, streams, 2).repeat_interleave(tokens, 0))
            for _ in range(2):  # nothing is left over from the round before
                for index in range(3):
                    close(joint.output(index, x), expected[index], terms=INSIDE)
            for layer, weight, own, y in zip(layers, before, pairs, expected, strict=True):
                assert torch.equal(layer.weight, weight)
                if not own:
                    close(layer(x), y, terms=INSIDE)

    @pytest.mark.parametrize("wide", [False, True])
    @pytest.mark.parametrize("tokens", [1, 5])
    def test_rows_of_one_adapter_by_preference(self, tokens: int, wide: bool) -> None:
        """Four rows, four preferences among three objectives, one of them none at all.

        With 40 columns per layer the layers' factors B are no longer one matrix with zeros.
        """
        layers, rank = layers_of((4, 3, 5), (True, False, True)), 40 if wide else 2
        generator = torch.Generator().manual_seed(3)
        tables = [torch.randn(2, 3, rank, generator=generator) for _ in layers]
        own = [
            replace(pair(rank, 6, layer.out_features, generator), gain=gain, shift=shift)
            for layer, (gain, shift) in zip(layers, tables, strict=True)
        ]
        own[1] = replace(own[1], shift=None)
        rows = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
        x = torch.randn(4, tokens, 6, generator=generator)
        terms = RowTerms([AdapterWeights({}, ("a", "b", "c"))])
        with torch.no_grad():
            plain = [layer(x) for layer in layers]
            joint = JointLinear(layers, [[term] for term in own], terms, pack=False)
            terms.open(rows.repeat_interleave(tokens, 0))
            assert len(joint._blocks) == (3 if wide else 1)
            for index, term in enumerate(own):
                found, expected = joint.output(index, x), plain[index]
                for row, preference in enumerate(rows.tolist()):
                    weight, bias = dense(term, preference)
                    expected[row] += x[row] @ weight.t() + (0.0 if bias is None else bias)
                close(found, expected, terms=INSIDE + rank)

    def test_another_input_is_another_product(self) -> None:
        """Asked out of order, or with a new input halfway: never the old input's output."""
        layers = layers_of((4, 3), (True, True))
        joint = JointLinear(layers, [None, None], None, pack=False)
        x, y = torch.randn(2, 3, 1, 6)
        with torch.no_grad():
            for index, given in ((1, x), (0, x), (0, y), (1, y), (0, x), (1, y), (1, x)):
                close(joint.output(index, given), layers[index](given), terms=INSIDE)

    def test_one_matrix_in_memory(self) -> None:
        layers = layers_of((4, 3), (False, False))
        joint = JointLinear(layers, [None, None], None, pack=False)
        blocks = {layer.weight.untyped_storage().data_ptr() for layer in layers}
        assert blocks == {joint._weight.untyped_storage().data_ptr()}
        layers[1].weight.data.fill_(0)
        with torch.no_grad():
            assert joint.output(1, torch.randn(1, 1, 6)).abs().max() == 0

    @pytest.mark.parametrize("rows", [1, 3, 17])
    def test_packed_in_half_precision(self, rows: int) -> None:
        """bfloat16 keeps 8 bits: two orders of summation differ by a few of its steps of 2⁻⁸."""
        layers = [layer.bfloat16() for layer in layers_of((32, 16), (True, False), inside=64)]
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(rows, 1, 64, generator=generator).bfloat16()
        term = pair(4, 64, 32, generator)
        own: Terms = [LowRank(term.a.bfloat16(), term.b.bfloat16())]
        found = []
        for pack in (False, True):
            mine = [nn.Linear(64, 32).bfloat16(), nn.Linear(64, 16, bias=False).bfloat16()]
            for copy, layer in zip(mine, layers, strict=True):
                copy.load_state_dict(layer.state_dict())
            terms = terms_of(1, torch.bfloat16)
            joint = JointLinear(mine, [own, None], terms, pack=pack)
            terms.open(rows_of(rows, 1, 1))
            with torch.no_grad():
                found.append([joint.output(i, x).float() for i in range(2)])
        with torch.no_grad():
            exact = [separate(a, b, x, 1).float() for a, b in zip(layers, (own, None), strict=True)]
        for plain, packed, expected in zip(*found, exact, strict=True):
            # sums are in float32; what is rounded to bfloat16 is x A, its product with B, and y
            for other in (plain, expected):
                close(packed.bfloat16(), other.bfloat16(), terms=3, factor=4)

    @pytest.mark.parametrize("rows", [1, 2, 9])
    def test_packed_in_float32(self, rows: int) -> None:
        """The same products in another order of summation; each layer's weight is still there."""
        layers = layers_of((32, 16), (True, False), inside=64)
        weights = [layer.weight.detach().clone() for layer in layers]
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(rows, 1, 64, generator=generator)
        own: Terms = [pair(4, 64, 32, generator)]
        terms = terms_of(1)
        with torch.no_grad():
            exact = [separate(a, b, x, 1) for a, b in zip(layers, (own, None), strict=True)]
            joint = JointLinear(layers, [own, None], terms, pack=True)
            terms.open(rows_of(rows, 1, 1))
            found = [joint.output(i, x) for i in range(2)]
        for one, other in zip(found, exact, strict=True):
            close(one, other)
        for index, weight in enumerate(weights):
            assert Piece(joint, index, layers[index]).weight.equal(weight)


class TestJoinLayers:
    def adapter(self, seed: int, rank: int, names: Sequence[str], model: Any) -> AdapterWeights:
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for name in names:
            layer = model.get_submodule(name)
            term = pair(rank, layer.in_features, layer.out_features, generator)
            found[name] = LowRank(0.3 * term.a, 0.3 * term.b)
        return AdapterWeights(found)

    def test_a_model_and_two_adapters(self) -> None:
        """Of unequal ranks, on some layers of some blocks, on the MLP and on the LM head."""
        model = make_model(1, 20)
        ids = torch.randint(4, 20, (3, 7), generator=torch.Generator().manual_seed(0))
        block = "model.layers.{}.{}"
        adapters = [
            self.adapter(3, 2, [block.format(0, "self_attn.q_proj"), "lm_head"], model),
            self.adapter(
                4, 5, [block.format(i, f"mlp.{n}_proj") for i in (0, 1) for n in ("up", "down")],
                model,
            ),
        ]  # fmt: skip
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            plain = model(ids[:1]).logits
        expected = [plain]
        for row, adapter in zip((1, 2), adapters, strict=True):
            whole = make_model(1, 20)
            for name, term in adapter.layers.items():
                whole.get_submodule(name).weight.data += term.b @ term.a
            with torch.no_grad():
                expected.append(whole(ids[row : row + 1]).logits)

        twin = share_weights(model)
        terms = join_layers(twin, adapters, pack=False)
        assert terms is not None
        assert terms.widths == [1, 1]
        terms.open(rows_of(1, 3, 2).repeat_interleave(ids.shape[1], 0))
        assert terms._gain_MX.shape == (3 * ids.shape[1], 2 * 2 + 5 * 4)  # ranks times layers
        with torch.no_grad():
            found = twin(ids, use_cache=False).logits
            close(found, torch.cat(expected))
            assert torch.equal(model(ids[:1]).logits, plain)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name])
        blocks = {
            module._joint._weight.untyped_storage().data_ptr()
            for module in twin.modules()
            if isinstance(module, Piece)
        }
        linear = [module for module in model.modules() if type(module) is nn.Linear]
        assert {layer.weight.untyped_storage().data_ptr() for layer in linear} == blocks

    def test_which_layers_go_together(self) -> None:
        found = [
            [name.rpartition(".")[2] for name in names]
            for names in clusters(make_model(1, 20, layers=1))
        ]
        assert sorted(found) == [
            ["down_proj"], ["gate_proj", "up_proj"], ["lm_head"], ["o_proj"],
            ["q_proj", "k_proj", "v_proj"],
        ]  # fmt: skip

    def test_layers_that_do_not_read_alike_stay_apart(self) -> None:
        """Names alone are not enough: another input width, or only some of the three."""

        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.gate_proj, self.up_proj = nn.Linear(4, 3), nn.Linear(5, 3)
                self.q_proj, self.v_proj = nn.Linear(4, 3), nn.Linear(4, 3)

        odd = Odd()
        x, y = torch.randn(2, 1, 4), torch.randn(2, 1, 5)
        with torch.no_grad():
            expected = [odd.gate_proj(x), odd.up_proj(y), odd.q_proj(x), odd.v_proj(x)]
            assert join_layers(odd, [], pack=False) is None
            found = [odd.gate_proj(x), odd.up_proj(y), odd.q_proj(x), odd.v_proj(x)]
        for one, other in zip(found, expected, strict=True):
            close(one, other, terms=5)

    def test_a_model_may_ask_a_layer_for_its_weight(self) -> None:
        """Mamba, RWKV and some routers multiply by `layer.weight` themselves."""
        model = make_model(1, 20)
        own = model.model.layers[0].mlp.up_proj.weight
        twin = share_weights(model)
        join_layers(twin, [], pack=False)
        assert torch.equal(twin.model.layers[0].mlp.up_proj.weight, own)
        assert twin.model.layers[0].mlp.up_proj.bias is None

    def test_what_is_not_a_plain_linear_layer(self) -> None:
        """A subclass, as quantised layers are, keeps its forward and gets its term beside it."""

        class Doubled(nn.Linear):
            def forward(self, input: Tensor) -> Tensor:
                return 2 * super().forward(input)

        model = nn.Sequential(Doubled(4, 4, bias=False))
        adapter = self.adapter(1, 2, ["0"], model)
        x = torch.randn(2, 1, 4)
        term = adapter.layers["0"]
        with torch.no_grad():
            expected = model(x).clone()
            expected[1:] += x[1:] @ (term.b @ term.a).t()
            terms = join_layers(model, [adapter], pack=False)
            assert terms is not None
            assert isinstance(model[0], AdaptedLayer)
            terms.open(rows_of(1, 2, 1))
            close(model(x), expected, terms=4)
