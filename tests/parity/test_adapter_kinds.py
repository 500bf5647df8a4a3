"""Every kind of adapter of PEFT's gives PEFT's reward or is refused; none writes to the base."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import make_model, make_tokenizer
from rounding import close, nats
from safetensors.torch import load_file, save_file

import trimtab
from trimtab.arms.peft_adapter import with_adapter
from trimtab.arms.reward_model import RewardModel
from trimtab.engines.local import LocalEngine
from trimtab.errors import TrimtabError
from trimtab.models.devices import default_device
from trimtab.models.load import load_model
from trimtab.models.probe import forward

QV = ["q_proj", "v_proj"]
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": QV}
VIRTUAL: dict[str, Any] = {"num_virtual_tokens": 4}


def lora(**options: Any) -> Callable[[], peft.PeftConfig]:
    return lambda: peft.LoraConfig(task_type="CAUSAL_LM", **{**LORA, **options})


def other(kind: Any, **options: Any) -> Callable[[], peft.PeftConfig]:
    return lambda: kind(task_type="CAUSAL_LM", **options)


SIMPLE = ("ADAMSS", "BEFT", "DEFT", "GLORA", "GRALORA", "HIRA", "OSF", "PEANUT", "PSOFT",
          "PVERA", "TINYLORA", "UNILORA")  # fmt: skip
"""Those that need no more than the names of layers."""
KINDS: dict[str, Callable[[], peft.PeftConfig]] = {
    "plain": lora(),
    "rslora": lora(use_rslora=True),
    "rank pattern": lora(rank_pattern={"layers.0.self_attn.q_proj": 2}),
    "alpha pattern": lora(alpha_pattern={"layers.0.self_attn.q_proj": 32}),
    "lora bias": lora(lora_bias=True),
    "dora": lora(use_dora=True),
    "pissa": lora(init_lora_weights="pissa"),
    "pissa, alpha pattern": lora(
        init_lora_weights="pissa", alpha_pattern={"layers.0.self_attn.q_proj": 32}
    ),
    "olora": lora(init_lora_weights="olora"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "embeddings": lora(target_modules=["embed_tokens", "q_proj"]),
    "head": lora(target_modules=["lm_head", "q_proj"]),
    "modules to save": lora(modules_to_save=["lm_head"]),
    "token indices": lora(trainable_token_indices=[5, 6, 7]),
    "layer replication": lora(layer_replication=[[0, 2], [0, 2]]),
    "alora": lora(alora_invocation_tokens=[2]),
    "ia3": other(peft.IA3Config, target_modules=QV, feedforward_modules=[]),
    "loha": other(peft.LoHaConfig, target_modules=QV, r=4),
    "lokr": other(peft.LoKrConfig, target_modules=QV, r=4),
    "vera": other(peft.VeraConfig, target_modules=QV, r=4),
    "oft": other(peft.OFTConfig, target_modules=QV, oft_block_size=4),
    "boft": other(peft.BOFTConfig, target_modules=QV, boft_block_size=4),
    "hra": other(peft.HRAConfig, target_modules=QV, r=4),
    "miss": other(peft.MissConfig, target_modules=QV, r=4),
    "fourierft": other(peft.FourierFTConfig, target_modules=QV, n_frequency=20),
    "randlora": other(peft.RandLoraConfig, target_modules=QV, r=4),
    "shira": other(peft.ShiraConfig, target_modules=QV, r=4),
    "road": other(peft.RoadConfig, target_modules=QV, group_size=4),
    "delora": other(peft.DeloraConfig, target_modules=QV, r=4),
    "adalora": other(peft.AdaLoraConfig, target_modules=QV, total_step=10),
    "c3a": other(peft.C3AConfig, target_modules=QV, block_size=8),
    "vblora": other(peft.VBLoRAConfig, target_modules=QV, vector_length=8, num_vectors=16),
    "waveft": other(peft.WaveFTConfig, target_modules=QV, n_frequency=20),
    **{
        kind: other(config, target_modules=QV, **({"r": 8} if kind == "PSOFT" else {}))
        for kind, config in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()
        if kind in SIMPLE
    },
    "layer norms": other(peft.LNTuningConfig, target_modules=["input_layernorm", "norm"]),
    "prompt tuning": other(peft.PromptTuningConfig, **VIRTUAL),
    "prefix tuning": other(peft.PrefixTuningConfig, **VIRTUAL),
    "p-tuning": other(peft.PromptEncoderConfig, encoder_hidden_size=16, **VIRTUAL),
}
REFUSED = {"alora", "prompt tuning", "prefix tuning", "p-tuning"}
"""They need more than a forward through the backbone's own layers, which is all that the engine
and the scorer run."""


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("base"), make_tokenizer()
    make_model(1, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved(folder: Path, base: Path, config: peft.PeftConfig) -> Path:
    """An adapter whose weights moved away from their start, as training moves them."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(load_model(str(base)), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        model.peft_config["default"].base_model_name_or_path = str(base)
        model.save_pretrained(folder)
    return folder


