"""An ARM at one preference as a folder that PEFT or transformers alone load: the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conditioned import save_arm
from conftest import make_tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from rounding import close
from torch import Tensor

import trimtab
from trimtab.arms.conditioned import Core
from trimtab.arms.export import export
from trimtab.arms.folding import fold
from trimtab.arms.load import load_arm
from trimtab.arms.sidecar import Sidecar
from trimtab.errors import ConfigError, OutputError, PreferenceError

pytestmark = pytest.mark.filterwarnings("ignore:.*lora_bias=True")  # PEFT: it cannot merge those

COMMON: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 3,
}  # fmt: skip
CONFIGS: dict[str, Callable[[int], Any]] = {
    "llama": lambda size: transformers.LlamaConfig(vocab_size=size, **COMMON),
    "qwen2": lambda size: transformers.Qwen2Config(vocab_size=size, **COMMON),
    "mistral": lambda size: transformers.MistralConfig(vocab_size=size, **COMMON),
    "gpt2": lambda size: transformers.GPT2Config(
        vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3,
        bos_token_id=3, eos_token_id=3,
    ),
}  # fmt: skip
IDS = torch.arange(4, 16).view(2, 6)
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}
PREFERENCES: list[Any] = [
    WEIGHTS, "a=1,b=0,c=0", "a=0,b=0,c=1", "a=0.1,b=0.2,c=0.7", "a=0.123456789,b=0.5,c=0.376543211",
    {"c": 1 / 3, "a": 1 / 3, "b": 1 / 3},
]  # fmt: skip

Make = Callable[..., Path]


def auto(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(IDS).logits
    return found


def expected(arm: Path, preference: Any) -> Tensor:
    """What the conditioned model itself gives at a preference."""
    model = load_arm(str(arm))
    weights = trimtab.Steering.of("abc", preference).preference
    model.conditioning.open(torch.tensor([[*weights.values()]]))
    return logits(model)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Conditioned ARMs of a, b and c with random weights, each on a base of its own kind."""
    root, made = tmp_path_factory.mktemp("arms"), {}

    def base_of(kind: str, dtype: str) -> Path:
        folder = root / f"{kind}-{dtype}"
        if not folder.exists():
            tokenizer = make_tokenizer()
            torch.manual_seed(3)
            config = CONFIGS[kind](len(tokenizer))
            model = transformers.AutoModelForCausalLM.from_config(config)
            model.to(getattr(torch, dtype)).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    def arm(
        core: Core, kind: str = "llama", layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj"),
        *, shift: bool = True, dtype: str = "float32",
    ) -> Path:  # fmt: skip
        key = (core, kind, layers, shift, dtype)
        if key not in made:
            folder = root / f"arm{len(made)}"
            made[key] = save_arm(folder, base_of(kind, dtype), core, layers=layers, shift=shift)
            method = "parm" if core == "bilinear" else "uniarm"
            Sidecar(method=method, betas={"a": 0.1}, scale=1.5, prompt_format="raw").save(folder)  # type: ignore[arg-type]
        return made[key]

    return arm


def base_of(arm: Path) -> Path:
    return Path(json.loads((arm / "adapter_config.json").read_text())["base_model_name_or_path"])


KINDS: list[Any] = [
    ("llama", ("q_proj", "k_proj", "v_proj")),
    ("llama", ("all-linear",)),
    ("llama", ("v_proj", "model.layers.1.mlp.up_proj")),
    ("gpt2", ("c_attn",)),
    ("gpt2", ("all-linear",)),
]


# --- as a LoRA ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("core", ["bilinear", "affine"])
def test_peft_gives_the_same_logits(
    make: Make, tmp_path: Path, core: Core, kind: str, layers: tuple[str, ...]
) -> None:
    """PARM: the same bits, as its core is folded into B by the very operations of the conditioned
    forward. UniARM's bias is added in PEFT's own order: the same but for rounding."""
    arm = make(core, kind, layers)
    plain = logits(auto(base_of(arm)))
    for i, preference in enumerate(PREFERENCES):
        export(str(arm), tmp_path / str(i), preference=preference)
        found = logits(PeftModel.from_pretrained(auto(base_of(arm)), tmp_path / str(i)))
        wanted = expected(arm, preference)
        if core == "bilinear":
            assert torch.equal(found, wanted), preference
        close(found, wanted)
        assert not torch.allclose(found, plain, atol=0.5)


