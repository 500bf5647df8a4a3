"""Other families than Llama, tiny and random: each on the path it should take, and each right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import transformers as hf
from oracle import (
    GREEDY,
    Captures,
    is_specified,
    next_logp,
    specified_logp,
    templated,
    with_lora,
    word_tokenizer,
)
from rounding import nats

from trimtab.engines.local import batch, packed_rows
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.graphs import Graphs
from trimtab.engines.local.streams import Stream
from trimtab.engines.types import Request
from trimtab.errors import ConfigError
from trimtab.models.vocabulary import VocabularyMap

WORDS = 24
SMALL: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "initializer_range": 0.3, "tie_word_embeddings": False, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GPT: dict[str, Any] = {
    "vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128,
    "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
WINDOW: dict[str, Any] = {"sliding_window": 4}
BOTH: dict[str, Any] = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
HYBRID: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
DELTA: dict[str, Any] = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "head_dim": 8,
}  # fmt: skip


def small(config: Any, *without: str, **values: Any) -> Callable[[], Any]:
    settings = {**SMALL, **values}
    return lambda: config(**{key: v for key, v in settings.items() if key not in without})


IN_SLOTS: dict[str, Callable[[], Any]] = {
    "llama, grouped heads": small(hf.LlamaConfig),
    "llama, one key head": small(hf.LlamaConfig, num_key_value_heads=1),
    "llama, tied": small(hf.LlamaConfig, tie_word_embeddings=True),
    "qwen2": small(hf.Qwen2Config),
    "qwen2, last layer slides": small(
        hf.Qwen2Config, use_sliding_window=True, max_window_layers=1, **WINDOW
    ),
    "qwen3": small(hf.Qwen3Config, head_dim=8),
    "qwen3 moe": small(
        hf.Qwen3MoeConfig, head_dim=8, moe_intermediate_size=16, num_experts=4,
        num_experts_per_tok=2,
    ),
    "mistral, short window": small(hf.MistralConfig, **WINDOW),
    "gemma": small(hf.GemmaConfig, head_dim=8),
    "gemma2, soft caps": small(
        hf.Gemma2Config, head_dim=8, attn_logit_softcapping=2.0, final_logit_softcapping=5.0, **BOTH
    ),
    "gemma3": small(hf.Gemma3TextConfig, head_dim=8, **BOTH),
    "gemma4": small(
        hf.Gemma4TextConfig, head_dim=8, global_head_dim=16, num_kv_shared_layers=0,
        vocab_size_per_layer_input=WORDS, hidden_size_per_layer_input=8, **BOTH,
    ),
    "phi": small(hf.PhiConfig),
    "phi3, short window": small(hf.Phi3Config, **WINDOW),
    "gpt2": lambda: hf.GPT2Config(**GPT),
    "gpt2, other scales": lambda: hf.GPT2Config(
        **GPT, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True
    ),
    "gpt_neox": small(hf.GPTNeoXConfig, "num_key_value_heads"),
    "opt": lambda: hf.OPTConfig(
        vocab_size=WORDS, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=128, init_std=0.3, word_embed_proj_dim=32, pad_token_id=0,
        bos_token_id=None, eos_token_id=None,
    ),
    "olmo2": small(hf.Olmo2Config),
    "cohere2": small(hf.Cohere2Config, **BOTH),
    "granite": small(
        hf.GraniteConfig, attention_multiplier=0.3, logits_scaling=2.0, residual_multiplier=0.7,
        embedding_multiplier=2.0,
    ),
    "mixtral": small(hf.MixtralConfig, **EXPERTS),
    "gpt_oss, sinks": small(hf.GptOssConfig, head_dim=8, **EXPERTS, **BOTH),
    "deepseek_v3": small(
        hf.DeepseekV3Config, num_key_value_heads=4, moe_intermediate_size=16, n_routed_experts=4,
        num_experts_per_tok=2, n_group=1, topk_group=1, kv_lora_rank=8, q_lora_rank=8,
        qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=4, n_shared_experts=1,
        first_k_dense_replace=1,
    ),
    "starcoder2": small(hf.Starcoder2Config, **WINDOW),
    "afmoe": small(
        hf.AfmoeConfig, head_dim=8, moe_intermediate_size=16, num_experts=4,
        num_experts_per_tok=2, num_dense_layers=1, **BOTH,
    ),
    "hunyuan moe": small(
        hf.HunYuanMoEV1Config, head_dim=8, num_experts=4, moe_topk=2, moe_intermediate_size=16
    ),
}  # fmt: skip

OWN_CACHES: dict[str, Callable[[], Any]] = {
    "stablelm": small(hf.StableLmConfig),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None,
    ),
    "falcon": small(hf.FalconConfig, "num_key_value_heads", "intermediate_size"),
    "mamba": small(hf.MambaConfig, "num_attention_heads", state_size=8),
    "mamba2": small(
        hf.Mamba2Config, state_size=8, head_dim=8, num_heads=8, n_groups=2, chunk_size=8
    ),
    "jamba": small(
        hf.JambaConfig, attn_layer_period=2, attn_layer_offset=1, num_experts=2,
        mamba_d_state=8, mamba_dt_rank=4,
    ),
    "bamba": small(hf.BambaConfig, attn_layer_indices=[1], **MAMBA),
    "falcon_h1": small(hf.FalconH1Config, mamba_d_ssm=64, **MAMBA),
    "qwen3_next": small(
        hf.Qwen3NextConfig, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, **DELTA, **HYBRID,
    ),
    "qwen3_5": small(hf.Qwen3_5TextConfig, **DELTA, **HYBRID),
    "lfm2": small(hf.Lfm2Config, layer_types=["conv", "full_attention"], block_multiple_of=8),
    "gemma3n, shared keys": small(
        hf.Gemma3nTextConfig, num_hidden_layers=4, head_dim=8, num_kv_shared_layers=2,
        vocab_size_per_layer_input=WORDS, hidden_size_per_layer_input=8, laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 4, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
}  # fmt: skip

MODES: tuple[Literal["off"], Literal["auto"]] = ("off", "auto")
PROMPTS = [
    " ".join(f"w{1 + (7 * i + 3 * j * j) % (WORDS - 1)}" for j in range(length))
    for i, length in enumerate((3, 14, 8))
]


def stream_of(name: str, config: Any, seed: int) -> Stream:
    """A random model of a family; attention sinks start at 0 and are spread here.

    Its own attention is the eager one: transformers' default leaves Gemma 2's soft caps out.
    """
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "sink" in weight_name:
                weight.normal_(std=2.0)
    model.generation_config.eos_token_id = None
    return Stream(name, model, word_tokenizer(WORDS), VocabularyMap(WORDS, WORDS), "raw")


def engine_of_family(make: Callable[[], Any]) -> LocalEngine:
    """A base and an ARM of one family."""
    return LocalEngine(stream_of("base", make(), 1), [stream_of("a", make(), 2)])


def agrees(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Twelve tokens of each prompt, greedy and drawn, and their log-probs; prompts read in one
    piece and in pieces of 1 to 3 tokens."""
    requests = [
        Request(prompt, None, strength, GREEDY.but(max_new_tokens=12, temperature=t, seed=seed))
        for t in (0.0, 1.0)
        for seed, (prompt, strength) in enumerate(zip(PROMPTS, (1.0, 0.5, 2.0), strict=True))
    ]
    for chunk in (512, 9):
        monkeypatch.setattr(batch, "CHUNK", chunk)
        answers = engine.generate(requests, report=True)
        for request, answer in zip(requests, answers, strict=True):
            assert is_specified(engine, request, answer.token_ids)
        assert len({tuple(answer.token_ids) for answer in answers}) > 3  # else this tells little
    for request, answer in zip(requests[3:], answers[3:], strict=True):
        for t in (0, 11):
            logp = specified_logp(engine, request, list(answer.token_ids[:t]))
            found = answer.tokens[t].logp_fused
            assert found == nats(float(logp[answer.token_ids[t]]))
    return requests


