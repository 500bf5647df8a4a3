"""What Trimtab says of models that it did not make, against the libraries that did."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from conftest import write_jsonl

import trimtab
from trimtab.arms.load import tokenizer_of
from trimtab.demo import WARM
from trimtab.engines import reference as specification
from trimtab.engines.local import LocalEngine
from trimtab.engines.sampling import Sampling
from trimtab.errors import VocabularyError
from trimtab.models.load import load_model
from trimtab.models.packaged import MODELS
from trimtab.models.probe import forward, reference, rms_gap

pytestmark = pytest.mark.slow
QUESTION = "How do I bake bread?"
PROMPTS = [QUESTION, "Write one sentence about 東京 and the sea 🌊.", "Hi"]
TOKENS = 24


def _folder(name: str) -> str:
    folder = MODELS[name].folder
    if not folder.is_dir():
        pytest.skip(f"{MODELS[name].name} is not here (make models)")
    return str(folder)


@pytest.fixture(scope="session")
def smollm2() -> str:
    """SmolLM2-135M-Instruct; `make test` fetches it."""
    return _folder("smollm2")


@pytest.fixture(scope="session")
def gemma3() -> str:
    """Gemma 3 270M, a base model without a chat template; `make models` fetches it."""
    return _folder("gemma3")


@pytest.fixture(scope="session", params=["smollm2", "gemma3"])
def real(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return _folder(request.param)


@pytest.fixture(autouse=True)
def two_threads_one_model() -> Iterator[None]:
    """Real models are worth two threads; tiny ones are not."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    gc.collect()


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    """SmolLM2's file as its package holds it."""
    path = MODELS["smollm2"].path
    if not path.is_file():
        pytest.skip(f"{MODELS['smollm2'].name} is not here (make models)")
    return path


def by_transformers(model: Any, prompt_ids: list[int], tokens: int) -> list[int]:
    """Greedy ids from `generate` of a model, or of a folder's."""
    model = load_model(model, dtype="float32") if isinstance(model, str) else model
    ids = torch.tensor([prompt_ids])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
            do_sample=False,
        )  # fmt: skip
    return list(out[0, len(prompt_ids) :].tolist())


def test_greedy_text_is_transformers_in_float32(real: str) -> None:
    engine = trimtab.load(real, dtype="float32")
    answers = engine.generate(PROMPTS, max_new_tokens=TOKENS, temperature=0)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        expected = by_transformers(real, engine.base.prompt_ids(prompt), TOKENS)
        assert answer.token_ids == expected
        assert answer.text.strip()


def test_an_instruction_at_1_is_the_instructed_model(smollm2: str) -> None:
    """Greedily the tokens are those that transformers gives under the system message."""
    said = "Use short words."
    engine = trimtab.load(smollm2, dtype="float32", instruct={"plain": said})
    answers = engine.generate(PROMPTS[:2], max_new_tokens=TOKENS, temperature=0)
    plain = engine.generate(PROMPTS[:2], max_new_tokens=TOKENS, temperature=0, strength=0)
    for prompt, answer, untold in zip(PROMPTS, answers, plain, strict=False):
        chat: Any = [{"role": "system", "content": said}, {"role": "user", "content": prompt}]
        expected = by_transformers(smollm2, engine.base.prompt_ids(chat), TOKENS)
        assert answer.token_ids == expected != untold.token_ids


def test_a_contrast_with_the_base_is_the_tuned_model(smollm2: str) -> None:
    """The shipped ARM against the model that it was trained on: what PEFT generates with it."""
    engine = trimtab.load(smollm2, dtype="float32", contrast={"warm": (WARM, smollm2)})
    assert len(engine.groups) == 1
    [answer] = engine.generate([QUESTION], max_new_tokens=TOKENS, temperature=0)
    tuned = peft.PeftModel.from_pretrained(load_model(smollm2, dtype="float32"), WARM)
    expected = by_transformers(tuned.eval(), engine.base.prompt_ids(QUESTION), TOKENS)
    assert answer.token_ids == expected


