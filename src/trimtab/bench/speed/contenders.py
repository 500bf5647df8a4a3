"""What is compared: ways to decode the same prompts for the same number of tokens, greedily."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Protocol

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.engines.local import LocalEngine
from trimtab.engines.local.rows import RowPlan
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request, Speculate
from trimtab.models.renamed import cache_name
from trimtab.steering import Steering

Prompts = Sequence[list[int]]


@dataclass(frozen=True)
class Run:
    """One measurement.

    Attributes:
        first: seconds until every request had its first token.
        per_token: seconds per further token of each request.
        accepted: share of drafted tokens that were kept, where any were drafted.
    """

    first: float
    per_token: float
    accepted: float | None = None


class Contender(Protocol):
    """One way to decode."""

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        """Decode and measure."""


class Engine:
    """Trimtab's local engine; every request has a preference of its own."""

    def __init__(self, engine: LocalEngine, speculate: Speculate = "off") -> None:
        self.engine, self._speculate = engine, speculate

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        """As `Contender`."""
        plans = [self.plan(ids, new_tokens, number) for number, ids in enumerate(prompts)]
        scheduler = self.engine.scheduler(most=len(plans))
        rows = [scheduler.add(number, plan) for number, plan in enumerate(plans)]
        start = time.perf_counter()
        while not all(row.ids for row in rows):
            scheduler.step()
        first = time.perf_counter()
        left = sum(new_tokens - len(row.ids) for row in rows)
        while scheduler.busy:
            scheduler.step()
        seconds = time.perf_counter() - first
        drafted = sum(row.drafted for row in rows)
        accepted = sum(row.accepted for row in rows) / drafted if drafted else None
        return Run(first - start, seconds * len(rows) / max(left, 1), accepted)

    def plan(self, ids: list[int], new_tokens: int, number: int = 0) -> RowPlan:
        """A greedy request of given prompt ids for exactly so many tokens."""
        engine = self.engine
        names = engine.objectives
        wanted = {name: 1 + (number + i) % (number + 2) for i, name in enumerate(names)}
        steering = Steering.of(names, {n: w / sum(wanted.values()) for n, w in wanted.items()}, 1.0)
        shares = [steering.share(arm.objectives, arm.scale) for arm in engine.arms]
        conditions = {arm.name: inner for arm, (_, inner) in zip(engine.arms, shares, strict=True)}
        sampling = Sampling(max_new_tokens=new_tokens, temperature=0, ignore_eos=True)
        told = {
            arm.name: arm.tokenizer(arm.instruction)["input_ids"]
            for arm in engine.arms
            if arm.instruction
        }
        names = [name for group in engine.groups for name in group.index]
        prompts = {name: [*told.get(name, ()), *ids] for name in names}
        weights = [weight for weight, _ in shares]
        request = Request("…", sampling=sampling, speculate=self._speculate)
        return RowPlan(request, steering, sampling, weights, prompts, conditions)


class Generate:
    """`transformers`' own `generate` with its default cache: the base alone.

    Args:
        model: what is run.
        instruction: ids before every prompt, towards which it is guided (`guidance_scale`).
    """

    def __init__(self, model: PreTrainedModel, instruction: Sequence[int] = ()) -> None:
        self._model, self._instruction = model, list(instruction)

    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        """As `Contender`."""
        clock = _Clock()
        told = [[*self._instruction, *ids] for ids in prompts]
        ids = torch.tensor(told, device=self._model.device)
        guided = {"guidance_scale": 1.5, "negative_prompt_ids": ids[:, len(self._instruction) :]}
        start = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(
                ids,
                **(guided if self._instruction else {}),
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=transformers.StoppingCriteriaList([clock]),
            )
        first, *_, last = clock.times
        return Run(first - start, (last - first) / (new_tokens - 1))


class _Clock(transformers.StoppingCriteria):
    """Notes the time of every token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        """Never stops."""
        int(input_ids[0, -1])  # waits for the device
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _empty_cache(model: PreTrainedModel) -> dict[str, transformers.DynamicCache]:
    """The argument that gives a model's forward an empty cache."""
    name = cache_name(signature(model.forward).parameters)
    return {name: transformers.DynamicCache(config=model.config)}


class TwoModels:
    """The plain loop of the research scripts: two models, two forwards, one fused token."""

    def __init__(self, base: PreTrainedModel, arm: PreTrainedModel) -> None:
        self._models = (base, arm)

    @torch.inference_mode()
    def run(self, prompts: Prompts, new_tokens: int) -> Run:
        """As `Contender`."""
        ids = torch.tensor(list(prompts), device=self._models[0].device)
        caches = [_empty_cache(model) for model in self._models]
        times = [time.perf_counter()]
        for _ in range(new_tokens):
            logps = [
                model(input_ids=ids, use_cache=True, logits_to_keep=1, **cache)
                .logits[:, -1]
                .float()
                .log_softmax(-1)
                for model, cache in zip(self._models, caches, strict=True)
            ]
            ids = (logps[0] + logps[1]).argmax(-1, keepdim=True)
            int(ids[0])
            times.append(time.perf_counter())
        return Run(times[1] - times[0], (times[-1] - times[1]) / (new_tokens - 1))
