"""What depends on a row's length: ropes, windows, tables of positions. In any company."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers as hf
from conftest import make_tokenizer
from oracle import GREEDY, specified, specified_logp, templated, with_lora
from rounding import nats
from test_architectures import BOTH, GPT, IN_SLOTS, WINDOW, WORDS, small, stream_of

import trimtab
from trimtab.engines.local import batch
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.types import Completion, Request
from trimtab.errors import ConfigError

ORIGINAL = 16
LONG: dict[str, Any] = {
    "max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 100.0, "factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
        "short_factor": [1.0, 1.3, 1.1, 2.0], "long_factor": [2.0, 7.0, 3.0, 9.0],
    },
}  # fmt: skip
PHI3 = small(hf.Phi3Config, **LONG, original_max_position_embeddings=ORIGINAL)
LONGROPE: dict[str, Callable[[], Any]] = {
    "phi3": PHI3,
    "llama": small(hf.LlamaConfig, **LONG),
    "phimoe": small(
        hf.PhimoeConfig, num_local_experts=4,
        max_position_embeddings=64, original_max_position_embeddings=ORIGINAL,
        rope_parameters={**LONG["rope_parameters"], "short_mscale": 1.1, "long_mscale": 1.4},
    ),
}  # fmt: skip
LENGTHS = (3, 15, 10, 16, 17, 30, 5)
"""Short all the way, crossing with the 2nd, 7th and 1st token, long from the start."""


def text(i: int, length: int) -> str:
    return " ".join(f"w{1 + (7 * i + 3 * j * j + j) % (WORDS - 1)}" for j in range(length))


def asked(temperature: float = 0.0, tokens: int = 12) -> list[Request]:
    sampling = GREEDY.but(max_new_tokens=tokens, temperature=temperature)
    return [Request(text(i, n), None, 1.0, sampling.but(seed=i)) for i, n in enumerate(LENGTHS)]


def tokens(answers: list[Completion]) -> list[list[int]]:
    return [list(answer.token_ids) for answer in answers]


@pytest.fixture(scope="module", params=LONGROPE)
def longrope(request: pytest.FixtureRequest) -> LocalEngine:
    make = LONGROPE[request.param]
    return LocalEngine(stream_of("base", make(), 1), [stream_of("a", make(), 2)])


@pytest.fixture(scope="module")
def phi3() -> LocalEngine:
    """A base, its LoRA that reads four words more, and an ARM: each crosses at its own token."""
    base = stream_of("base", PHI3(), 1)
    lora = with_lora(base, "a", 3, layers=("qkv_proj", "o_proj"))
    return LocalEngine(base, [templated(lora, "w5 w6 w7 w8"), stream_of("b", PHI3(), 2)])


class TestLongRope:
    @pytest.mark.parametrize("slots", [1, 3, 8])
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_the_specification(self, longrope: LocalEngine, temperature: float, slots: int) -> None:
        requests = asked(temperature)
        answers = longrope.generate(requests, batch_size=slots)
        assert tokens(answers) == [specified(longrope, r) for r in requests]

    def test_the_numbers(self, longrope: LocalEngine) -> None:
        for request, answer in zip(asked(), longrope.generate(asked(), report=True), strict=True):
            for t, token in enumerate(answer.tokens):
                logp = specified_logp(longrope, request, list(answer.token_ids[:t]))
                assert token.logp_fused == nats(float(logp[token.token_id]))

    def test_the_factors_matter(self) -> None:
        """With the short factors everywhere, the long rows say something else."""
        config = deepcopy(PHI3())
        config.rope_parameters["long_factor"] = config.rope_parameters["short_factor"]
        short = tokens(LocalEngine(stream_of("base", config, 1)).generate(asked()))
        right = tokens(LocalEngine(stream_of("base", PHI3(), 1)).generate(asked()))
        same = [a == b for a, b in zip(short, right, strict=True)]
        assert same[0]
        assert not any(same[3:6])

    def test_transformers_generate(self) -> None:
        """Its Phi-3 forgets what it has read once a row grows long, and so reads it anew."""
        base = stream_of("base", PHI3(), 1)
        answers = LocalEngine(base).generate(asked())
        for request, answer in zip(asked(), answers, strict=True):
            ids = torch.tensor([base.prompt_ids(request.prompt)])
            theirs = base.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
                pad_token_id=0,
            )  # fmt: skip
            assert list(answer.token_ids) == theirs[0, ids.shape[1] :].tolist()

    @pytest.mark.parametrize("chunk", [512, 9])
    def test_streams_that_cross_apart(
        self, phi3: LocalEngine, chunk: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch, "CHUNK", chunk)
        for temperature in (0.0, 1.0):
            requests = asked(temperature)
            answers = phi3.generate(requests, batch_size=4)
            assert tokens(answers) == [specified(phi3, r) for r in requests]

    @pytest.mark.parametrize("gate", [None, 0.4])
    def test_speculating(self, phi3: LocalEngine, gate: float | None) -> None:
        """Greedy the specification; drawn, the same in any company. Much is drafted, and kept."""
        draft = replace(phi3.base, name="draft")
        engine = LocalEngine(phi3.base, phi3.arms, draft=draft)
        greedy = [replace(r, strength=0.3, gate=gate) for r in asked(tokens=20)]
        plain = engine.generate(greedy)
        answers = engine.generate(greedy, speculate="on")
        assert tokens(answers) == tokens(plain)
        assert sum(answer.accepted for answer in answers) > 40
        drawn = [replace(r, strength=0.3, gate=gate) for r in asked(1.0)]
        found = [tokens(engine.generate(drawn, batch_size=n, speculate="on")) for n in (1, 3, 8)]
        assert found[0] == found[1] == found[2]

    def test_shared_beginnings(self, phi3: LocalEngine) -> None:
        """Rows of 10 to 40 words with one beginning, one after the other and together: what a
        long row has read is no use to a short one."""
        requests = [
            Request(text(1, n), None, 1.0, GREEDY.but(max_new_tokens=4))
            for n in (40, 10, 38, 11, 36, 40)
        ]
        expected = [specified(phi3, r) for r in requests]
        for slots in (1, 2, 6):
            assert tokens(phi3.generate(requests, batch_size=slots)) == expected

    def test_one_beginning_is_still_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two rows of 40 words of which 39 are shared: 40 + 1 words and 2 · 3 tokens are read."""
        engine, seen = LocalEngine(stream_of("base", PHI3(), 1)), []
        forward = PackedRows.forward

        def counted(rows: PackedRows, entries: Any, positions: int = 1) -> Any:
            seen.append(sum(len(entry.ids) for entry in entries))
            return forward(rows, entries, positions)

        monkeypatch.setattr(PackedRows, "forward", counted)
        prompts = [text(1, 40), text(1, 39) + " w9"]
        engine.generate(prompts, max_new_tokens=4, temperature=0, ignore_eos=True)
        assert sum(seen) == 40 + 1 + 2 * 3

    @pytest.mark.parametrize("original", [16, 64])
    def test_from_a_folder(self, tmp_path: Path, original: int) -> None:
        """What is read when a model is loaded may be longer, too, than what it began with."""
        tokenizer = make_tokenizer()
        rope = {**LONG["rope_parameters"], "original_max_position_embeddings": original}
        config = small(
            hf.Phi3Config, vocab_size=len(tokenizer), max_position_embeddings=256,
            original_max_position_embeddings=original, rope_parameters=rope, eos_token_id=3,
        )()  # fmt: skip
        torch.manual_seed(1)
        hf.Phi3ForCausalLM(config).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        engine = trimtab.load(str(tmp_path))
        words = "the cat sat on the mat and the dog ran once upon a time hello thank you please "
        requests = [
            Request(words[:n], sampling=GREEDY.but(max_new_tokens=12)) for n in (12, 78, 40)
        ]
        assert tokens(engine.generate(requests)) == [specified(engine, r) for r in requests]

    def test_layers_of_two_lengths_are_refused(self) -> None:
        stream = stream_of("base", PHI3(), 1)
        other = deepcopy(stream.model.model.rotary_emb)
        other.config.rope_parameters["original_max_position_embeddings"] = 8
        stream.model.model.second = other
        with pytest.raises(ConfigError, match="Phi3ForCausalLM has LongRoPE layers of several"):
            LocalEngine(stream)


