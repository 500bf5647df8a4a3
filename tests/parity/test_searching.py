"""Searches on the engine are the searches themselves: the same tokens as without any cache.

`Plain` answers what a method asks with transformers' own forward, one row at a time, read from the
start; the engine answers it for several prompts together, from what it has read before.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import classifier, encoder, saved
from conftest import WORDS, make_tokenizer, save_model
from oracle import specification
from sweeps import save_lora
from torch import Tensor
from toy_search import play

from trimtab import fusion
from trimtab.arms.reward_model import RewardModel
from trimtab.engines import reference
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.loading import load_engine
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.sampling import Sampling, nth_seed
from trimtab.engines.types import Request
from trimtab.errors import ConfigError
from trimtab.methods.protocol import Draw, Next, Partial, Rate, Successors, Task
from trimtab.methods.registry import METHODS, choose
from trimtab.methods.search import search
from trimtab.models.prompts import StartedPrompt

PROMPTS: list[Any] = [
    "the cat sat on the mat and the dog ran",
    [{"role": "user", "content": "hello"}],
    "once upon a time , the sun and the moon",
]
OPTIONS: dict[str, dict[str, Any]] = {
    "best-of-n": {"n": 5},
    "rejection": {"threshold": 1.0, "tries": 6},
    "args": {"candidates": 4},
    "transfer-q": {"candidates": 3, "rollout": 3},
    "cards": {"threshold": 1.5, "entropy": 4.6, "shortest": 2, "longest": 5, "tries": 3},
    "vas": {"candidates": 6},
    "controlled-decoding": {"candidates": 6},
    "blockwise-decoding": {"samples": 3, "block": 4},
    "cbs": {"beams": 2, "samples": 3, "chunk": 3},
    "mcts": {"simulations": 4, "candidates": 3, "rollout": 1},
}


class Plain(Task):
    """One prompt, answered by forwards without a cache."""

    def __init__(
        self, engine: LocalEngine, request: Request, model: RewardModel, ends: bool = True
    ) -> None:
        self.baseline, self.by_guides = False, False
        self.sampling, self.most = request.sampling, request.sampling.max_new_tokens
        self._engine, self._ends = engine, ends
        self._prompt, self._model = request.prompt, model
        self._streams = specification(engine, request)
        self._weights = engine.plan(request).weights

    def then(self, partial: Partial, token: int, reward: float = 0.0) -> Partial:
        ids = (*partial.ids, token)
        return Partial(ids, self._ends_with(token) or len(ids) == self.most)

    def _ends_with(self, token: int) -> bool:
        return self._ends and token in self._engine.ends

    def logp(self, partial: Partial, *, steered: bool = True) -> Tensor:
        base, *guides = self._streams
        weights = self._weights if steered else [0.0] * len(guides)
        return reference.next_logp(base, guides, list(partial.ids), weights)

    def chance(self, number: int) -> float:
        return fusion.uniform(nth_seed(self.sampling.seed or 0, 2**40), number)

    def pick(self, scores: Any, partial: Partial) -> int:
        logp = torch.as_tensor(scores).log_softmax(-1)
        return self._pick(logp, self.sampling.seed or 0, partial, self.sampling.temperature)

    def _pick(self, logp: Tensor, seed: int, partial: Partial, temperature: float) -> int:
        s, one = self.sampling, torch.tensor([temperature])
        shaped = fusion.shape(
            logp[None],
            one,
            torch.tensor([s.top_k]),
            torch.tensor([s.top_p]),
            torch.tensor([s.min_p]),
        )
        uniform = torch.tensor([fusion.uniform(seed, len(partial.ids))], dtype=torch.float64)
        return int(fusion.choose(shaped, one, uniform))

    def reply(self, ask: Any) -> Any:
        if isinstance(ask, Rate):
            return [self._rate(one) for one in ask.responses]
        if isinstance(ask, Next):
            return Successors(self.logp(ask.after, steered=ask.steered))
        return self._draw(ask)

    def _draw(self, ask: Draw) -> Partial:
        partial, new = ask.after, 0
        while not partial.ended and new < (ask.tokens or self.most):
            logp = self.logp(partial, steered=ask.steered)
            if new >= ask.least and -float((logp.exp() * logp).sum()) >= ask.entropy:
                break
            temperature = 0.0 if ask.greedy else self.sampling.temperature
            seed = nth_seed(self.sampling.seed or 0, ask.number)
            partial = self.then(partial, self._pick(logp, seed, partial, temperature))
            new += 1
        return partial

    def _rate(self, partial: Partial) -> float:
        """A whole response as `RewardModel.score` reads it, an unfinished one as far as it goes."""
        ids, tokenizer = list(partial.ids), self._engine.base.tokenizer
        text = tokenizer.decode(
            ids[:-1] if ids and self._ends_with(ids[-1]) else ids, skip_special_tokens=True
        )
        if partial.ended:
            return self._model.score([self._prompt], [text])[0].reward
        reader = self._model.reader
        started = StartedPrompt.of(reader.tokenizer, self._prompt, "auto")
        own = reader.tokenizer.get_vocab() == tokenizer.get_vocab()
        row = [*started.ids, *ids] if own else started.beginning(reader.tokenizer, text)
        with torch.no_grad():
            return float(self._model.model(input_ids=torch.tensor([row])).logits)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("searching")
    base = save_model(root / "base", 1)
    save_lora(root / "lora", base, 5)
    other = make_tokenizer(words=WORDS[:20])
    assert other.get_vocab() != make_tokenizer().get_vocab()
    return {
        "base": str(base),
        "lora": str(root / "lora"),
        "model": saved(root / "rm", classifier(seed=3)),
        "other": saved(root / "other", classifier(seed=4), other),
    }


@pytest.fixture(scope="module")
def engine(folders: dict[str, str]) -> LocalEngine:
    return load_engine(folders["base"], {"a": folders["lora"]})


def requests(name: str, strength: float = 0.0, **sampling: Any) -> list[Request]:
    own = {"max_new_tokens": 9, "temperature": 0.9, **choose(name).sampling, **sampling}
    return [
        Request(p, strength=strength, sampling=Sampling(**{"seed": 11 + i, **own}))
        for i, p in enumerate(PROMPTS)
    ]


@pytest.mark.parametrize("name", METHODS)
class TestTheSameTokens:
    def test_of_the_base(self, name: str, engine: LocalEngine, folders: dict[str, str]) -> None:
        """Three prompts at once, each as by itself in the plain world; and the same reward."""
        model = RewardModel(folders["model"])
        searcher = search(engine, name, reward_model=folders["model"], options=OPTIONS[name])
        method = choose(name, OPTIONS[name]).method
        asked = requests(name)
        answers = searcher.generate(asked)
        for request, answer in zip(asked, answers, strict=True):
            found = play(method, Plain(engine, request, model))
            assert answer.token_ids == list(found.response.ids)
            assert answer.reward == pytest.approx(found.reward, abs=1e-3)

    def test_of_a_steered_base(
        self, name: str, engine: LocalEngine, folders: dict[str, str]
    ) -> None:
        """A guide pulls what is drawn; in Transfer-Q the completions alone."""
        model = RewardModel(folders["model"])
        searcher = search(engine, name, reward_model=folders["model"], options=OPTIONS[name])
        method = choose(name, OPTIONS[name]).method
        for request in requests(name, strength=1.5)[:2]:
            [answer] = searcher.generate([request])
            found = play(method, Plain(engine, request, model))
            assert answer.token_ids == list(found.response.ids)

    def test_past_the_end_of_turn(
        self, name: str, engine: LocalEngine, folders: dict[str, str]
    ) -> None:
        model = RewardModel(folders["model"])
        searcher = search(engine, name, reward_model=folders["model"], options=OPTIONS[name])
        [request] = requests(name, ignore_eos=True)[1:2]
        [answer] = searcher.generate([request])
        found = play(choose(name, OPTIONS[name]).method, Plain(engine, request, model, ends=False))
        assert answer.token_ids == list(found.response.ids)
        assert len(answer.token_ids) == 9


@pytest.mark.parametrize("name", ["args", "cards", "best-of-n"])
def test_another_vocabulary_reads_the_text(
    name: str, engine: LocalEngine, folders: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    model = RewardModel(folders["other"])
    searcher = search(engine, name, reward_model=folders["other"], options=OPTIONS[name])
    assert "another vocabulary" in caplog.text
    for request in requests(name)[:2]:
        [answer] = searcher.generate([request])
        found = play(choose(name, OPTIONS[name]).method, Plain(engine, request, model))
        assert answer.token_ids == list(found.response.ids)


@pytest.mark.parametrize("name", ["args", "best-of-n", "cards"])
def test_an_encoder_reads_whole_texts(name: str, engine: LocalEngine, tmp_path: Path) -> None:
    folder = saved(tmp_path / "bert", encoder())
    searcher = search(engine, name, reward_model=folder, options=OPTIONS[name])
    model = RewardModel(folder)
    for request in requests(name)[:2]:
        [answer] = searcher.generate([request])
        found = play(choose(name, OPTIONS[name]).method, Plain(engine, request, model))
        assert answer.token_ids == list(found.response.ids)


class TestGuidesScore:
    @pytest.mark.parametrize("name", ["best-of-n", "cbs", "mcts"])
    def test_the_reward_is_the_sum_of_the_guides(
        self, name: str, engine: LocalEngine, folders: dict[str, str]
    ) -> None:
        """Of every token's log-prob under the ARM, as the specification has it; drawn from the base
        alone."""
        searcher = search(engine, name, options=OPTIONS[name])
        for request in requests(name):
            [answer] = searcher.generate([request])
            _, arm = specification(engine, request)
            ids = list(answer.token_ids)
            reward = sum(float(arm.logp(ids[:t])[token]) for t, token in enumerate(ids))
            assert answer.reward == pytest.approx(reward, abs=1e-3)
            assert answer.cost is not None
            assert answer.cost.reward_tokens == 0

    def test_best_of_n_takes_the_best_of_what_generate_gives(self, engine: LocalEngine) -> None:
        [request] = requests("best-of-n")[:1]
        answers = engine.generate([request.__class__(**{**vars(request), "n": 5})])
        [best] = search(engine, "best-of-n", options={"n": 5}).generate([request])
        assert best.token_ids in [answer.token_ids for answer in answers]
        _, arm = specification(engine, request)

        def reward(ids: list[int]) -> float:
            return sum(float(arm.logp(ids[:t])[token]) for t, token in enumerate(ids))

        assert list(best.token_ids) == max((list(a.token_ids) for a in answers), key=reward)


class TestCost:
    def test_every_token_is_read_once(self, engine: LocalEngine, folders: dict[str, str]) -> None:
        """ARGS at a token: one row of the base, k of the reward model, each one token further.

        The base reads its prompt and the 8 first tokens, whose successors it gives. The reward
        model reads the prompt once and k candidates at each of 9 steps; the last ones are whole,
        and read as text: what that is in other tokens than were drawn, and the end of the turn.
        """
        searcher = search(engine, "args", reward_model=folders["model"], options={"candidates": 4})
        sampling = Sampling(max_new_tokens=9, temperature=0, ignore_eos=True)
        new = "a very big story that nobody has read , thank you"
        [answer] = searcher.generate([Request(new, strength=0.0, sampling=sampling)])
        prompt = len(engine.base.prompt_ids(new))
        assert answer.cost is not None
        assert answer.cost.base_tokens == prompt + 8
        assert answer.cost.base_passes == 9
        assert answer.cost.reward_passes <= 9 + 2  # the prompt, and the end of the whole response
        least = prompt + 4 * 9
        assert least <= answer.cost.reward_tokens <= least + 4 * (9 + 6)

    def test_nothing_is_kept_of_prompts_that_are_answered(
        self, engine: LocalEngine, folders: dict[str, str]
    ) -> None:
        """The reward model's rows are dropped, of those, too, that nobody waited for."""
        searcher = search(engine, "args", reward_model=folders["model"], options={"candidates": 3})
        short, other = requests("args", ignore_eos=True)[:2]
        longer = replace(other, sampling=other.sampling.but(max_new_tokens=20))
        plans = [searcher.plan(request) for request in (short, longer)]
        answers = searcher.answers(plans, batch_size=2)
        next(answers)
        cache = searcher._judges["reward"]._cache
        assert cache is not None
        assert _held(cache) > 0
        answers.close()
        assert _held(cache) == 0
        with pytest.raises(ConfigError, match="batch_size is 0"):
            searcher.generate(["the cat"], batch_size=0)


def _held(cache: PackedRows) -> int:
    """Rows that have a slot."""
    shelves = cache._shelves.by_length.values()
    return sum(holder is not None for shelf in shelves for holder in shelf.holders)
