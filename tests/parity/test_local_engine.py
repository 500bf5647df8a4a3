"""The local engine against the specification: the same greedy tokens, the same numbers, on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import make_model, make_tokenizer, save_model
from oracle import GREEDY, is_specified, next_logits, next_logp, specified, specified_logp
from rounding import close, nats

import trimtab
from trimtab.arms.sidecar import Sidecar
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.group_cache import Entry
from trimtab.engines.local.guided_model import open_caches
from trimtab.engines.local.shelves import CacheMemory
from trimtab.engines.local.stream_rows import StreamRow
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ModelLoadError
from trimtab.models.folder import weights_fingerprint

PROMPTS = [
    "the cat sat",
    "hello thank you yes no please story once upon a time",
    [{"role": "user", "content": "big red blue sun"}],
    "moon",
]
OTHER_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' said, very very big: ' + m['content'] + '. ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def make_lora(folder: Path, base: Path, seed: int, tokenizer: Any = None) -> Path:
    """A LoRA with random, non-zero B on a base folder, saved as PEFT saves it."""
    from peft import LoraConfig, TaskType, get_peft_model

    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "k_proj", "v_proj"],
    )
    model = get_peft_model(plain, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora_dir(tmp_path_factory: pytest.TempPathFactory, base_dir: Path) -> Path:
    return make_lora(tmp_path_factory.mktemp("lora"), base_dir, seed=3)


@pytest.fixture(scope="module")
def second_lora_dir(tmp_path_factory: pytest.TempPathFactory, base_dir: Path) -> Path:
    return make_lora(tmp_path_factory.mktemp("lora2"), base_dir, seed=4)


def held_storages(*models: Any) -> dict[int, int]:
    """Every block of memory that models hold tensors in, and its bytes."""
    found = {}
    for model in models:
        for module in model.modules():
            tensors = [*module.parameters(False), *module.buffers(False)]
            joint = getattr(module, "_joint", None)
            for tensor in [*tensors, *([joint._weight] if joint else [])]:
                if tensor.is_mkldnn:  # packed: it has no storage that can be seen
                    found[id(tensor)] = tensor.nbytes
                else:
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return found


def held_bytes(*models: Any) -> int:
    """Bytes that models hold tensors in, shared ones counted once."""
    return sum(held_storages(*models).values())


def set_generation(folder: Path, **values: Any) -> None:
    """Change a saved generation config."""
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def agrees(engine: LocalEngine, requests: list[Request]) -> None:
    """One batch of requests gives the tokens and the numbers of the specification."""
    answers = engine.generate(requests, report=True, batch_size=len(requests))
    for request, answer in zip(requests, answers, strict=True):
        assert is_specified(engine, request, answer.token_ids)
        plan = engine.plan(replace(request, report=True))
        for t, token in enumerate(answer.tokens):
            generated = list(answer.token_ids[:t])
            rows = [
                next_logp(
                    stream,
                    plan.prompts[stream.name] + generated,
                    plan.conditions.get(stream.name, (1.0,)),
                )
                for stream in (engine.base, *engine.arms)
            ]
            fused = specified_logp(engine, request, generated)
            for seen in (token, *token.alternatives):
                found = [seen.logp_base, *seen.rewards.values()]
                assert found == nats([float(row[seen.token_id]) for row in rows])
                assert seen.logp_fused == nats(float(fused[seen.token_id]))
                assert list(seen.rewards) == [arm.name for arm in engine.arms]
            best = [seen.logp_fused for seen in token.alternatives]
            assert best == nats(fused.topk(5).values.tolist())
            means = [float((rows[0].exp() * row).nansum()) for row in rows[1:]]
            assert list(token.mean_rewards.values()) == nats(means)


def requests_for(engine: LocalEngine, sampling: Sampling = GREEDY) -> list[Request]:
    """Unequal prompts, each with its own preference, strength and length."""
    names = engine.objectives
    return [
        Request(
            prompt,
            {name: 1.0 + (i + j) % 3 for j, name in enumerate(names)} if names else None,
            [1.0, 0.5, 2.0, 0.0][i],
            sampling.but(seed=i, max_new_tokens=sampling.max_new_tokens - i),
        )
        for i, prompt in enumerate(PROMPTS)
    ]


def test_an_adapter_that_names_a_hub_id_reads_with_the_base_it_was_trained_on(
    base_dir: Path, lora_dir: Path, tmp_path: Path
) -> None:
    """It brings no tokenizer, and its base is here, not on the hub: the weights say so."""
    named = shutil.copytree(lora_dir, tmp_path / "named")
    config = json.loads((named / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "somebody/somewhere"
    (named / "adapter_config.json").write_text(json.dumps(config))
    Sidecar(base_fingerprint=weights_fingerprint(str(base_dir))).save(named)
    engines = [trimtab.load(str(base_dir), {"helpful": str(arm)}) for arm in (named, lora_dir)]
    assert len(engines[0].groups) == 1
    found, wanted = (engine.generate(PROMPTS, temperature=0) for engine in engines)
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in wanted]
    Sidecar(base_fingerprint="of another model").save(named)
    with pytest.raises(ModelLoadError, match="somebody/somewhere"):
        trimtab.load(str(base_dir), {"helpful": str(named)})


class TestGreedy:
    def test_base_alone(self, base_dir: Path) -> None:
        engine = trimtab.load(str(base_dir))
        agrees(engine, requests_for(engine))

    def test_whole_model_arm(self, base_dir: Path, arm_dir: Path) -> None:
        engine = trimtab.load(str(base_dir), {"helpful": str(arm_dir)})
        agrees(engine, requests_for(engine))

    def test_lora_arms_and_a_whole_one(
        self, base_dir: Path, arm_dir: Path, lora_dir: Path, second_lora_dir: Path
    ) -> None:
        arms = {"one": str(lora_dir), "two": str(second_lora_dir), "three": str(arm_dir)}
        engine = trimtab.load(str(base_dir), arms)
        agrees(engine, requests_for(engine))

    def test_sampled_with_the_same_seed(
        self, base_dir: Path, arm_dir: Path, lora_dir: Path
    ) -> None:
        """The specification draws with the same numbers, so even sampled tokens agree."""
        engine = trimtab.load(str(base_dir), {"one": str(lora_dir), "two": str(arm_dir)})
        agrees(engine, requests_for(engine, GREEDY.but(temperature=1.0)))

    def test_all_filters_in_one_batch(self, base_dir: Path, arm_dir: Path) -> None:
        """Every row with another filter, and one with none: each as if it were alone."""
        engine = trimtab.load(str(base_dir), {"helpful": str(arm_dir)})
        settings: list[dict[str, Any]] = [
            {},
            {"temperature": 0.0},
            {"top_k": 3},
            {"top_p": 0.4},
            {"min_p": 0.3},
            {"top_k": 20, "top_p": 0.7, "min_p": 0.05, "temperature": 1.7},
            {"top_k": 1},
        ]
        requests = [
            Request(PROMPTS[i % 4], None, 1.0, GREEDY.but(**{"temperature": 1.0, "seed": i, **s}))
            for i, s in enumerate(settings)
        ]
        answers = engine.generate(requests, batch_size=7)
        for request, answer in zip(requests, answers, strict=True):
            assert list(answer.token_ids) == specified(engine, request)
        # and the filters do something: top-k 1 is greedy
        greedy = Request(requests[6].prompt, None, 1.0, GREEDY)
        assert answers[6].token_ids == engine.generate([greedy])[0].token_ids


class TestVocabularies:
    def test_padded_heads(self, tmp_path: Path) -> None:
        """LM heads of 320 + 7 and 320 + 3 rows over 320 tokens: the padding takes no mass."""
        base = save_model(tmp_path / "base", 1, padding=7)
        arm = save_model(tmp_path / "arm", 2, padding=3)
        engine = trimtab.load(str(base), {"helpful": str(arm)})
        size = len(make_tokenizer())
        assert engine.base.vocabulary.size == engine.arms[0].vocabulary.own_size == size
        agrees(engine, requests_for(engine))
        with torch.no_grad():
            ids = torch.tensor([engine.plan(Request("moon")).prompts["base"]])
            logits = engine.base.model(ids.to(engine.base.model.device)).logits[0, -1]
        assert logits.shape[-1] == size + 7
        [answer] = engine.generate(["moon"], strength=0, report=True, max_new_tokens=1)
        expected = logits[:size].log_softmax(-1)[answer.token_ids[0]]
        assert answer.tokens[0].logp_base == nats(float(expected))

    def test_end_of_turn_spelt_differently(self, tmp_path: Path, base_dir: Path) -> None:
        """Id 3 is `<|end|>` to the base and `</s>` to the ARM: the same end."""
        tokenizer = make_tokenizer(end="</s>")
        arm = save_model(tmp_path / "arm", 2, tokenizer=tokenizer)
        engine = trimtab.load(str(base_dir), {"helpful": str(arm)})
        assert engine.arms[0].vocabulary.own_id == ((3, 3),)
        agrees(engine, requests_for(engine))

    def test_end_of_turn_that_only_the_base_has(self, tmp_path: Path, arm_dir: Path) -> None:
        """The base ends with id 320, which the ARM lacks: the ARM's own end (id 3) speaks for it,
        and when decoding goes on, the ARM reads its own end."""
        tokenizer = make_tokenizer(extra=("<|over|>",))
        base = save_model(tmp_path / "base", 1, tokenizer=tokenizer)
        over = len(tokenizer) - 1
        set_generation(base, eos_token_id=[3, over])
        engine = trimtab.load(str(base), {"helpful": str(arm_dir)})
        assert engine.arms[0].vocabulary.own_id == ((over, 3),)
        assert engine.ends == {3, over}
        agrees(engine, requests_for(engine))
        # say it: only the end may be said, then anything
        plan = engine.plan(Request("moon"))
        said: list[int] = []
        arm = engine.arms[0].model
        with torch.no_grad():
            ids = torch.tensor([plan.prompts["helpful"]], device=arm.device)
            row = arm(ids).logits[0, -1].log_softmax(-1)
        with _only(engine, over):
            options = {"max_new_tokens": 3, "ignore_eos": True, "report": True}
            [answer] = engine.generate(["moon"], **options)  # type: ignore[arg-type]
            said = list(answer.token_ids)
        assert said == [over] * 3
        assert answer.tokens[0].rewards["helpful"] == nats(float(row[3]))
        with torch.no_grad():
            ids = torch.tensor([[*plan.prompts["helpful"], 3]], device=arm.device)
            again = arm(ids).logits[0, -1].log_softmax(-1)
        assert answer.tokens[1].rewards["helpful"] == nats(float(again[3]))


def _only(engine: LocalEngine, token: int) -> Any:
    """The base may say one token only."""
    from oracle import changed_logits

    def forbid(logits: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(logits.shape[-1], device=logits.device) != token
        return logits.masked_fill(mask, float("-inf"))

    return changed_logits(engine, "base", forbid)


class TestTemplates:
    def test_each_stream_reads_its_own_template(self, tmp_path: Path, base_dir: Path) -> None:
        arm = save_model(tmp_path / "arm", 2, tokenizer=make_tokenizer(template=OTHER_TEMPLATE))
        engine = trimtab.load(str(base_dir), {"helpful": str(arm)})
        for prompt in PROMPTS:
            base_ids, arm_ids = engine.plan(Request(prompt)).prompts.values()
            assert len(arm_ids) > len(base_ids)
        text = engine.arms[0].tokenizer.decode(engine.plan(Request("moon")).prompts["helpful"])
        assert text == "user said, very very big: moon. assistant: "
        agrees(engine, requests_for(engine))

    def test_a_lora_with_its_own_template(self, tmp_path: Path, base_dir: Path) -> None:
        arm = make_lora(tmp_path, base_dir, 5, make_tokenizer(template=OTHER_TEMPLATE))
        engine = trimtab.load(str(base_dir), {"helpful": str(arm)})
        base_ids, arm_ids = engine.plan(Request("moon")).prompts.values()
        assert base_ids != arm_ids
        agrees(engine, requests_for(engine))


class TestSharedWeights:
    def test_a_lora_shares_the_base(self, base_dir: Path, lora_dir: Path) -> None:
        """Beside the base's weights there are the low-rank factors, and nothing else."""
        engine = trimtab.load(str(base_dir), {"one": str(lora_dir)})
        [group] = engine.groups
        assert held_bytes(group.lm) < 1.3 * held_bytes(engine.base.model)
        alone = trimtab.load(str(base_dir)).groups[0].lm
        assert held_bytes(alone, engine.base.model) >= 2 * held_bytes(alone) * 0.99
        storages = {p.untyped_storage().data_ptr() for p in engine.base.model.parameters()}
        assert storages <= set(held_storages(group.lm))

    def test_two_loras_share_it_too(
        self, base_dir: Path, lora_dir: Path, second_lora_dir: Path
    ) -> None:
        engine = trimtab.load(str(base_dir), {"one": str(lora_dir), "two": str(second_lora_dir)})
        assert {id(arm.model) for arm in engine.arms} == {id(engine.base.model)}
        assert len(engine.groups) == 1
        logits = [next_logits(arm)([5, 6, 7]) for arm in engine.arms]
        assert not torch.allclose(*logits, atol=0.1)

    def test_the_base_stays_what_it_was(self, base_dir: Path, lora_dir: Path) -> None:
        """Bit for bit: the adapters are on another module tree."""
        ids = torch.tensor([[5, 6, 7, 8]])
        plain = transformers.AutoModelForCausalLM.from_pretrained(base_dir).eval()
        engine = trimtab.load(str(base_dir), {"one": str(lora_dir)})
        engine.generate(["hello"], max_new_tokens=2)
        device = engine.base.model.device
        with torch.no_grad():
            found, expected = engine.base.model(ids.to(device)), plain.to(device)(ids.to(device))
            assert torch.equal(found.logits, expected.logits)

    def test_the_arm_is_what_peft_loads(self, base_dir: Path, lora_dir: Path) -> None:
        from peft import PeftModel

        ids = torch.tensor([[5, 6, 7, 8]])
        plain = transformers.AutoModelForCausalLM.from_pretrained(base_dir)
        theirs = PeftModel.from_pretrained(plain, lora_dir).eval()
        engine = trimtab.load(str(base_dir), {"one": str(lora_dir)})
        [group] = engine.groups
        [cache] = open_caches([group], CacheMemory())
        rows = [
            StreamRow(i, ids[0].tolist(), group.streams[i].vocabulary, tuple(coefficients))
            for i, coefficients in enumerate(group.coefficients().tolist())
        ]
        with torch.no_grad():
            logp_EMV = cache.forward([Entry(row, row.sequence, 1) for row in rows])
            found = {name: logp_EMV[i] for name, i in group.index.items()}
            for name, model in (("base", engine.base.model), ("one", theirs)):
                expected = model(ids.to(model.device)).logits[:, -1].log_softmax(-1)
                close(found[name].cpu(), expected.cpu())
        assert not torch.allclose(found["one"], found["base"], atol=0.1)

    def test_a_lora_of_another_model_gets_its_own(self, arm_dir: Path, lora_dir: Path) -> None:
        """Trained on the base, used beside another one: nothing is shared, and it still agrees."""
        engine = trimtab.load(str(arm_dir), {"one": str(lora_dir)})
        own = engine.arms[0].model.lm_head.weight
        assert own.data_ptr() != engine.base.model.lm_head.weight.data_ptr()
        agrees(engine, requests_for(engine))