class TestDynamic:
    """Dynamic NTK turns otherwise beyond `max_position_embeddings` only: no request goes there."""

    MAKE = staticmethod(small(
        hf.LlamaConfig, max_position_embeddings=32,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
    ))  # fmt: skip

    def test_up_to_the_last_position(self) -> None:
        """Beside an ARM of 128 positions and a template of 40 words, in one batch."""
        arm = templated(stream_of("a", IN_SLOTS["llama, tied"](), 2), text(9, 40))
        engine = LocalEngine(stream_of("base", self.MAKE(), 1), [arm])
        requests = [
            Request(text(i, n), None, 1.0, GREEDY.but(max_new_tokens=32 - n))
            for i, n in enumerate((3, 20, 30))
        ]
        assert tokens(engine.generate(requests)) == [specified(engine, r) for r in requests]

    def test_not_beyond(self) -> None:
        engine = LocalEngine(stream_of("base", self.MAKE(), 1))
        with pytest.raises(ConfigError, match="the model reads 32"):
            engine.generate([text(0, 20)], max_new_tokens=13)


LEARNED: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hf.GPT2Config(**{**GPT, "n_positions": 24}),
    "opt": lambda: hf.OPTConfig(
        vocab_size=WORDS, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, init_std=0.3, word_embed_proj_dim=32, pad_token_id=0,
        bos_token_id=None, eos_token_id=None,
    ),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=4,
        attention_types=[[["global", "local"], 1]], window_size=4, max_position_embeddings=24,
        initializer_range=0.3, bos_token_id=None, eos_token_id=None,
    ),
    "gptj": lambda: hf.GPTJConfig(**{**GPT, "n_positions": 24}, rotary_dim=4),
    "longrope": small(
        hf.Phi3Config, max_position_embeddings=24, original_max_position_embeddings=20,
        rope_parameters={**LONG["rope_parameters"], "original_max_position_embeddings": 20},
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", LEARNED)
@pytest.mark.parametrize("speculate", ["off", "on"])
def test_a_table_of_positions_shorter_than_the_bases_rows(
    family: str, speculate: Literal["off", "on"]
) -> None:
    """An ARM of 24 positions for a base whose template has 60 words: rows of the ARM that have
    come to their last positions stand beside others that read a prompt."""
    base = templated(stream_of("base", IN_SLOTS["llama, tied"](), 1), text(9, 60))
    engine = LocalEngine(base, [stream_of("a", LEARNED[family](), 2)])
    if not all(group.packable for group in engine.groups):
        speculate = "off"
    requests = [
        Request(text(i, n), None, 1.0, GREEDY.but(max_new_tokens=24 - n))
        for i, n in enumerate((3, 20, 4, 15, 22))
    ]
    expected = [specified(engine, r) for r in requests]
    for slots in (2, 3, 5):
        answers = engine.generate(requests, batch_size=slots, speculate=speculate)
        assert tokens(answers) == expected


WINDOWS: dict[str, Callable[[], Any]] = {
    "mistral": small(hf.MistralConfig, **WINDOW),
    "qwen2": small(hf.Qwen2Config, use_sliding_window=True, max_window_layers=1, **WINDOW),
    "qwen2, told not to": small(hf.Qwen2Config, use_sliding_window=False, **WINDOW),
    "gemma2": small(hf.Gemma2Config, head_dim=8, **BOTH),
    "gemma3": small(hf.Gemma3TextConfig, head_dim=8, **BOTH),
    "phi3, both": small(
        hf.Phi3Config, **LONG, original_max_position_embeddings=ORIGINAL, sliding_window=5
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", WINDOWS)
def test_rows_longer_than_the_window(family: str) -> None:
    """A window of 4 (or 5) and rows of 3 to 42 words: transformers' own tokens, in any company."""
    base = stream_of("base", WINDOWS[family](), 1)
    engine = LocalEngine(base)
    expected = [specified(engine, r) for r in asked()]
    for slots in (1, 3, 7):
        assert tokens(engine.generate(asked(), batch_size=slots)) == expected
    for request, ours in zip(asked(), expected, strict=True):
        ids = torch.tensor([base.prompt_ids(request.prompt)])
        theirs = base.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        assert ours == theirs[0, ids.shape[1] :].tolist()
