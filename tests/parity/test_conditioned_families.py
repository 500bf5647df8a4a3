"""Preferences inside the ARM on other families than Llama, in half precision and quantised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conditioned import CORES, conditioned, save_arm, with_core
from conftest import make_model, make_tokenizer
from oracle import GREEDY, is_specified, next_logp, templated
from rounding import nats
from test_architectures import IN_SLOTS, OWN_CACHES, PROMPTS, stream_of

import trimtab
from trimtab.arms.conditioned import Core
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.types import Request
from trimtab.models.types import Quantization

LAYERS = ("q_proj", "v_proj", "query_key_value", "in_proj", "in_proj_qkvz", "out_proj")
PREFERENCES = [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.6, 0.4]]
LONGER = "w5 w6 w7 w8 w9 w2 w3"


def agrees(engine: LocalEngine) -> None:
    """Three requests with a preference each, in one batch: tokens and rewards.

    The first is done after two tokens; the last one goes on in its slot.
    """
    settings = ((2, 0.0), (8, 1.0), (6, 0.0))
    requests = [
        Request(
            prompt,
            dict(zip("abc", p, strict=True)),
            1.5,
            GREEDY.but(max_new_tokens=count, temperature=temperature, seed=i),
        )
        for i, (prompt, p, (count, temperature)) in enumerate(
            zip(PROMPTS, PREFERENCES, settings, strict=True)
        )
    ]
    answers = engine.generate(requests, report=True)
    [arm] = engine.arms
    for request, answer in zip(requests, answers, strict=True):
        plan = engine.plan(replace(request, report=True))
        for t, token in enumerate(answer.tokens):
            said = plan.prompts[arm.name] + list(answer.token_ids[:t])
            logp = next_logp(arm, said, plan.conditions[arm.name])[token.token_id]
            assert token.rewards[arm.name] == nats(float(logp))
        assert is_specified(engine, request, answer.token_ids)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(
    "family",
    ["gpt2", "opt", "mistral, short window", "gemma2, soft caps", "llama, tied", "gpt_oss, sinks",
     "deepseek_v3", "phi3, short window"],
)  # fmt: skip
def test_packed(family: str, core: Core, tmp_path: Path) -> None:
    """All linear layers, transposed ones (GPT-2) and joined ones too."""
    base = stream_of("base", IN_SLOTS[family](), 1)
    engine = LocalEngine(base, [with_core(base, "x", core, tmp_path, layers=("all-linear",))])
    assert [group.packable for group in engine.groups] == [True]
    agrees(engine)


@pytest.mark.parametrize("longer", ["neither", "arm", "base"])
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", ["bloom", "falcon", "mamba", "mamba2", "lfm2", "qwen3_next"])
def test_own_caches(family: str, core: Core, longer: str, tmp_path: Path) -> None:
    """Streams of one request that read prompts of unequal length: a recurrent state must take in
    nothing of what fills the shorter one up, a shift least of all."""
    base = stream_of("base", OWN_CACHES[family](), 1)
    arm = with_core(base, "x", core, tmp_path, layers=LAYERS)
    if longer != "neither":
        base, arm = (
            templated(s, LONGER) if s.name == {"arm": "x"}.get(longer, longer) else s
            for s in (base, arm)
        )
    engine = LocalEngine(base, [arm])
    assert [group.packable for group in engine.groups] == [False]
    agrees(engine)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("family", ["mamba", "jamba", "hunyuan moe"])
def test_models_that_look_at_a_layers_weight(family: str, core: Core) -> None:
    """They multiply by `dt_proj.weight` themselves, or ask a router for its weight's type."""
    torch.manual_seed(0)
    config = {**IN_SLOTS, **OWN_CACHES}[family]()
    plain = transformers.AutoModelForCausalLM.from_config(config).eval()
    model = conditioned(plain, core, layers=("all-linear",))
    with torch.no_grad():
        assert model(torch.arange(1, 7)[None]).logits.isfinite().all()


def texts(engine: LocalEngine, **sampling: Any) -> list[Request]:
    prompts = ["the cat sat", "hello thank you", "moon"]
    return [
        Request(prompt, dict(zip("abc", p, strict=True)), 1.0, GREEDY.but(**sampling, seed=i))
        for i, (prompt, p) in enumerate(zip(prompts, PREFERENCES, strict=True))
    ]


def gap(engine: LocalEngine, exact: LocalEngine, requests: list[Request]) -> float:
    """The largest difference, nats, of an engine's rewards from the exact specification's."""
    largest = 0.0
    for request, answer in zip(requests, engine.generate(requests, report=True), strict=True):
        plan = exact.plan(request)
        for t, token in enumerate(answer.tokens):
            said = plan.prompts["x"] + list(answer.token_ids[:t])
            logp = next_logp(exact.arms[0], said, plan.conditions["x"])[token.token_id]
            largest = max(largest, abs(token.rewards["x"] - float(logp)))
    return largest


@pytest.mark.parametrize("speculate", ["off", "on"])
@pytest.mark.parametrize("core", CORES)
def test_half_precision(base_dir: Path, tmp_path: Path, core: Core, speculate: Any) -> None:
    """bfloat16 keeps 8 bits of weights and activations; the models' logits reach 5.

    Another preference changes rewards by far more, so rows have not been mixed up.
    """
    arm = save_arm(tmp_path, base_dir, core)
    exact = trimtab.load(str(base_dir), {"x": str(arm)}, dtype="float32")
    half = trimtab.load(str(base_dir), {"x": str(arm)}, dtype="bfloat16")
    assert half.base.model.dtype == torch.bfloat16
    requests = texts(half)
    assert gap(half, exact, requests) < 0.4
    swapped = [
        Request(r.prompt, dict(zip("bca", p, strict=True)), 1.0, r.sampling)
        for r, p in zip(requests, PREFERENCES, strict=True)
    ]
    answers = half.generate(requests, report=True, speculate=speculate)
    for one, two in zip(answers, half.generate(swapped, report=True), strict=True):
        assert abs(one.tokens[0].rewards["x"] - two.tokens[0].rewards["x"]) > 0.1


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("bits", "nats"), [("int8", 0.05), ("int4", 0.6)])
def test_quantised_base(tmp_path: Path, core: Core, bits: Quantization, nats: float) -> None:
    """The ARM moves by the rounding of its backbone; a batch of rows is its rows."""
    folder, tokenizer = tmp_path / "wide", make_tokenizer()
    model = make_model(1, len(tokenizer), hidden=128)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 0.3
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    arm = str(save_arm(tmp_path / "arm", folder, core))
    exact = trimtab.load(str(folder), {"x": arm})
    small = trimtab.load(str(folder), {"x": arm}, quantization=bits)
    assert type(small.base.model.model.layers[0].mlp.up_proj.weight).__name__ != "Parameter"
    assert len(small.groups) == 1
    requests = texts(small, max_new_tokens=4)
    assert gap(small, exact, requests) < nats
    together = small.generate(requests, report=True)
    for request, answer in zip(requests, together, strict=True):
        [single] = small.generate([request], report=True)
        for one, two in zip(answer.tokens, single.tokens, strict=True):
            if one.token_id != two.token_id:
                break
            assert one.rewards["x"] == pytest.approx(two.rewards["x"], abs=nats / 10)