@pytest.mark.parametrize("core", ["bilinear", "affine"])
def test_peft_adapts_no_other_layer(make: Make, tmp_path: Path, core: Core) -> None:
    arm = make(core, "llama", ("v_proj", "model.layers.1.mlp.up_proj"))
    export(str(arm), tmp_path, preference=WEIGHTS)
    model = PeftModel.from_pretrained(auto(base_of(arm)), tmp_path)
    adapted = [n.removesuffix(".lora_A") for n, _ in model.named_modules() if n.endswith("lora_A")]
    assert sorted(name.removeprefix("base_model.model.model.layers.") for name in adapted) == [
        "0.self_attn.v_proj", "1.mlp.up_proj", "1.self_attn.v_proj",
    ]  # fmt: skip


@pytest.mark.parametrize("shift", [True, False])
def test_only_a_shift_needs_a_bias(make: Make, tmp_path: Path, shift: bool) -> None:
    arm = make("affine", shift=shift)
    export(str(arm), tmp_path, preference=WEIGHTS)
    config = LoraConfig.from_pretrained(tmp_path)
    assert (config.lora_bias, config.r, config.lora_alpha) == (shift, 6, 12.0)
    assert config.base_model_name_or_path == str(base_of(arm))
    found = logits(PeftModel.from_pretrained(auto(base_of(arm)), tmp_path))
    wanted = expected(arm, WEIGHTS)
    close(found, wanted)
    assert shift or torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("kind", "shift", "merges"),
    [("llama", True, False), ("qwen2", True, True), ("llama", False, True)],
)
def test_what_peft_can_merge(
    make: Make, tmp_path: Path, kind: str, shift: bool, merges: bool
) -> None:
    """UniARM's bias goes into layers that have one (docs/methods/uniarm.md); without it, any."""
    arm = make("affine", kind, shift=shift)
    export(str(arm), tmp_path, preference=WEIGHTS)
    model = PeftModel.from_pretrained(auto(base_of(arm)), tmp_path)
    if not merges:
        with pytest.raises(RuntimeError, match="base layer has no bias"):
            model.merge_and_unload()
        return
    close(logits(model.merge_and_unload()), expected(arm, WEIGHTS))


def test_fold_by_hand(make: Make) -> None:
    """One layer of PARM at (.5, .3, .2): `B = [B1 W1, B2 (.5 U_a + .3 U_b + .2 U_c)]`."""
    arm = make("bilinear")
    model = load_arm(str(arm))
    layer = model.model.layers[1].self_attn.v_proj
    a, b, bias = fold(str(arm), "a=0.5,b=0.3,c=0.2")["model.layers.1.self_attn.v_proj"]
    u = layer.core.U.view(3, 4, 4)
    w2 = 0.5 * u[0] + 0.3 * u[1] + 0.2 * u[2]
    by_hand = torch.cat([layer.lora_B[:, :2] @ layer.core.W1, layer.lora_B[:, 2:] @ w2], -1)
    close(b, by_hand, terms=4)
    assert torch.equal(a, layer.lora_A) and bias is None


# --- as a whole model ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("core", ["bilinear", "affine"])
def test_a_merged_model_is_the_same_to_rounding(
    make: Make, tmp_path: Path, core: Core, kind: str, layers: tuple[str, ...]
) -> None:
    arm = make(core, kind, layers)
    export(str(arm), tmp_path, preference=WEIGHTS, merge=True)
    wanted = expected(arm, WEIGHTS)
    close(logits(auto(tmp_path)), wanted)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    if kind == "llama":  # biases appear where a shift needs them, and nowhere else
        biases = core == "affine", core == "affine" and len(layers) != 3
        assert (config.attention_bias, config.mlp_bias) == biases
    assert not (tmp_path / "adapter_config.json").exists()


