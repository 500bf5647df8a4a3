"""Jobs that answer prompts: a way of a table on all of them, or several settings on a few."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trimtab
from trimtab.arms.reward_model import RewardModel
from trimtab.bench.tables import ways
from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.jobs import Work
from trimtab.bench.tables.rates import Rates
from trimtab.bench.tables.ways import Asked
from trimtab.engines.local import LocalEngine
from trimtab.engines.types import Completion, Likelihood
from trimtab.files import write_text
from trimtab.methods.search import search
from trimtab.models.messages import Prompt
from trimtab.scoring.score_files import read_jsonl

PASSES: dict[str, tuple[float, float, float]] = {
    "best-of-n": (1, 16, 17),
    "rejection": (2.7, 11, 11),
    "args": (1, 1.3, 11),
    "transfer-q": (14.4, 136, 132),
    "cards": (8.1, 8.5, 7.5),
    "vas": (1, 1.3, 23),
    "controlled-decoding": (1, 1.3, 21),
    "blockwise-decoding": (1, 4.3, 5),
    "cbs": (1, 19, 17),
    "mcts": (3.2, 6, 43),
}
"""Of a search: passes of the base, its tokens and the reward model's, each per token of an answer,
as `benchmarks/methods` counted them with the methods' defaults. For estimates alone."""