@pytest.mark.parametrize("family", IN_SLOTS)
def test_packed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of_family(IN_SLOTS[family])
    assert [group.packable for group in engine.groups] == [True, True]
    requests = agrees(engine, monkeypatch)
    for request, answer in zip(
        requests[:3], engine.generate(requests[:3], speculate="on"), strict=True
    ):
        assert is_specified(engine, request, answer.token_ids)


@pytest.mark.parametrize(
    "family",
    ["llama, grouped heads", "gemma2, soft caps", "phi3, short window", "gpt_oss, sinks", "gpt2"],
)
def test_replayed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: layouts that last are captured."""
    captures = Captures()
    monkeypatch.setattr(packed_rows, "graphs_of", lambda model: Graphs(captures))
    agrees(engine_of_family(IN_SLOTS[family]), monkeypatch)
    assert captures.replayed > captures.made > 0


@pytest.mark.parametrize("family", OWN_CACHES)
def test_own_caches(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of_family(OWN_CACHES[family])
    assert [group.packable for group in engine.groups] == [False, False]
    requests = agrees(engine, monkeypatch)
    with pytest.raises(ConfigError, match="cannot take drafted tokens back"):
        engine.generate(requests, speculate="on")
    plain, auto = (engine.generate(requests[:1], speculate=how) for how in MODES)
    assert plain == auto


WITHOUT_CACHE: dict[str, Callable[[], Any]] = {
    "OpenAIGPTLMHeadModel": lambda: hf.OpenAIGPTConfig(**GPT),
    "RwkvForCausalLM": lambda: hf.RwkvConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, intermediate_size=48,
        context_length=64,
    ),
    "ReformerModelWithLMHead": lambda: hf.ReformerConfig(
        vocab_size=WORDS, is_decoder=True, axial_pos_embds=False, hidden_size=32,
        attention_head_size=8, num_attention_heads=4, feed_forward_size=48, attn_layers=["local"],
    ),
    "XLNetLMHeadModel": lambda: hf.XLNetConfig(
        vocab_size=WORDS, d_model=32, n_layer=2, n_head=4, d_inner=48
    ),
    "RecurrentGemmaForCausalLM": small(
        hf.RecurrentGemmaConfig, "num_key_value_heads", "max_position_embeddings",
        num_hidden_layers=3, lru_width=32, attention_window_size=8, head_dim=8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITHOUT_CACHE)
def test_without_a_cache_is_refused_by_name(name: str) -> None:
    """What it has read stays inside the model, or nowhere; it reads no request halfway."""
    engine = LocalEngine(stream_of("base", WITHOUT_CACHE[name](), 1))
    with pytest.raises(ConfigError, match=f"{name} gives no cache of what it has read"):
        engine.generate(PROMPTS[:1], max_new_tokens=4)


def test_the_length_that_mpt_reads() -> None:
    config = hf.MptConfig(vocab_size=WORDS, d_model=32, n_layers=2, n_heads=4, max_seq_len=16)
    engine = LocalEngine(stream_of("base", config, 1))
    request = Request(PROMPTS[1], None, 1.0, GREEDY.but(max_new_tokens=2))
    [answer] = engine.generate([request])
    assert is_specified(engine, request, answer.token_ids)
    with pytest.raises(ConfigError, match="but the model reads 16"):
        engine.generate(PROMPTS[1:2], max_new_tokens=3)


def test_one_on_slots_and_one_on_its_own_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    base, arm = IN_SLOTS["llama, grouped heads"](), OWN_CACHES["bloom"]()
    engine = LocalEngine(stream_of("base", base, 1), [stream_of("a", arm, 2)])
    assert [group.packable for group in engine.groups] == [True, False]
    agrees(engine, monkeypatch)


@pytest.mark.parametrize("family", ["bloom", "lfm2", "qwen3_next", "mamba2"])
def test_a_lora_that_reads_longer_prompts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two streams of one request in one forward, prompts of 3 and 10 words in pieces of 1 to 9: a
    recurrent state must not take in what only fills the shorter one up."""
    base = stream_of("base", OWN_CACHES[family](), 1)
    lora = with_lora(base, "a", 3, layers=("q_proj", "v_proj", "query_key_value", "in_proj"))
    engine = LocalEngine(base, [templated(lora, "w5 w6 w7 w8 w9 w2 w3")])
    assert len(engine.groups[0].streams) == 2
    agrees(engine, monkeypatch)


@pytest.mark.parametrize("family", ["mamba", "jamba", "lfm2", "bloom"])
def test_an_arm_that_catches_up_behind_a_gate(family: str) -> None:
    """It reads several tokens at once then, after a state: its rewards are still its own."""
    arm = stream_of("a", OWN_CACHES[family](), 2)
    engine = LocalEngine(stream_of("base", IN_SLOTS["llama, grouped heads"](), 1), [arm])
    [answer] = engine.generate(PROMPTS[1:2], gate=0.3, report=True, max_new_tokens=20, seed=3)
    assert 0 < answer.gated < 19
    prompt = arm.prompt_ids(PROMPTS[1])
    for t, token in enumerate(answer.tokens):
        if token.rewards:
            logp = next_logp(arm, [*prompt, *answer.token_ids[:t]])[token.token_id]
            assert token.rewards["a"] == nats(float(logp))