def test_a_merged_shift_goes_into_biases_that_are_there(make: Make, tmp_path: Path) -> None:
    arm = make("affine", "qwen2")
    export(str(arm), tmp_path, preference=WEIGHTS, merge=True)
    wanted = expected(arm, WEIGHTS)
    close(logits(auto(tmp_path)), wanted)


def test_a_merged_model_keeps_the_backbones_type(make: Make, tmp_path: Path) -> None:
    """bfloat16 has 8 bits: logits of some 5 nats are off by hundredths."""
    for core in ("bilinear", "affine"):
        arm = make(core, dtype="bfloat16")
        export(str(arm), tmp_path / core, preference=WEIGHTS, merge=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / core, dtype="auto")
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
        off = logits(model.float()) - expected(arm, WEIGHTS)
        assert float(off.abs().mean()) < 0.1


def test_an_architecture_without_biases(make: Make, tmp_path: Path) -> None:
    """Mistral has no place for a shift; without one, and for PARM, it needs none."""
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"shift needs a bias, and .*_proj of this arch.* none"):
        export(str(make("affine", "mistral")), out, preference=WEIGHTS, merge=True)
    assert not out.exists()
    for arm in (make("affine", "mistral", shift=False), make("bilinear", "mistral")):
        export(str(arm), out, preference=WEIGHTS, merge=True, overwrite=True)
        wanted = expected(arm, WEIGHTS)
        close(logits(auto(out)), wanted)


# --- a plain LoRA -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lora(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GenARM, as `trimtab train` leaves it: PEFT's folder, tokenizer, sidecar."""
    folder, base = tmp_path_factory.mktemp("lora"), base_of(make("bilinear"))
    torch.manual_seed(7)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
        init_lora_weights=False,
    )  # fmt: skip
    model = get_peft_model(auto(base), config)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    Sidecar(objective="a", beta=0.2).save(folder)
    return folder


def test_a_plain_lora_is_merged(make: Make, lora: Path, tmp_path: Path) -> None:
    export(str(lora), tmp_path, merge=True)
    whole = PeftModel.from_pretrained(auto(base_of(lora)), lora)
    close(logits(auto(tmp_path)), logits(whole))
    facts = Sidecar.load(tmp_path)
    assert (facts.objective, facts.beta, facts.preference) == ("a", 0.2, "")


def test_what_cannot_be_exported(make: Make, lora: Path, tmp_path: Path) -> None:
    out, parm = tmp_path / "out", str(make("bilinear"))
    refusals: list[tuple[type[Exception], str, str, dict[str, Any]]] = [
        (ConfigError, "no preference to export at; write --preference a=0.33,b=0.33", parm, {}),
        (ConfigError, "is a standard LoRA folder; add --merge", str(lora), {}),
        (ConfigError, "takes no preference; leave --preference out", str(lora),
         {"preference": "a=1", "merge": True}),
        (ConfigError, "is a whole model; there is nothing to export", str(base_of(lora)),
         {"preference": "a=1"}),
        (PreferenceError, "no weight for c", parm, {"preference": "a=1,b=1"}),
        (PreferenceError, "unknown objective 'd'", parm, {"preference": "a=1,b=1,c=0,d=0"}),
        (FileNotFoundError, "no ARM at", str(tmp_path / "none"), {"preference": "a=1"}),
    ]  # fmt: skip
    for kind, words, arm, options in refusals:
        with pytest.raises(kind) as caught:
            export(arm, out, **options)
        assert words in str(caught.value)
        assert not out.exists()


def test_a_folder_that_holds_something(make: Make, tmp_path: Path) -> None:
    """… is left alone; with `overwrite` what another export left there is not mixed with this."""
    arm = str(make("bilinear"))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        export(arm, tmp_path, preference=WEIGHTS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    for merge in (True, False, True):
        export(arm, tmp_path, preference=WEIGHTS, merge=merge, overwrite=True)
        names = {path.name for path in tmp_path.iterdir()}
        assert ("config.json" in names, "adapter_config.json" in names) == (merge, not merge)
        assert len([name for name in names if name.endswith(".safetensors")]) == 1
        assert "mine.txt" in names and not [name for name in names if name.startswith(".")]
