"""An ARM in `generate` is the same ARM in the engine: token by token, and as distributions."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from conditioned import save_arm
from conftest import make_tokenizer, save_model
from oracle import is_specified, specified_logp, word_tokenizer
from rounding import NATS
from torch import Tensor

import trimtab
from trimtab import fusion
from trimtab.arms.objectives import conditioned_on
from trimtab.arms.sidecar import Sidecar
from trimtab.engines.growing import GrowingBatch
from trimtab.engines.local import LocalEngine
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, PreferenceError, VocabularyError
from trimtab.models.probe import forward

PROMPTS = ["the cat", "hello, a very little story please!", "moon"]
GREEDY = Sampling(max_new_tokens=10, temperature=0)
MIXED = {"a": 0.5, "b": 0.3, "c": 0.2}


class Base:
    """A user's own model and tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")

    def inputs(self, prompts: Sequence[str]) -> Any:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        return self.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )

    def generate(self, prompts: Sequence[str], *guides: Any, **options: Any) -> Any:
        settings = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, **options}
        return self.model.generate(
            **self.inputs(prompts), **settings, logits_processor=[*guides],
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip

    def answers(self, prompts: Sequence[str], *guides: Any, **options: Any) -> list[list[int]]:
        """New tokens of each row, its end the last."""
        start = self.inputs(prompts)["input_ids"].shape[1]
        rows = self.generate(prompts, *guides, **options).sequences[:, start:].tolist()
        return [row[: row.index(3) + 1] if 3 in row else row for row in rows]


@pytest.fixture(scope="module")
def base(base_dir: Path) -> Base:
    return Base(base_dir)


@pytest.fixture(scope="module")
def arms(base_dir: Path, arm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One of each kind: a whole model, a LoRA of the base, a LoRA of another model, both cores."""
    root, found = tmp_path_factory.mktemp("arms"), {"whole": str(arm_dir)}
    for name, folder in (("lora", base_dir), ("other lora", arm_dir)):
        torch.manual_seed(7)
        config = peft.LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj", "up_proj"],
            init_lora_weights=False,
        )  # fmt: skip
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        peft.get_peft_model(model, config).save_pretrained(root / name)
        make_tokenizer().save_pretrained(root / name)
        Sidecar(objective="a", scale=0.75).save(root / name)
        found[name] = str(root / name)
    for name, core in (("parm", "bilinear"), ("uniarm", "affine")):
        found[name] = str(save_arm(root / name, base_dir, core))  # type: ignore[arg-type]
    return found


KINDS = ("whole", "lora", "other lora", "parm", "uniarm")


def both(base: Base, folder: str, strength: float) -> tuple[Any, LocalEngine, dict[str, Any]]:
    """The processor and the engine of one ARM, and the engine's settings."""
    preference = MIXED if conditioned_on(folder) else None
    guide = trimtab.ArmLogitsProcessor(
        folder, base.model, base.tokenizer, strength=strength, preference=preference
    )
    engine = trimtab.load(str(base.folder), {"a": folder})
    return guide, engine, {"preference": preference, "strength": strength}


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_the_specifications(base: Base, arms: dict[str, str], kind: str) -> None:
    """Alone and in a batch of unequal prompts, with one processor for all of them."""
    guide, engine, settings = both(base, arms[kind], 1.5)
    together = base.answers(PROMPTS, guide)
    alone = [base.answers([prompt], guide)[0] for prompt in PROMPTS]
    for prompt, *found in zip(PROMPTS, together, alone, strict=True):
        request = Request(prompt, sampling=GREEDY, **settings)
        assert all(is_specified(engine, request, ids) for ids in found)
    assert together != base.answers(PROMPTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_specifications_distribution(
    base: Base, arms: dict[str, str], kind: str
) -> None:
    """`generate` divides by its temperature and filters after the processor: the fused log-probs,
    and no other, are tempered."""
    guide, engine, settings = both(base, arms[kind], 0.7)
    torch.manual_seed(0)
    found = base.generate(PROMPTS, guide, do_sample=True, temperature=0.6, top_k=20)
    start = base.inputs(PROMPTS)["input_ids"].shape[1]
    row = [torch.tensor([x]) for x in (0.6, 20, 1.0, 0.0)]
    for i, prompt in enumerate(PROMPTS):
        request = Request(prompt, **settings)
        ids = found.sequences[i, start:].tolist()
        for t, scores in enumerate(found.scores):
            if 3 in ids[:t]:
                break
            wanted = fusion.shape(specified_logp(engine, request, ids[:t])[None], *row)[0]
            close = torch.isclose(scores[i].log_softmax(-1), wanted, atol=NATS)
            assert int((~close).sum()) <= 2, (prompt, t)  # two nearly alike at the 20th place


class Naive(transformers.LogitsProcessor):
    """The specification in the processor's place: every row by itself, from the start."""

    def __init__(self, folder: str, strength: float, pad: int) -> None:
        self.arm = transformers.AutoModelForCausalLM.from_pretrained(folder)
        self.strength, self.pad = strength, pad

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = []
        for ids, row in zip(input_ids.tolist(), scores, strict=True):
            while ids[0] == self.pad:
                ids = ids[1:]
            logp = forward(self.arm, ids)[-1].log_softmax(-1)
            rows.append((row.log_softmax(-1) + self.strength * logp).log_softmax(-1))
        return torch.stack(rows)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_beam_search_reorders_the_cache(
    base: Base, arm_dir: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = trimtab.ArmLogitsProcessor(str(arm_dir), base.model, base.tokenizer, strength=0.8)
    read: list[int] = []
    own = guide._batch._forward
    monkeypatch.setattr(
        guide._batch,
        "_forward",
        lambda i, m, new: read.append(i[:, new].shape[1]) or own(i, m, new),
    )
    found = base.generate(PROMPTS, guide, **options)
    wanted = base.generate(PROMPTS, Naive(str(arm_dir), 0.8, 0), **options)
    assert found.sequences.tolist() == wanted.sequences.tolist()
    assert torch.allclose(found.sequences_scores, wanted.sequences_scores, atol=NATS)
    assert set(read[1:]) == {1}  # and it is reordered, not read again


def test_drafts_that_are_taken_back_are_read_again(base: Base, arms: dict[str, str]) -> None:
    """Prompt lookup gives `generate` tokens that may be refused: the prefix shrinks."""
    guide = trimtab.ArmLogitsProcessor(arms["lora"], base.model, base.tokenizer)
    prompt = ["the cat sat on the mat. the cat sat on the mat. the cat"]
    wanted = base.answers(prompt, guide, max_new_tokens=16)
    assert base.answers(prompt, guide, max_new_tokens=16, prompt_lookup_num_tokens=3) == wanted


def test_a_new_prompt_is_noticed(base: Base, arm_dir: Path) -> None:
    guide = trimtab.ArmLogitsProcessor(str(arm_dir), base.model, base.tokenizer)
    longer = "the cat."  # one token more than the first one has, the same number of rows
    wanted = {p: base.answers([p], Naive(str(arm_dir), 1.0, 0)) for p in (*PROMPTS, longer)}
    for prompt in (PROMPTS[0], longer, *PROMPTS, PROMPTS[2], longer, PROMPTS[0]):
        assert base.answers([prompt], guide, max_new_tokens=10) == wanted[prompt]
        base.answers([prompt], guide, max_new_tokens=1)
    guide.reset()
    assert base.answers([longer], guide) == wanted[longer]


def test_strength_0_is_the_base_to_the_bit(base: Base, arm_dir: Path) -> None:
    guide = trimtab.ArmLogitsProcessor(str(arm_dir), base.model, base.tokenizer, strength=0)
    for steered, plain in zip(
        base.generate(PROMPTS, guide).scores, base.generate(PROMPTS).scores, strict=True
    ):
        assert torch.equal(steered, plain.log_softmax(-1))


def test_two_processors_are_two_arms(base: Base, arms: dict[str, str]) -> None:
    guides = [
        trimtab.ArmLogitsProcessor(arms[name], base.model, base.tokenizer, strength=strength)
        for name, strength in (("whole", 1.4), ("lora", 0.6))
    ]
    engine = trimtab.load(str(base.folder), {"w": arms["whole"], "l": arms["lora"]})
    request = Request(PROMPTS[1], {"w": 0.7, "l": 0.3}, 2.0, GREEDY)
    [ids] = base.answers([PROMPTS[1]], *guides)
    assert is_specified(engine, request, ids)


def test_a_lora_of_the_base_shares_its_weights_and_leaves_them(
    base: Base, arms: dict[str, str]
) -> None:
    before = {name: p.clone() for name, p in base.model.named_parameters()}
    for kind in ("lora", "parm", "uniarm"):
        guide = trimtab.ArmLogitsProcessor(arms[kind], base.model, base.tokenizer)
        base.answers(PROMPTS, guide)
        own = {p.data_ptr() for p in guide._batch._model.parameters()}
        assert own > {p.data_ptr() for p in base.model.parameters()}
    for name, parameter in base.model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.requires_grad
    other = trimtab.ArmLogitsProcessor(arms["other lora"], base.model, base.tokenizer)
    own = {p.data_ptr() for p in other._batch._model.parameters()}
    assert not own & {p.data_ptr() for p in base.model.parameters()}


def test_vocabularies(tmp_path: Path) -> None:
    """Padded LM heads, and an ARM that spells the end of turn otherwise."""
    base = Base(save_model(tmp_path / "base", seed=4, padding=5))
    arm = save_model(tmp_path / "arm", 5, tokenizer=make_tokenizer(end="<|stop|>"), padding=2)
    guide = trimtab.ArmLogitsProcessor(str(arm), base.model, base.tokenizer, strength=1.2)
    engine = trimtab.load(str(base.folder), {"a": str(arm)}, prompt_format="raw")
    inputs = base.tokenizer(PROMPTS[1], return_tensors="pt")
    found = base.model.generate(
        **inputs, max_new_tokens=8, do_sample=False, logits_processor=[guide], output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    ids = found.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    request = Request(PROMPTS[1], strength=1.2, sampling=GREEDY.but(max_new_tokens=len(ids)))
    assert is_specified(engine, request, ids)
    size = engine.base.vocabulary.size
    for scores in found.scores:
        assert bool((scores[0, size:] == float("-inf")).all())
        assert float(scores.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_what_is_refused(
    base: Base, arms: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make(arm: str, tokenizer: Any = base.tokenizer, **options: Any) -> Any:
        return trimtab.ArmLogitsProcessor(arm, base.model, tokenizer, **options)

    with pytest.raises(VocabularyError, match=r"cannot be fused .*base 'w0', ARM '<\|pad\|>'"):
        make(arms["whole"], word_tokenizer(300))
    with pytest.raises(ConfigError, match="takes no preference"):
        make(arms["lora"], preference="a=1")
    with pytest.raises(PreferenceError, match="unknown objective 'd'"):
        make(arms["parm"], preference="a=1,b=0,c=0,d=0")
    with pytest.raises(PreferenceError, match="strength is not finite"):
        make(arms["lora"], strength=float("nan"))
    with pytest.raises(FileNotFoundError, match="no ARM at"):
        make(str(tmp_path / "none"))
    guide = make(arms["whole"])
    with pytest.raises(ConfigError, match=r"have 300 tokens, the ARM .* reads 256"):
        guide(torch.full((1, 300), 5), torch.zeros(1, 300))
    begins = make_tokenizer()
    begins.pad_token = "<|user|>"
    ambiguous = make(arms["whole"], begins)
    pad = begins.pad_token_id
    alike = torch.tensor([[pad, 5, 6], [pad, 6, 7]])
    assert ambiguous(alike, torch.zeros(2, base.model.config.vocab_size)).isfinite().all()
    with pytest.raises(ConfigError, match="begin with the padding token"):
        ambiguous(torch.tensor([[pad, pad, 6], [pad, 6, 7]]), torch.zeros(2, 320))
    assert not caplog.records
    template = make_tokenizer(template="{{ 'Human ' + messages[0]['content'] }}")
    make(str(save_model(tmp_path / "other", tokenizer=template)))
    assert "trained on prompts of another form" in caplog.text


COMMON: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
SMALL: dict[str, Any] = {"hidden_size": 16, "initializer_range": 0.3}
FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3
    ),
    "bloom (ALiBi)": lambda: transformers.BloomConfig(vocab_size=64, n_layer=2, n_head=2, **SMALL),
    "gemma2 (sliding window)": lambda: transformers.Gemma2Config(
        vocab_size=64, head_dim=8, sliding_window=8, **COMMON
    ),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=64, num_hidden_layers=2, state_size=4, **SMALL
    ),
    "phi3 (LongRoPE)": lambda: transformers.Phi3Config(
        vocab_size=64, pad_token_id=0, original_max_position_embeddings=12,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 100.0, "factor": 4.0,
            "short_factor": [1.0] * 4, "long_factor": [3.0] * 4,
            "original_max_position_embeddings": 12,
        }, **COMMON,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_growing_batch_is_each_row_by_itself(
    family: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows of unequal length grow, change places, are doubled and dropped, as beams are."""
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
    batch = GrowingBatch(model, ([*range(3, 35)], 16), "the model")
    chance = random.Random(2)
    rows = [[chance.randrange(2, 64) for _ in range(n)] for n in (3, 9, 6)]
    for _ in range(12):
        width = max(map(len, rows))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        found = batch.next_logits(ids, mask)
        for row, logits in zip(rows, found, strict=True):
            wanted = forward(model, row)[-1].log_softmax(-1)
            assert torch.allclose(logits.log_softmax(-1), wanted, atol=NATS)
        rows = [[*chance.choice(rows), chance.randrange(2, 64)] for _ in rows]
    slow = "reads each row from its start" in caplog.text
    assert slow == (family == "mamba") and batch._caches == (family[:4] not in ("mamb", "phi3"))


def test_a_broken_arm_is_said(base: Base, arm_dir: Path) -> None:
    guide = trimtab.ArmLogitsProcessor(str(arm_dir), base.model, base.tokenizer)
    with torch.no_grad():
        guide._batch._model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ConfigError, match="are not numbers"):
        base.answers(PROMPTS, guide)


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