@dataclass(frozen=True)
class Answer:
    """Answer prompts in one way.

    Attributes:
        name: of the job.
        way: of `ways`.
        seed: of training; sampling seeds follow from it.
    """

    name: str
    way: str
    seed: int = 0

    def seconds(self, work: Work, rates: Rates) -> float:
        """Passes and tokens."""
        config = work.config
        prompts, tokens = len(prompts_of(work, self.way)), config.max_new_tokens
        return decoding(self.way, rates, prompts, tokens, searched_together(config))

    def run(self, work: Work) -> dict[str, Any]:
        """Write the answers; tell their costs and settings."""
        prompts, setting = prompts_of(work, self.way), ways.chosen(work, self.way)
        how = ways.asked(self.way, work, self.seed, setting)
        engine = load(work, how)
        start = time.perf_counter()
        answers = answered(work, how, prompts, work.config.max_new_tokens, self.seed, engine)
        took = time.perf_counter() - start
        likely = likelihoods(work, engine, prompts, answers, how)
        rows = [_row(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(answers_file(work, self.name), text)
        found = {"way": self.way, "seed": self.seed, "ask": {**how.ask, **how.options}}
        found |= {"answering": took, "base_nll": [one.base_nll for one in likely]}
        found |= _costs(answers)
        guided = how.load and not how.method and not how.base
        return {**found, "kl": [one.mean_kl for one in likely]} if guided else found


@dataclass(frozen=True)
class Search:
    """Try settings of a way on validation prompts, and take the one with the highest reward.

    Attributes:
        name: of the job.
        way: of `ways`.
        settings: (option, value), as many for every way.
    """

    name: str
    way: str
    settings: Sequence[tuple[str, float]]

    def seconds(self, work: Work, rates: Rates) -> float:
        """Each setting takes its answers."""
        prompts, tokens = len(self._prompts(work)), work.config.search_tokens
        each = decoding(self.way, rates, prompts, tokens, searched_together(work.config))
        return 10 + len(self.settings) * each

    def run(self, work: Work) -> dict[str, Any]:
        """The settings with their mean rewards under the searches' reward model."""
        judge = RewardModel(work.model("trajectory-0"), **loading(work))
        prompts, tokens = self._prompts(work), work.config.search_tokens
        tried: list[dict[str, Any]] = []
        loaded: tuple[Asked, LocalEngine] | None = None
        for option, value in self.settings:
            how = ways.asked(self.way, work, 0, {option: value})
            if loaded is None or loaded[0].load != how.load:
                loaded = how, load(work, how)
            answers = answered(work, how, prompts, tokens, 0, loaded[1])
            scored = judge.score(prompts, [answer.text for answer in answers])
            reward = statistics.mean(one.reward for one in scored)
            tried.append({"setting": {option: value}, "reward": reward})
        best = max(tried, key=lambda one: one["reward"])
        return {"tried": tried, "chosen": best["setting"], "n": len(prompts)}

    def _prompts(self, work: Work) -> list[Prompt]:
        """A quarter of them for a costly way, two at least."""
        prompts = work.material.validation
        return prompts[: max(2, len(prompts) // 4)] if self.way in work.config.costly else prompts


@dataclass(frozen=True)
class Spread:
    """Rewards of the base's own answers to validation prompts, under the searches' reward model.

    Attributes:
        name: of the job.
    """

    name: str = "spread"

    def seconds(self, work: Work, rates: Rates) -> float:
        """Its answers."""
        config = work.config
        return 5 + decoding(ways.BASE, rates, config.search_prompts, config.max_new_tokens)

    def run(self, work: Work) -> dict[str, Any]:
        """Their mean and standard deviation."""
        prompts = work.material.validation
        how = ways.asked(ways.BASE, work, 0, {})
        answers = answered(work, how, prompts, work.config.max_new_tokens, 0)
        judge = RewardModel(work.model("trajectory-0"), **loading(work))
        scored = judge.score(prompts, [answer.text for answer in answers])
        rewards = [one.reward for one in scored]
        return {"mean": statistics.mean(rewards), "deviation": statistics.stdev(rewards)}


@dataclass(frozen=True)
class Match:
    """Find the temperature at which the base's own answers have a way's base NLL.

    Attributes:
        name: of the job.
        way: whose first seed's answers are matched.
        temperatures: that are tried; between them it is interpolated.
    """

    name: str
    way: str
    temperatures: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.85, 1.0)

    def seconds(self, work: Work, rates: Rates) -> float:
        """Each temperature takes its answers."""
        config = work.config
        each = decoding(ways.BASE, rates, config.search_prompts, config.max_new_tokens)
        return 5 + len(self.temperatures) * each

    def run(self, work: Work) -> dict[str, Any]:
        """The temperature, and base NLLs at those tried."""
        import numpy as np

        engine = load(work, Asked())
        wanted = statistics.mean(work.rows[f"answer {self.way}-0"]["base_nll"])
        prompts, found = work.material.validation, []
        for temperature in self.temperatures:
            how = Asked(ask={"strength": 0.0, "temperature": temperature})
            answers = answered(work, how, prompts, work.config.max_new_tokens, 0, engine)
            likely = likelihoods(work, engine, prompts, answers, how)
            found.append(statistics.mean(one.base_nll for one in likely))
        matched = float(np.interp(wanted, found, self.temperatures))  # its ends are the limits
        tried = dict(zip(map(str, self.temperatures), found, strict=True))
        return {"temperature": matched, "base_nll": wanted, "tried": tried}


def prompts_of(work: Work, way: str) -> list[Prompt]:
    """Those that a way answers."""
    prompts = work.material.prompts
    return prompts[: work.config.costly_prompts] if way in work.config.costly else prompts


def load(work: Work, how: Asked) -> LocalEngine:
    """An engine of what a way needs."""
    return trimtab.load(how.base or work.base, **how.load, **loading(work))


def loading(work: Work) -> dict[str, Any]:
    """How every model is loaded."""
    return {"dtype": work.config.dtype, "device": work.config.device}


def answered(
    work: Work,
    how: Asked,
    prompts: Sequence[Prompt],
    tokens: int,
    seed: int,
    engine: LocalEngine | None = None,
) -> list[Completion]:
    """Answers to all prompts; the i-th has the same sampling seed in every way."""
    engine = engine or load(work, how)
    told = [how.prompt(prompt) for prompt in prompts]
    most: dict[str, Any] = {"max_new_tokens": tokens, "seed": 100_003 * seed}
    if not how.method:
        return engine.generate(told, **how.ask, **most, batch_size=work.config.batch_size)
    options: dict[str, Any] = {name: _whole(value) for name, value in how.options.items()}
    most |= {name: options.pop(name) for name in ("temperature", "top_k") if name in options}
    searcher = search(
        engine, how.method, reward_model=how.reward_model, options=options, **loading(work)
    )
    return searcher.generate(told, **most, batch_size=searched_together(work.config))


def searched_together(config: TableConfig) -> int:
    """Prompts that a search has at a time: each of them has several answers under way."""
    return max(1, config.batch_size // 4)


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def decoding(way: str, rates: Rates, prompts: int, tokens: int, searched: int = 1) -> float:
    """Seconds that answers take, about; a second model reads what the first does.

    A search has so many prompts `searched` for together.
    """
    passes, base, reward = PASSES.get(way, (1.0, 1.0, 0.0))
    models = 1.0 if way in PASSES or way == ways.BASE else 1.7
    together = max(1.0, prompts / searched) if way in PASSES else 1.0
    search = rates.decoding(passes * tokens * together, (base + reward) * tokens * prompts)
    return 6 + models * search


def likelihoods(
    work: Work,
    engine: LocalEngine,
    prompts: Sequence[Prompt],
    answers: Sequence[Completion],
    how: Asked,
) -> list[Likelihood]:
    """Each answer, by its own tokens, under the base and under what steered it.

    The prompts are bare: what a system message makes an answer is unlikely for without one.
    """
    ids = [list(answer.token_ids) for answer in answers]
    if how.base:  # the engine's base is another
        engine = load(work, Asked())
    strength = 0.0 if how.method or how.base else how.ask.get("strength", 0.0)
    return engine.log_likelihoods(prompts, ids, strength=strength, batch_size=16)


def answers_file(work: Work, name: str) -> Path:
    """Where the answers of a job are."""
    return work.folder / "answers" / f"{name.removeprefix('answer ')}.jsonl"


def read_answers(work: Work, name: str) -> list[dict[str, Any]]:
    """The answers of a job."""
    return list(read_jsonl(answers_file(work, name)))


def _row(prompt: Prompt, answer: Completion) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "text": answer.text,
        "token_ids": list(answer.token_ids),
        "finish_reason": answer.finish_reason,
        "reward": answer.reward,
        "cost": asdict(answer.cost) if answer.cost else None,
    }


def _costs(answers: Sequence[Completion]) -> dict[str, Any]:
    tokens = {"tokens": statistics.mean(len(answer.token_ids) for answer in answers)}
    costs = [asdict(answer.cost) for answer in answers if answer.cost]
    if not costs:
        return tokens
    return tokens | {"cost": {key: statistics.mean(c[key] for c in costs) for key in costs[0]}}
