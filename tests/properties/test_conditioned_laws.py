"""The laws of the rule for ARMs that take the preference as input, and for soups of ARMs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conditioned import with_core
from hypothesis import given
from hypothesis import strategies as st
from oracle import alone, stream, with_lora
from safetensors.torch import load_file, save_file
from test_laws import (
    PROMPTS,
    SAMPLED,
    Local,
    Reference,
    few,
    preferences,
    prompts,
    same,
    seeds,
    strengths,
)
from torch import Tensor

from trimtab.arms.adapter import soup
from trimtab.arms.conditioned import Core
from trimtab.arms.conditioned_files import read_conditioned
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.streams import Stream
from trimtab.engines.types import Request

SIZE = 12
KINDS = ("bilinear", "affine", "soup")


def soup_of(loras: Sequence[Stream]) -> Stream:
    """Plain LoRAs of one base as one ARM."""
    mixed = soup({lora.name: lora.adapter for lora in loras})
    return replace(loras[0], name="+".join(lora.name for lora in loras), adapter=mixed)


def loras_on(base: Stream) -> list[Stream]:
    """Of unequal ranks, and one of them on other layers."""
    return [
        with_lora(base, "a", 3),
        with_lora(base, "b", 4, rank=3),
        with_lora(base, "c", 5, layers=("v_proj", "up_proj")),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arms")


@pytest.fixture(scope="module")
def base() -> Stream:
    return stream("base", 1, SIZE)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def arm(kind: str, base: Stream, folder: Path) -> Stream:
    """One ARM for a, b and c."""
    if kind == "soup":
        return soup_of(loras_on(base))
    core: Core = "affine" if kind == "affine" else "bilinear"
    return with_core(base, "x", core, folder / kind)


@pytest.fixture(scope="module")
def engine(base: Stream, arm: Stream) -> LocalEngine:
    return LocalEngine(base, [arm])


@pytest.fixture(scope="module", params=[Local(), Reference()], ids=["local", "reference"])
def run(request: pytest.FixtureRequest) -> Any:
    return request.param


@st.composite
def asked(draw: Any) -> Request:
    """A drawn request at any preference among a, b and c."""
    sampling = SAMPLED.but(seed=draw(seeds))
    return Request(draw(prompts), draw(preferences), draw(strengths), sampling)


@few
@given(request=asked())
def test_strength_zero_is_the_base(run: Any, engine: LocalEngine, request: Request) -> None:
    """Whatever the preference; and within one run bit for bit."""
    unsteered = replace(request, strength=0.0)
    same(run, engine, alone(engine), unsteered, replace(unsteered, preference=None))
    [answer] = engine.generate([unsteered], report=True)
    assert all(token.logp_fused == token.logp_base for token in answer.tokens)


@few
@given(data=st.data())
def test_the_order_of_objectives_changes_nothing(
    run: Any, kind: str, base: Stream, engine: LocalEngine, folder: Path, data: st.DataObject
) -> None:
    """The ARM has them in another order, with their weights inside it, and so has the request."""
    order = data.draw(st.permutations(range(3)))
    request = data.draw(asked())
    if kind == "soup":
        loras = loras_on(base)
        other = soup_of([loras[i] for i in order])
    else:
        other = replace(engine.arms[0], adapter=reordered(folder / kind, order))
    assert isinstance(request.preference, dict)
    turned = {"abc"[i]: request.preference["abc"[i]] for i in order}
    permuted = LocalEngine(base, [other])
    assert permuted.objectives == ["abc"[i] for i in order]
    same(run, engine, permuted, request, replace(request, preference=turned))


def reordered(folder: Path, order: Sequence[int]) -> Any:
    """A folder's adapter with its objectives in another order, read back from a folder."""

    def change(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        for key in tensors:
            if key.endswith("core.U") or key == "condition.vectors":
                tensors[key] = tensors[key][list(order)].contiguous()
        facts["objectives"] = [facts["objectives"][i] for i in order]

    return changed(folder, change)


def changed(folder: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> Any:
    """The adapter of a copy of a folder whose tensors and config were changed."""
    copy = folder.with_name(folder.name + "-changed")
    copy.mkdir(exist_ok=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    facts = json.loads((folder / "adapter_config.json").read_text())
    change(tensors, facts)
    save_file(tensors, copy / "adapter_model.safetensors")
    (copy / "adapter_config.json").write_text(json.dumps(facts))
    return read_conditioned(str(copy), dtype=torch.float32, device="cpu")


@few
@given(request=asked(), factor=st.sampled_from([0.01, 0.3, 3.0, 1000.0]))
def test_weights_off_the_simplex_are_normalised(
    run: Any, engine: LocalEngine, request: Request, factor: float
) -> None:
    """The ARM takes in what sums to one, whatever the request's weights come to."""
    assert isinstance(request.preference, dict)
    total = sum(request.preference.values())
    normal = {name: weight / total for name, weight in request.preference.items()}
    larger = {name: weight * factor for name, weight in request.preference.items()}
    for preference in (normal, larger):
        same(run, engine, engine, request, replace(request, preference=preference))
        [inner] = engine.plan(replace(request, preference=preference)).conditions.values()
        assert sum(inner) == pytest.approx(1)
        assert inner == pytest.approx([*normal.values()])


def test_scale_multiplies_strength(run: Any, base: Stream, arm: Stream) -> None:
    """Scale ½ at strength 3 is scale 1 at strength 1.5, at the same preference inside."""
    halved, whole = LocalEngine(base, [replace(arm, scale=0.5)]), LocalEngine(base, [arm])
    for seed, prompt in enumerate(PROMPTS):
        request = Request(prompt, "a=0.5,b=0.2,c=0.3", 3.0, SAMPLED.but(seed=seed))
        same(run, halved, whole, request, replace(request, strength=1.5))


class TestSoup:
    @pytest.mark.parametrize("name", ["a", "b", "c"])
    def test_a_one_hot_preference_is_the_single_arm(
        self, run: Any, base: Stream, name: str
    ) -> None:
        loras = loras_on(base)
        [single] = [lora for lora in loras if lora.name == name]
        mixed, one = LocalEngine(base, [soup_of(loras)]), LocalEngine(base, [single])
        one_hot = {other: float(other == name) for other in "abc"}
        for seed, prompt in enumerate(PROMPTS):
            request = Request(prompt, one_hot, 1.5, SAMPLED.but(seed=seed))
            same(run, mixed, one, request, replace(request, preference=None))

    @few
    @given(request=asked())
    def test_of_three_times_the_same_arm(self, run: Any, base: Stream, request: Request) -> None:
        """The preference is irrelevant, and the soup is that ARM."""
        lora = with_lora(base, "a", 3)
        thrice = soup_of([replace(lora, name=name) for name in "abc"])
        one = replace(request, preference=None)
        same(run, LocalEngine(base, [thrice]), LocalEngine(base, [lora]), request, one)

    def test_is_not_fusion(self, base: Stream) -> None:
        """Averaged updates and averaged log-probs are two methods; so are averaged A and B."""
        loras = loras_on(base)
        mixed, fused = LocalEngine(base, [soup_of(loras)]), LocalEngine(base, loras)
        request = Request(PROMPTS[2], None, 1.0, SAMPLED)
        one, two = (Local().fused(engine, request) for engine in (mixed, fused))
        assert one != pytest.approx(two, abs=0.01)


@few
@given(one=asked(), weights=preferences)
@pytest.mark.parametrize("core", ["bilinear", "affine"])
def test_equal_objectives_make_the_preference_irrelevant(
    run: Any, base: Stream, folder: Path, core: Core, one: Request, weights: dict[str, float]
) -> None:
    """PARM with U_a = U_b = U_c, or UniARM with one vector for all: W2(p) and c(p) are constant."""
    own = folder / f"equal {core}"
    arm = with_core(base, "x", core, own)

    def level(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        for key in tensors:
            if key.endswith("core.U") or key == "condition.vectors":
                tensors[key] = tensors[key][:1].repeat(3, 1)

    engine = LocalEngine(base, [replace(arm, adapter=changed(own, level))])
    same(run, engine, engine, one, replace(one, preference=weights))
    different = LocalEngine(base, [arm])
    ends = [replace(one, preference={n: float(n == e) for n in "abc"}, strength=2) for e in "ab"]
    first, second = (different.generate([end], report=True)[0].tokens[0] for end in ends)
    assert (first.token_id, first.logp_fused) != (second.token_id, second.logp_fused)