def by_peft(base: Path, folder: Path) -> Any:
    """What a user of PEFT has: a fresh base, the adapter on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = load_model(str(base), device=default_device())
        return peft.PeftModel.from_pretrained(own, folder).eval()


def tensors_hash(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def rewards(engine: LocalEngine) -> tuple[list[int], list[float]]:
    [answer] = engine.generate(
        ["the cat sat on"], max_new_tokens=6, seed=1, report=True, ignore_eos=True
    )
    return answer.token_ids, [token.rewards["one"] for token in answer.tokens]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # PEFT's SHiRA
@pytest.mark.parametrize("kind", KINDS)
def test_rewards_are_pefts_or_it_is_refused(kind: str, base_dir: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "arm", base_dir, KINDS[kind]())
    if kind in REFUSED:
        with pytest.raises(TrimtabError, match=str(folder)):
            trimtab.load(str(base_dir), {"one": str(folder)})
        with pytest.raises(TrimtabError, match=str(folder)):
            RewardModel(str(folder))
        return
    engine = trimtab.load(str(base_dir), {"one": str(folder)})
    ids, found = rewards(engine)
    prompt = engine.arms[0].prompt_ids("the cat sat on")
    logp = forward(by_peft(base_dir, folder), [*prompt, *ids]).log_softmax(-1)
    expected = [float(logp[len(prompt) + i - 1, token]) for i, token in enumerate(ids)]
    assert found == nats(expected)
    unguided = forward(load_model(str(base_dir)), [*prompt, *ids]).log_softmax(-1)
    without = [float(unguided[len(prompt) + i - 1, token]) for i, token in enumerate(ids)]
    assert found != pytest.approx(without, abs=1e-2)  # the adapter has an effect at all
    [scored] = RewardModel(str(folder)).score(["the cat sat on"], ["the dog ran"])
    assert scored.reward == nats(scored_by_peft(base_dir, folder))


def scored_by_peft(base: Path, folder: Path) -> float:
    from trimtab.arms.load import tokenizer_of
    from trimtab.models.prompts import response_ids

    prompt, response = response_ids(tokenizer_of(str(folder)), "the cat sat on", "the dog ran")
    logp = forward(by_peft(base, folder), [*prompt, *response]).log_softmax(-1)
    return sum(float(logp[len(prompt) + i - 1, token]) for i, token in enumerate(response))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("kind", KINDS)
def test_the_base_is_never_written_to(kind: str, base_dir: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "arm", base_dir, KINDS[kind]())
    base = load_model(str(base_dir), device=default_device())
    before, addresses = tensors_hash(base), [p.data_ptr() for p in base.parameters()]
    model = with_adapter(base, str(folder))
    assert tensors_hash(base) == before
    assert [p.data_ptr() for p in base.parameters()] == addresses
    theirs = by_peft(base_dir, folder)
    ids = [*range(4, 20), 2, *range(20, 30)]
    close(forward(model, ids), forward(theirs, ids))
    assert tensors_hash(base) == before
    assert tensors_hash(load_model(str(base_dir))) == before


def test_a_file_that_holds_weights_of_the_base(base_dir: Path, tmp_path: Path) -> None:
    """PEFT writes them into the model in place: into a copy, not into the base."""
    folder = saved(tmp_path / "arm", base_dir, lora()())
    path = folder / "adapter_model.safetensors"
    head = torch.randn_like(load_model(str(base_dir)).lm_head.weight)
    tensors = {**load_file(path), "base_model.model.lm_head.weight": head}
    save_file(tensors, path, metadata={"format": "pt"})
    engine = trimtab.load(str(base_dir), {"one": str(folder)})
    plain = trimtab.load(str(base_dir))
    same = {"max_new_tokens": 8, "temperature": 0, "strength": 0.0}
    assert (
        engine.generate(["hello"], **same)[0].token_ids
        == plain.generate(["hello"], **same)[0].token_ids
    )
    ids = list(range(4, 20))
    theirs = forward(by_peft(base_dir, folder), ids).cpu()
    close(forward(with_adapter(load_model(str(base_dir)), str(folder)), ids), theirs)


class TestWeightsThatDoNotFit:
    @pytest.fixture
    def arm(self, base_dir: Path, tmp_path: Path) -> Path:
        return saved(tmp_path / "arm", base_dir, lora()())

    @staticmethod
    def change(folder: Path, how: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        path = folder / "adapter_model.safetensors"
        save_file(how(copy.deepcopy(load_file(path))), path, metadata={"format": "pt"})

    @pytest.mark.parametrize(
        ("how", "named"),
        [
            (lambda t: {k.replace("model.model.", "model.other."): v for k, v in t.items()},
             "other"),
            (lambda t: {k: v for k, v in t.items() if "lora_B" not in k}, "lora_B"),
            (lambda t: {k: v for k, v in t.items() if "layers.1" not in k}, r"layers\.1"),
            (lambda t: {**t, "base_model.model.extra.weight": torch.ones(2)}, "extra"),
            (lambda t: {k: torch.zeros(0) for k in t}, "ZeRO-3"),
            (lambda t: {k: v * torch.nan for k, v in t.items()}, "NaN"),
        ],
        ids=["renamed", "no B", "a layer less", "more", "empty", "nan"],
    )  # fmt: skip
    def test_refused_wherever_it_is_used(
        self, arm: Path, base_dir: Path, tmp_path: Path, how: Any, named: str
    ) -> None:
        self.change(arm, how)
        with pytest.raises(TrimtabError, match=named):
            trimtab.load(str(base_dir), {"one": str(arm)})
        with pytest.raises(TrimtabError, match=named):
            RewardModel(str(arm))
        if named != "NaN":
            with pytest.raises(TrimtabError, match=named):
                trimtab.export(str(arm), tmp_path / "merged", merge=True)
            assert not (tmp_path / "merged").exists()


def test_an_adapter_without_effect_is_said_to_be_unverified(
    base_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = peft.get_peft_model(load_model(str(base_dir)), lora()())  # B is zero
    model.save_pretrained(tmp_path / "arm")
    for dtype in ("float32", "bfloat16"):
        caplog.clear()
        trimtab.load(str(base_dir), {"one": str(tmp_path / "arm")}, dtype=dtype)
        said = [r for r in caplog.records if "could not be verified" in r.getMessage()]
        assert len(said) == 1


def test_loading_leaves_the_generator_alone(base_dir: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "arm", base_dir, lora()())
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    with_adapter(load_model(str(base_dir)), str(folder))
    assert torch.equal(torch.randn(3), expected)


def test_an_adapter_that_begins_at_random_is_refused(base_dir: Path, tmp_path: Path) -> None:
    """PEFT's fast SVD subtracts something else from the base at each load."""
    folder = saved(tmp_path / "arm", base_dir, lora(init_lora_weights="pissa_niter_1")())
    for load in (
        lambda: trimtab.load(str(base_dir), {"one": str(folder)}),
        lambda: RewardModel(str(folder)),
    ):
        with pytest.raises(TrimtabError, match=r"at random \(init_lora_weights\)"):
            load()