def test_bfloat16_is_within_the_noise_of_the_format(real: str) -> None:
    """Along its own text the engine's log-probs are as near to transformers' as its two ways are
    to each other (`Reference.bar`, which is what loading allows)."""
    engine = trimtab.load(real, dtype="bfloat16")
    [answer] = engine.generate(
        [QUESTION], max_new_tokens=TOKENS, seed=3, report=True, ignore_eos=True
    )
    prompt = engine.base.prompt_ids(QUESTION)
    ids = [*prompt, *answer.token_ids]
    wanted = reference(
        load_model(real, dtype="bfloat16"), ids, len(prompt), name=real, source="transformers"
    )
    logp = wanted.logits_TV.log_softmax(-1)[len(prompt) - 1 : -1]
    theirs = logp.gather(-1, torch.tensor(answer.token_ids)[:, None])[:, 0]
    ours = torch.tensor([token.logp_base for token in answer.tokens])
    assert float((ours - theirs).square().mean().sqrt()) < wanted.bar


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_streamed_text_is_the_final_text(smollm2: str, dtype: str) -> None:
    engine = trimtab.load(smollm2, dtype=dtype)
    for seed, prompt in enumerate(["Répète: 🙂🚀 日本語", "Say 你好 and 🌊 three times."]):
        *chunks, last = engine.stream(prompt, max_new_tokens=TOKENS, seed=seed, temperature=1.5)
        text = "".join(chunk.text for chunk in [*chunks, last])
        assert last.completion is not None
        assert text == last.completion.text
        ends = engine.ends
        kept = [i for i in last.completion.token_ids if i not in ends]
        decoded = engine.base.tokenizer.decode(kept, skip_special_tokens=True)
        assert text == decoded.removesuffix("\ufffd")  # half a character at the cut is held back


def test_the_smollm_pre_tokenizer(smollm2: str) -> None:
    """As its own tokenizer.json splits: single digits, then byte level."""
    tokenizer = tokenizer_of(smollm2)
    assert tokenizer.tokenize("\n\n1.") == ["ĊĊ", "1", "."]
    assert tokenizer.tokenize("in 1984") == ["in", "Ġ", "1", "9", "8", "4"]
    text = "\n\n1. Zürich 🙂 costs 42 %\t東京\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.fixture(scope="module")
def arm(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps of GenARM on pairs in which the friendly answer is the better one."""
    folder = tmp_path_factory.mktemp("real")
    things = ["bread", "rain", "the sea", "trains", "bees", "chess", "music", "tea", "snow", "maps"]
    rows = [
        {
            "prompt": f"{ask} {thing}.",
            "chosen": "Gladly! It is lovely, and I am happy that you ask.",
            "rejected": "No. It is dull, and I do not care for it.",
        }
        for thing in things
        for ask in ("Tell me about", "What is there to know of", "Say something about", "Explain")
    ]
    data = write_jsonl(folder / "pairs.jsonl", rows)
    trimtab.train(
        model=smollm2, data=data, objectives="friendly", output_dir=str(folder / "arm"),
        max_steps=20, per_device_train_batch_size=4, learning_rate=1e-3, split="none",
        logging_steps=1, eval_strategy="no", gradient_accumulation_steps=1, warmup_steps=0,
    )  # fmt: skip
    return folder / "arm"


def test_twenty_steps_lower_the_loss(arm: Path) -> None:
    lines = [json.loads(line) for line in (arm / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 20
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def plain_peft(smollm2: str, arm: Path, dtype: Any = "float32") -> Any:
    return peft.PeftModel.from_pretrained(load_model(smollm2, dtype=dtype), arm).eval()


def test_the_arm_is_a_plain_peft_folder_and_fused_as_peft_runs_it(smollm2: str, arm: Path) -> None:
    engine = trimtab.load(smollm2, {"friendly": str(arm)}, dtype="float32")
    assert len(engine.groups) == 1  # one pass for base and ARM
    answers = engine.generate(PROMPTS, max_new_tokens=8, seed=1, report=True)
    theirs = plain_peft(smollm2, arm)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        prefix = engine.arms[0].prompt_ids(prompt)
        logp = forward(theirs, [*prefix, *answer.token_ids]).log_softmax(-1)
        expected = [
            float(logp[len(prefix) + i - 1, token]) for i, token in enumerate(answer.token_ids)
        ]
        found = [token.rewards["friendly"] for token in answer.tokens]
        assert found == pytest.approx(expected, abs=1e-3)


def test_guided_text_is_the_specifications(smollm2: str, arm: Path) -> None:
    engine = trimtab.load(smollm2, {"friendly": str(arm)}, dtype="float32")
    base, theirs = load_model(smollm2, dtype="float32"), plain_peft(smollm2, arm)
    for strength, temperature in ((1.0, 0.0), (0.5, 1.0)):
        sampling = Sampling(max_new_tokens=10, temperature=temperature, seed=11)
        told = [
            specification.Stream(
                lambda ids, model=model: forward(model, ids)[-1],  # type: ignore[misc]
                stream.prompt_ids(QUESTION),
            )
            for model, stream in zip((base, theirs), (engine.base, *engine.arms), strict=True)
        ]
        expected = specification.generate(told[0], told[1:], [strength], sampling, [*engine.ends])
        [answer] = engine.generate(
            [QUESTION], strength=strength, max_new_tokens=10, temperature=temperature, seed=11
        )
        assert answer.token_ids == expected
        if temperature == 0:
            assert in_generate(base, smollm2, arm, told[0].prompt, len(expected)) == expected


def in_generate(base: Any, smollm2: str, arm: Path, prompt: list[int], tokens: int) -> list[int]:
    """Greedy ids of transformers' `generate` with the ARM as a logits processor."""
    guide = trimtab.ArmLogitsProcessor(str(arm), base, tokenizer_of(smollm2))
    ids = torch.tensor([prompt])
    out = base.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
        do_sample=False, logits_processor=[guide],
    )  # fmt: skip
    return list(out[0, len(prompt) :].tolist())