@pytest.fixture(scope="module")
def engine(base_dir: Path, arm_dir: Path) -> LocalEngine:
    """A base and one whole-model ARM from disk."""
    return trimtab.load(str(base_dir), {"helpful": str(arm_dir)})


class TestText:
    def full(self, engine: LocalEngine, seed: int) -> tuple[str, list[int]]:
        [answer] = engine.generate(["the cat"], max_new_tokens=24, ignore_eos=True, seed=seed)
        return answer.text, list(answer.token_ids)

    def test_text_is_the_decoded_tokens(self, engine: LocalEngine) -> None:
        for seed in range(5):
            [answer] = engine.generate(["the cat"], max_new_tokens=16, seed=seed)
            ids = [i for i in answer.token_ids if i not in engine.ends]
            assert answer.text == engine.base.tokenizer.decode(ids, skip_special_tokens=True)

    def test_max_new_tokens(self, engine: LocalEngine) -> None:
        _, ids = self.full(engine, 1)
        for n in (1, 5):
            options = {"max_new_tokens": n, "ignore_eos": True, "seed": 1}
            [answer] = engine.generate(["the cat"], **options)  # type: ignore[arg-type]
            assert list(answer.token_ids) == ids[:n]
            assert answer.finish_reason == "length"

    def test_end_of_turn(self, engine: LocalEngine) -> None:
        """Only the end may be said: one token, no text."""
        with _only(engine, 3):
            [answer] = engine.generate(["the cat"], max_new_tokens=9)
        assert (list(answer.token_ids), answer.text, answer.finish_reason) == ([3], "", "stop")

    def test_rows_end_apart(self, engine: LocalEngine) -> None:
        """Eight rows of 1 to 8 tokens in one batch: the first are done while the others go on."""
        requests = [
            Request("the cat", sampling=GREEDY.but(max_new_tokens=n, seed=n, temperature=1.0))
            for n in (3, 1, 8, 2, 7, 4, 6, 5)
        ]
        for request, answer in zip(requests, engine.generate(requests), strict=True):
            assert list(answer.token_ids) == specified(engine, request)

    @pytest.mark.parametrize("seed", range(4))
    def test_stop_text(self, engine: LocalEngine, seed: int) -> None:
        """Any piece of a response can end it, also one that lies across two tokens."""
        text, ids = self.full(engine, seed)
        for start, size in ((2, 1), (4, 3), (len(text) // 2, 5)):
            stop = text[start : start + size]
            [answer] = engine.generate(
                ["the cat"], max_new_tokens=24, ignore_eos=True, seed=seed, stop=(stop, "nowhere")
            )
            assert answer.text == text[: text.index(stop)]
            assert answer.finish_reason == "stop"
            assert list(answer.token_ids) == ids[: len(answer.token_ids)]
            assert stop in engine.base.tokenizer.decode(answer.token_ids, skip_special_tokens=True)

    @pytest.mark.parametrize("stop", [(), ("e",), ("the", " a")])
    def test_a_stream_is_the_batch(self, engine: LocalEngine, stop: tuple[str, ...]) -> None:
        for seed in range(4):
            options: dict[str, Any] = {"max_new_tokens": 20, "seed": seed, "stop": stop}
            [answer] = engine.generate(["the cat", "moon"][:1], **options)
            chunks = list(engine.stream("the cat", **options))
            assert "".join(chunk.text for chunk in chunks) == answer.text
            assert [c.completion for c in chunks[:-1]] == [None] * (len(chunks) - 1)
            streamed = chunks[-1].completion
            assert streamed is not None
            assert streamed.kl == pytest.approx(answer.kl)  # rounds, where a prefix is reused
            assert replace(streamed, kl=answer.kl) == answer

    def test_characters_of_several_tokens_come_whole(self, base_dir: Path) -> None:
        """`é` is two bytes and here two tokens: no half of it is ever shown."""
        from trimtab.engines.text import TextStream

        tokenizer = make_tokenizer()
        ids = tokenizer("né 😀 fin", add_special_tokens=False)["input_ids"]
        stream = TextStream(tokenizer)
        pieces = [stream.push(i) for i in ids] + [stream.finish()]
        assert "".join(pieces) == stream.text == "né 😀 fin"
        assert not any("\ufffd" in piece for piece in pieces)


class TestArchitectures:
    """Other families than Llama, built from a config; the ARM is of the same family."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda v: transformers.GPT2Config(
                vocab_size=v, n_embd=16, n_layer=2, n_head=2, n_positions=128,
                bos_token_id=0, eos_token_id=3, initializer_range=0.3,
            ),
            lambda v: transformers.GPTNeoXConfig(
                vocab_size=v, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=32, max_position_embeddings=128, initializer_range=0.3,
            ),
            lambda v: transformers.Qwen2Config(
                vocab_size=v, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, intermediate_size=32, max_position_embeddings=128,
                tie_word_embeddings=True, initializer_range=0.3,
            ),
            lambda v: transformers.Gemma2Config(
                vocab_size=v, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, intermediate_size=32, head_dim=8, sliding_window=8,
                max_position_embeddings=128, initializer_range=0.3,
            ),
            lambda v: transformers.BloomConfig(
                vocab_size=v, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.3,
            ),
        ],
        ids=["gpt2", "gpt_neox", "qwen2-tied", "gemma2-sliding-window", "bloom-alibi"],
    )  # fmt: skip
    def test_greedy(self, tmp_path: Path, make: Callable[[int], Any]) -> None:
        tokenizer = make_tokenizer()
        for seed, name in enumerate(("base", "arm")):
            torch.manual_seed(seed)
            config = make(len(tokenizer))
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
        engine = trimtab.load(str(tmp_path / "base"), {"helpful": str(tmp_path / "arm")})
        agrees(engine, requests_for(engine, GREEDY.but(max_new_tokens=12)))

    def test_a_large_and_a_small_body(self, tmp_path: Path, base_dir: Path) -> None:
        """Weak to strong: the ARM has another width and depth than the base."""
        tokenizer = make_tokenizer()
        make_model(9, len(tokenizer), hidden=8, layers=1).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        engine = trimtab.load(str(base_dir), {"helpful": str(tmp_path)})
        agrees(engine, requests_for(engine))
