"""Fresh conditioned layers: what a method makes of the options, and how many numbers it trains."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from conftest import make_model, make_tokenizer

from trimtab.arms.conditioned import conditioned_layers
from trimtab.data.tally import RowTally
from trimtab.errors import ConfigError
from trimtab.training.adapt import add_conditioning, condition_dim
from trimtab.training.config import TrainConfig
from trimtab.training.inputs import Inputs

TEXTS = ["happy cat", "sad dog", "big red moon", "very little story", "please sat on the mat"]
NAMES = ["a", "b", "c", "d", "e"]
QKV = ["q_proj", "k_proj", "v_proj"]


def conditioned(
    method: str,
    objectives: int = 2,
    hidden: int = 16,
    *,
    texts: list[str] = TEXTS,
    targets: Any = QKV,
    **options: Any,
) -> Any:
    """A tiny model of one block with fresh conditioned layers."""
    names = NAMES[:objectives]
    described = [f"{n}={text}" for n, text in zip(names, texts, strict=False)]
    config = TrainConfig(
        model="m", data=["d"], output_dir="o", method=method,  # type: ignore[arg-type]
        describe=described if method == "uniarm" else [], **options,
    )  # fmt: skip
    inputs = Inputs(make_tokenizer(), targets, {}, RowTally(), names)
    model = make_model(0, len(inputs.tokenizer), hidden=hidden, layers=1)
    torch.manual_seed(0)
    add_conditioning(model, config, inputs)
    return model


def trained(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def test_parm_by_hand() -> None:
    """Three layers of 16 × 16, rank 8, two objectives: A and B have 2 · 8 · 16 = 256 numbers,

    W1 4² = 16 and U 2 · 4² = 32: 3 · 304 = 912.
    """
    assert trained(conditioned("parm")) == 912


def test_uniarm_by_hand() -> None:
    """Q = 8 · 3 / 8 = 3: G and D have 2 · 8 · 3 = 48 where PARM has 16 + 32, so 912 again."""
    model = conditioned("uniarm")
    assert model.conditioning.vectors.shape == (2, 3)
    assert trained(model) == 912
    assert trained(conditioned("uniarm", shift=False)) == 912 - 3 * 24


def test_the_papers_parm_has_its_parameters() -> None:
    """LLaMA-7B, q, k and v of 32 blocks, r1 = r2 = 4, two objectives: 6,296,064 in the paper.

    96 · (2 · 8 · 4096 + 16 + 32) = 96 · 65,584. The rule for one layer, on a layer of 16.
    """
    [layer] = {trained(conditioned("parm", hidden=16)) // 3}
    assert 96 * (layer - 2 * 8 * 16 + 2 * 8 * 4096) == 6_296_064


def test_uniarm_has_no_more_parameters_than_parm() -> None:
    """At one rank, for two to five objectives and ranks of 6 to 32.

    Odd ranks too: PARM splits them in r1 = r2 + 1, and r1² + K r2² is less than (r / 2)² (1 + K).
    """
    more = []
    for rank in range(6, 33):
        for objectives in range(2, 6):
            r2 = rank // 2
            parm = (rank - r2) ** 2 + objectives * r2**2
            if 2 * rank * condition_dim(rank, objectives) > parm:
                more.append((rank, objectives))
    assert more == []


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_the_smallest_ranks_have_room_for_the_objectives(rank: int) -> None:
    """K objectives differ in K − 1 directions; one alone would leave + and − to their vectors."""
    for objectives in range(2, 6):
        assert condition_dim(rank, objectives) == max(2, objectives - 1)


@pytest.mark.parametrize(("rank", "objectives"), [(4, 3), (8, 2), (8, 5), (16, 3), (32, 2)])
def test_so_do_the_models(rank: int, objectives: int) -> None:
    """Counted on models, where the rule is exact: r (K + 1) is a multiple of 8."""
    uniarm = conditioned("uniarm", objectives, 32, lora_r=rank)
    parm = conditioned("parm", objectives, 32, lora_r=rank)
    assert trained(uniarm) == trained(parm)


@pytest.mark.parametrize("rank", [4, 5, 8])
def test_objectives_can_be_told_apart_at_a_small_rank(rank: int) -> None:
    """Whatever they mean. With Q = 1 a vector scaled to length one would be +1 or −1, so that every
    second pair of descriptions would come to the same."""
    for texts in itertools.combinations(TEXTS, 2):
        vectors = conditioned("uniarm", lora_r=rank, texts=list(texts)).conditioning.vectors
        assert not torch.allclose(vectors[0], vectors[1], atol=0.1)


def test_only_the_adapter_is_trained_and_it_starts_as_the_base() -> None:
    ids = torch.arange(4, 12)[None]
    for method in ("parm", "uniarm"):
        model = conditioned(method)
        own = {id(t) for _, layer in conditioned_layers(model) for t in layer.tensors().values()}
        assert own == {id(w) for w in model.parameters() if w.requires_grad}
        plain = make_model(0, model.config.vocab_size, layers=1)
        with torch.no_grad():
            assert torch.equal(model(ids).logits, plain(ids).logits)


@pytest.mark.parametrize(("asked", "r1", "r2"), [(None, 4, 4), (2, 6, 2), (8, 0, 8)])
def test_preference_r(asked: int | None, r1: int, r2: int) -> None:
    model = conditioned("parm", preference_r=asked)
    for _, layer in conditioned_layers(model):
        assert layer.core.W1.shape == (r1, r1) and layer.core.U.shape == (2, r2 * r2)


def test_condition_dim_of_ones_own() -> None:
    """No more than the embeddings have entries, whatever is asked for."""
    for asked, found in ((2, 2), (16, 16), (99, 16)):
        model = conditioned("uniarm", condition_dim=asked)
        assert model.conditioning.vectors.shape == (2, found)
        assert model.conditioned_config.condition_dim == found
        assert {layer.core.G.shape for _, layer in conditioned_layers(model)} == {(8, found)}


def test_all_linear() -> None:
    model = conditioned("parm", targets="all-linear")
    assert len(dict(conditioned_layers(model))) == 7
    assert model.conditioned_config.target_modules == ("all-linear",)


def test_descriptions_that_say_the_same() -> None:
    with pytest.raises(ConfigError, match="'b' and 'a' are described alike; say what tells them"):
        conditioned("uniarm", texts=["happy cat", "happy cat"])
