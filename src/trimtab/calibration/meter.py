"""An ARM at given strengths: every prompt answered, its numbers taken from the engine's reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trimtab.calibration.curve import LOOPS_ABOVE, CurvePoint, repetition
from trimtab.calibration.plan import Plan
from trimtab.engines.local import LocalEngine, load_engine
from trimtab.engines.types import Completion, Request
from trimtab.errors import DataError
from trimtab.jobs import Progress
from trimtab.models.memory import free_memory
from trimtab.scoring.score_files import Answer, rate
from trimtab.stats import mean

NUMBERS = ("kl", "base_nll", "reward", "loops", "tokens")
Numbers = dict[str, float]


class Meter:
    """Measures strengths of an ARM; the engine stays loaded between calls.

    Args:
        plan: what is measured. Its scorer is tried on a prompt before a weight is loaded.
        progress: is told (what, done, total).
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan, self._progress = plan, progress
        if plan.scorer is not None:
            plan.scorer.check_prompts(plan.prompts)
            plan.scorer.probe(plan.prompts[0])
        self._engine = self._load()
        self._rounds = 0

    def _load(self) -> LocalEngine:
        plan = self._plan
        if plan.guide is not None:
            told, opposed = plan.guide.instruct, plan.guide.contrast
            return load_engine(plan.base, instruct=told, contrast=opposed, **plan.loading)
        engine = load_engine(plan.base, {plan.name: plan.arm}, **plan.loading)
        # a strength is the ARM's whole weight here, whatever its sidecar says
        engine.arms[:] = [dataclasses.replace(arm, scale=1.0) for arm in engine.arms]
        return engine

    def close(self) -> None:
        """Let go of the scorer's weights."""
        if self._plan.scorer is not None:
            self._plan.scorer.close()
            free_memory()

    def measure(self, strengths: Sequence[float]) -> list[CurvePoint]:
        """One point per strength, over the same prompts and seeds."""
        plan = self._plan
        requests = [r for strength in strengths for r in self._requests(strength)]
        plans = [self._engine.plan(request) for request in requests]
        what = "answering" if not self._rounds else f"answering, step {self._rounds}"
        self._rounds += 1
        numbers: list[Numbers] = []
        texts: list[str] = []
        answers = self._engine.answers(plans, batch_size=plan.batch_size)
        for completion in answers:
            numbers.append(numbers_of(completion))
            texts.append(completion.text)
            self._progress(what, len(numbers), len(requests))
        shape = (len(strengths), len(plan.preferences), len(plan.prompts))  # S, P, N
        values = {
            name: np.array([each[name] for each in numbers]).reshape(shape) for name in NUMBERS
        }
        scores_SPN = self._scores(texts).reshape(shape) if plan.scorer is not None else None
        return [
            self._point(
                strength,
                {name: values_SPN[s] for name, values_SPN in values.items()},
                None if scores_SPN is None else scores_SPN[s],
            )
            for s, strength in enumerate(strengths)
        ]

    def _requests(self, strength: float) -> list[Request]:
        """Of all preferences and prompts; prompt number i has the same seed everywhere."""
        sampling = self._plan.sampling
        return [
            Request(prompt, preference, strength, sampling.further(i), report=True)
            for preference in self._plan.preferences
            for i, prompt in enumerate(self._plan.prompts)
        ]

    def _scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """A score per answer, NaN where one is missing."""
        scorer, prompts = self._plan.scorer, self._plan.prompts
        assert scorer is not None
        answers = [
            Answer(prompts[i % len(prompts)], text, f"answer {i + 1}")
            for i, text in enumerate(texts)
        ]
        scores: list[float | None] = []
        for first in range(0, len(answers), scorer.chunk):
            chunk = answers[first : first + scorer.chunk]
            scores += rate(scorer, self._plan.objective, chunk)
            self._progress("scoring", len(scores), len(answers))
        return np.array([np.nan if score is None else score for score in scores])

    def _point(
        self,
        strength: float,
        numbers: Mapping[str, NDArray[np.float64]],
        scores_PN: NDArray[np.float64] | None,
    ) -> CurvePoint:
        """Means over prompts, each prompt's over preferences first."""
        resamples = self._plan.resamples
        kl, base_nll, reward, loops = (
            mean(numbers[name].mean(axis=0).tolist(), resamples=resamples) for name in NUMBERS[:4]
        )
        tokens = float(numbers["tokens"].mean())
        if scores_PN is None:
            return CurvePoint(strength, kl, base_nll, reward, loops, tokens)
        missing = int(np.isnan(scores_PN).sum())
        there_N = ~np.isnan(scores_PN).all(axis=0)
        if not there_N.any():
            trouble = self._plan.scorer.trouble if self._plan.scorer else ""
            raise DataError(
                f"no answer at strength {strength:g} got a score from {self._plan.objective!r}"
                + (f" (instead came {trouble})" if trouble else ""),
                "mend the scorer",
            )
        score = mean(np.nanmean(scores_PN[:, there_N], axis=0).tolist(), resamples=resamples)
        return CurvePoint(strength, kl, base_nll, reward, loops, tokens, score, missing)


def numbers_of(completion: Completion) -> Numbers:
    """An answer's own numbers, per generated token where they are in nats."""
    reports = completion.tokens
    return {
        "kl": completion.kl,
        "base_nll": -sum(t.logp_base for t in reports) / len(reports),
        "reward": sum(r for t in reports for r in t.rewards.values()) / len(reports),
        "loops": float(repetition(completion.token_ids) > LOOPS_ABOVE),
        "tokens": float(len(reports)),
    }
