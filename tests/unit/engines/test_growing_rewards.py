"""Rewards of responses that grow: those of the library, whatever was read before."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from classifiers import classifier, encoder, saved
from conftest import make_tokenizer, save_model
from peft import LoraConfig, get_peft_model

from trimtab.arms.reward_model import RewardModel
from trimtab.engines.local import growing_rewards, reward_rows
from trimtab.engines.local.growing_rewards import GrowingRewards, Response

PROMPTS: list[Any] = ["the cat sat on the mat", [{"role": "user", "content": "hello you"}]]


def adapter(folder: Path) -> str:
    """A LoRA that makes a classifier of a language model."""
    base = save_model(folder / "base", 5)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"])
    tuned = get_peft_model(model, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return saved(folder / "lora", tuned)


def sliding(folder: Path) -> str:
    torch.manual_seed(2)
    config = transformers.MistralConfig(
        vocab_size=len(make_tokenizer()), hidden_size=16, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, sliding_window=5,
        initializer_range=0.3, pad_token_id=None, bos_token_id=None, eos_token_id=3, num_labels=1,
    )  # fmt: skip
    return saved(folder / "sliding", transformers.MistralForSequenceClassification(config).eval())


def padded_with_end(folder: Path) -> str:
    """Its padding is the end of the turn: transformers looks at the token before all of these."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return saved(folder / "ends", classifier(seed=4, pad=3), tokenizer)


KINDS = {
    "classifier": lambda folder: saved(folder / "rm", classifier(seed=3)),
    "no padding": lambda folder: saved(folder / "rm", classifier(seed=6, pad=None)),
    "padded with the end": padded_with_end,
    "adapter": adapter,
    "sliding window": sliding,
}


def responses(seed: int, count: int) -> list[Response]:
    """Beginnings of each other, more and less, some of them whole."""
    numbers, tokenizer = random.Random(seed), make_tokenizer()
    trunk = [numbers.randrange(4, len(tokenizer)) for _ in range(30)]
    made = []
    for _ in range(count):
        ids = [*trunk[: numbers.randrange(31)], *(numbers.randrange(4, 300) for _ in range(3))]
        ended = numbers.random() < 0.3
        made.append(Response(ids, ended, lambda ids=ids: tokenizer.decode(ids)))
    return made


def by_the_library(model: RewardModel, prompt: Any, response: Response) -> float:
    if response.ended:
        return model.score([prompt], [response.text()])[0].reward
    ids = torch.tensor([[*model.reader.beginning(prompt).ids, *response.ids]])
    with torch.no_grad():
        return float(model.model(input_ids=ids).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_library_gives(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over rounds of responses to two prompts that begin alike, in any order; and again."""
    folder = KINDS[kind](tmp_path)
    rewards = GrowingRewards(partial(RewardModel, folder), make_tokenizer(), [3])
    assert "from its start" not in caplog.text
    model = RewardModel(folder)
    under_way = [rewards.open(prompt) for prompt in PROMPTS]
    for turn in range(5):
        some = [responses(turn, 4), responses(turn + 50, 1 + turn)]
        found = rewards.rate([*zip(under_way, some, strict=True)])
        for prompt, ones, own in zip(PROMPTS, some, found, strict=True):
            for response, reward in zip(ones, own, strict=True):
                expected = by_the_library(model, prompt, response)
                assert reward == pytest.approx(expected, abs=1e-3)
    tokens = under_way[0].tokens
    again = rewards.rate([(under_way[0], [*some[0], *some[0]])])
    assert again == [[*found[0], *found[0]]]  # to the last bit: what reads alike ties
    assert under_way[0].tokens == tokens


def test_a_shared_beginning_is_read_once(tmp_path: Path) -> None:
    """Four responses of 20 shared and 2 own tokens: the prompt and 20 + 4 · 2."""
    folder = saved(tmp_path / "rm", classifier(seed=3))
    rewards = GrowingRewards(partial(RewardModel, folder), make_tokenizer(), [3])
    under_way = rewards.open(PROMPTS[0])
    asked = [Response([*range(20, 40), 50 + i, 60 + i], False, str) for i in range(4)]
    rewards.rate([(under_way, asked)])
    assert under_way.tokens == len(under_way.beginning.ids) + 20 + 4 * 2
    assert under_way.passes == 2


def test_long_responses_are_read_in_several_forwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_rewards, "CHUNK", 10)
    folder = saved(tmp_path / "rm", classifier(seed=3))
    rewards = GrowingRewards(partial(RewardModel, folder), make_tokenizer(), [3])
    under_way, model = rewards.open(PROMPTS[0]), RewardModel(folder)
    [found] = rewards.rate([(under_way, ones := responses(7, 6))])
    for response, reward in zip(ones, found, strict=True):
        assert reward == pytest.approx(by_the_library(model, PROMPTS[0], response), abs=1e-3)
    assert under_way.passes > 3


def test_an_encoder_reads_every_response_from_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its head is on the first token, which sees all others: nothing can be kept."""
    folder = saved(tmp_path / "bert", encoder())
    rewards = GrowingRewards(partial(RewardModel, folder), make_tokenizer(), [3])
    assert "reads every response from its start: it is no decoder" in caplog.text
    model, under_way = RewardModel(folder), rewards.open(PROMPTS[0])
    ones = responses(3, 3)
    [found] = rewards.rate([(under_way, ones)])
    for response, reward in zip(ones, found, strict=True):
        assert reward == pytest.approx(by_the_library(model, PROMPTS[0], response), abs=1e-4)


def test_a_model_that_is_not_what_its_library_computes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pieces give something else the whole is read, and said so."""
    folder = saved(tmp_path / "rm", classifier(seed=3))
    scalars = reward_rows.scalars
    monkeypatch.setattr(reward_rows, "scalars", lambda *a: 1.1 * scalars(*a))
    rewards = GrowingRewards(partial(RewardModel, folder), make_tokenizer(), [3])
    assert "times its bar off" in caplog.text
    under_way, model = rewards.open(PROMPTS[0]), RewardModel(folder)
    [found] = rewards.rate([(under_way, ones := responses(3, 2))])
    for response, reward in zip(ones, found, strict=True):
        assert reward == pytest.approx(by_the_library(model, PROMPTS[0], response), abs=1e-4)