def test_a_real_arm_in_bfloat16_is_verified(
    smollm2: str, arm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = trimtab.load(smollm2, {"friendly": str(arm)}, dtype="bfloat16")
    assert not [r for r in caplog.records if "could not be verified" in r.getMessage()]
    [plain, guided] = (
        engine.generate([QUESTION], strength=s, max_new_tokens=12, temperature=0)[0].text
        for s in (0.0, 2.0)
    )
    assert plain != guided


def test_an_arm_of_another_family_is_refused(smollm2: str, gemma3: str) -> None:
    with pytest.raises(VocabularyError, match=r"id 0: base '<\|endoftext\|>', ARM '<pad>'"):
        trimtab.load(smollm2, {"other": gemma3})


def test_a_base_guides_itself(real: str) -> None:
    """The base as its own ARM at strength 1 is the base at half the temperature."""
    engine = trimtab.load(real, {"same": real}, dtype="float32")
    [guided] = engine.generate([QUESTION], strength=1.0, seed=5, max_new_tokens=12)
    [sharp] = engine.generate([QUESTION], strength=0.0, seed=5, max_new_tokens=12, temperature=0.5)
    assert guided.token_ids == sharp.token_ids


def test_the_command_of_the_readme(
    gguf_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`trimtab generate --base SmolLM2-135M-Instruct.Q4_1.gguf` answers sense."""
    from trimtab.cli.main import main

    code = main(
        ["generate", "--base", str(gguf_file), "--dtype", "bfloat16", "--prompt", QUESTION,
         "--temperature", "0", "--max-new-tokens", "48"]
    )  # fmt: skip
    said = capsys.readouterr().out.lower()
    assert code == 0
    assert any(word in said for word in ("flour", "yeast", "dough", "bak"))


def test_the_gap_of_the_formats_is_noise(smollm2: str) -> None:
    """What the loading check allows is far below what a wrong model would show."""
    one, other = (
        forward(load_model(smollm2, dtype=dtype), [*range(1000, 1040)]).log_softmax(-1)
        for dtype in ("float32", "bfloat16")
    )
    assert rms_gap(one, other) < 1.0
    assert isinstance(trimtab.load(smollm2), LocalEngine)


def test_the_shipped_arm_makes_answers_warmer(smollm2: str) -> None:
    """Held-out questions, the same seeds: .29 warmer in the mean, with a standard error of .08.

    Other arithmetic draws other answers; an ARM as good as this one fails once in five thousand.
    """
    from trimtab.demo.smollm2.questions import HELD_OUT
    from trimtab.demo.smollm2.scorers import warm

    engine = trimtab.load(smollm2, {"warm": WARM}, dtype="bfloat16")
    assert len(engine.groups) == 1
    frozen, steered = (
        engine.generate(
            HELD_OUT, strength=s, max_new_tokens=40, temperature=0.8, seed=0, batch_size=24
        )
        for s in (0.0, 2.0)
    )
    gains = [warm(b.text) - warm(a.text) for a, b in zip(frozen, steered, strict=True)]
    assert sum(gains) / len(gains) > 0


def test_the_shipped_arm_in_transformers_own_generate(smollm2: str) -> None:
    """A left-padded batch, greedy: the tokens that the engine gives. The ARM names a hub id."""
    model = load_model(smollm2, dtype="float32")
    tokenizer = tokenizer_of(smollm2)
    tokenizer.padding_side = "left"
    guide = trimtab.ArmLogitsProcessor(WARM, model, tokenizer)
    prompts = ["How can I sleep better?", "Hi"]
    inputs = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    out = model.generate(**inputs, logits_processor=[guide], do_sample=False, max_new_tokens=TOKENS)
    engine = trimtab.load(smollm2, {"warm": WARM}, dtype="float32")
    answers = engine.generate(prompts, max_new_tokens=TOKENS, temperature=0)
    found = out[:, inputs["input_ids"].shape[1] :].tolist()
    for own, answer in zip(found, answers, strict=True):
        assert own[: len(answer.token_ids)] == answer.token_ids


@pytest.mark.slow
def test_an_instruction_is_distilled(smollm2: str, tmp_path: Path) -> None:
    """Sixteen samples, twelve steps: where it was tried, .7 of its divergence from the base."""
    questions = [
        "Why is the sky blue?", "How do plants grow?", "What is money?", "Why do we sleep?",
        "How do birds fly?", "What is a volcano?", "Why is the sea salty?", "How do cars work?",
    ]  # fmt: skip
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": q} for q in questions])
    trimtab.distill(
        base=smollm2,
        prompts=str(prompts),
        output_dir=str(tmp_path / "arm"),
        instruct={"plain": "Use short words and short sentences, as for a small child."},
        samples=2,
        unguided=0,
        max_new_tokens=32,
        max_steps=12,
        num_train_epochs=4,
        gradient_accumulation_steps=1,
        learning_rate=1e-3,
        lora_target_modules=["all-linear"],
        logging_steps=1,
        save_steps=1.0,
    )
    lines = (tmp_path / "arm/metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    explained = [record["explained"] for record in records if "explained" in record]
    assert sum(explained[-3:]) / 3 > 0.3
    engine = trimtab.load(smollm2, {"plain": str(tmp_path / "arm")})
    assert [len(group.streams) for group in engine.groups] == [2]


def test_a_search_with_a_reward_model_of_its_size(smollm2: str, tmp_path: Path) -> None:
    """ARGS by a classifier on the same backbone (its head at random): token by token what
    transformers gives of both models without a cache. A reward that no cache has seen is the
    library's, too."""
    torch.manual_seed(0)
    auto = transformers.AutoModelForSequenceClassification
    judge = auto.from_pretrained(smollm2, num_labels=1, dtype=torch.float32)
    torch.nn.init.normal_(judge.score.weight, std=0.1)
    judge.save_pretrained(tmp_path / "judge")
    tokenizer = tokenizer_of(smollm2)
    tokenizer.save_pretrained(tmp_path / "judge")
    engine = trimtab.load(smollm2, dtype="float32")
    searcher = trimtab.search(
        engine, "args", reward_model=str(tmp_path / "judge"), dtype="float32", options={"weight": 2}
    )
    [answer] = searcher.generate([QUESTION], max_new_tokens=6)
    model, ids = load_model(smollm2, dtype="float32"), engine.base.prompt_ids(QUESTION)
    for token in answer.token_ids[:-1]:  # with the last one the response is whole, and read so
        logp = forward(model, ids)[-1].log_softmax(-1)
        some = logp.topk(10).indices.tolist()
        with torch.no_grad():
            rewards = [float(judge(input_ids=torch.tensor([[*ids, v]])).logits) for v in some]
        scores = [float(logp[v]) + 2 * r for v, r in zip(some, rewards, strict=True)]
        assert scores[some.index(token)] >= max(scores) - 1e-2
        ids = [*ids, token]
    assert answer.cost is not None
    assert answer.cost.base_tokens == len(engine.base.prompt_ids(QUESTION)) + 5