@pytest.mark.parametrize("begins", ["pissa", "olora"])
def test_quantised_weights_cannot_be_changed_by_an_adapter(
    begins: str, base_dir: Path, tmp_path: Path
) -> None:
    """PEFT's own forward is wrong there: its change of the base is lost without a word."""
    folder = saved(tmp_path / "arm", base_dir, lora(init_lora_weights=begins)())
    with pytest.raises(TrimtabError, match="load without --quantization"):
        trimtab.load(str(base_dir), {"one": str(folder)}, quantization="int8")


def test_an_adapter_is_no_whole_model(base_dir: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "arm", base_dir, lora(alora_invocation_tokens=[2])())
    with pytest.raises(TrimtabError, match="is an adapter, not a whole model"):
        trimtab.load(str(folder))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"lora_alpha": None}, "lora_alpha None"), ({"lora_alpha": "8"}, "lora_alpha '8'"),
     ({"base_model_name_or_path": None}, "does not say which model")],
)  # fmt: skip
def test_configs_that_say_too_little(
    change: dict[str, Any], named: str, base_dir: Path, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "arm", base_dir, lora()())
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(TrimtabError, match=named):
        trimtab.load(str(base_dir), {"one": str(folder)})


def test_two_kinds_at_once_leave_the_base_alone(base_dir: Path, tmp_path: Path) -> None:
    folders = {
        name: str(saved(tmp_path / name, base_dir, KINDS[kind]()))
        for name, kind in (("a", "pissa"), ("b", "plain"), ("c", "dora"))
    }
    plain, guided = trimtab.load(str(base_dir)), trimtab.load(str(base_dir), folders)
    texts = ["the cat sat on", "hello"]
    same: dict[str, Any] = {"max_new_tokens": 8, "seed": 2, "strength": 0.0, "report": True}
    for one, other in zip(
        plain.generate(texts, **same), guided.generate(texts, **same), strict=True
    ):
        assert one.token_ids == other.token_ids
        found = [token.logp_fused for token in other.tokens]
        assert found == pytest.approx([token.logp_fused for token in one.tokens], abs=1e-4)
