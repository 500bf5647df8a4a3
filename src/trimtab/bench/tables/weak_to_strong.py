"""A weak ARM guiding the whole base: how much of the gap to DPO on the base it closes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.bench.tables import ways
from trimtab.bench.tables.alignment import answers_of, numbers_of, scores_of, won
from trimtab.bench.tables.answering import Answer, Search, read_answers
from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.gap import reward_gains, share_of_gap, win_gains
from trimtab.bench.tables.jobs import Job, Work
from trimtab.bench.tables.judging import (
    JUDGE,
    Scores,
    judge_line,
    may_claim,
    measure_judge,
    train_judge,
)
from trimtab.bench.tables.report import Report, cell, setting, verdict
from trimtab.bench.tables.training import Accuracy, Train, accuracy_of
from trimtab.bench.tables.weak import Weak, nlls_of
from trimtab.comparison.length import LengthControlled, length_controlled
from trimtab.stats import Estimate, hierarchical

WAYS = (
    ways.BASE,
    ways.WEAK_TO_STRONG,
    ways.WEAK_CONTRAST,
    ways.DPO,
    ways.WEAK_DPO,
    ways.WEAK,
    ways.BY_WEAK,
)
SHARE = 0.7
"""Of the gap, that GenARM's paper reports to be closed at least."""
TUNED = {"weak-arm": ("genarm", ways.WEAK), "weak-dpo": ("dpo", ways.WEAK), "dpo": ("dpo", "base")}
"""Name -> method and start of what every training seed trains, on the same pairs."""


def rows_of(config: TableConfig) -> list[str]:
    """The ways of the table; what the gap is made of always is among them."""
    return config.rows(WAYS, ways.BASE, ways.WEAK_TO_STRONG, ways.DPO)


def jobs(config: TableConfig) -> list[Job]:
    """Cut and adapt the weak model, train, try settings, answer, judge."""
    rows, seeds = rows_of(config), range(config.seeds)
    tuned = [name for name in TUNED if name != "weak-dpo" or _needs_weak_dpo(rows)]
    trained: list[Job] = [Weak(), train_judge(config), Train("trajectory-0", "trajectory")]
    for name in tuned:
        method, start = TUNED[name]
        trained += [Train(f"{name}-{seed}", method, seed=seed, of=start) for seed in seeds]
    measured = ["trajectory-0", *(f"weak-arm-{seed}" for seed in seeds)]
    trained += [*measure_judge(config), *(Accuracy(f"accuracy {name}", name) for name in measured)]
    tried = [Search(f"search {way}", way, s) for way, s in config.tried.items() if way in rows]
    answers = [
        Answer(f"answer {way}-{seed}", way, seed)
        for way in rows
        for seed in (seeds if way in (*ways.SEEDED, ways.BASE) else range(1))
    ]
    names = [job.name for job in answers]
    return [*trained, *tried, *answers, Scores("judged", JUDGE, names)]


def _needs_weak_dpo(rows: list[str]) -> bool:
    return bool({ways.WEAK_DPO, ways.WEAK_CONTRAST} & {*rows})


def report(work: Work) -> Report:
    """The table, its claims and what stands above and below."""
    lines = []
    even = {way: controlled(work, way) for way in rows_of(work.config) if way != ways.BASE}
    for way in rows_of(work.config):
        scores, alone = scores_of(work, way), way == ways.BASE
        answers = answers_of(work, way)
        each = np.mean([row["answering"] for row in answers]) / scores.shape[1]
        shares = ["–", "–"] if way in (ways.BASE, ways.DPO) else map(cell, _shares(work, way))
        lines.append(
            [
                way,
                "–" if alone else cell(won(scores, scores_of(work, ways.BASE))),
                "–" if alone else cell(even[way].rate),
                cell(hierarchical(scores)),
                *shares,
                cell(numbers_of(work, way, "base_nll")),
                f"{np.mean([row['tokens'] for row in answers]):.0f}",
                f"{each:.2g}",
                setting(answers[0]["ask"]),
                f"{scores.shape[0]} x {scores.shape[1]}",
            ]
        )
    columns = ["", "win+½tie against the base", "length-controlled", "judge's reward"]
    columns += ["share of the gap to DPO, in reward", "in wins", "base NLL, nats per token"]
    columns += ["tokens", "seconds an answer", "setting", "seeds x prompts"]
    title = f"weak-to-strong: {work.config.objective}"
    return Report(title, columns, lines, _notes(work, even), _claims(work), judge_line(work))


def wins(work: Work) -> dict[str, Estimate]:
    """Way -> win + ½ tie against the base."""
    base = scores_of(work, ways.BASE)
    rows = [way for way in rows_of(work.config) if way != ways.BASE]
    return {way: won(scores_of(work, way), base) for way in rows}


def controlled(work: Work, way: str) -> LengthControlled:
    """AlpacaEval's length-controlled win rate of a way against the base, of all pairs of seeds."""
    n = min(scores_of(work, way).shape[1], scores_of(work, ways.BASE).shape[1])
    gaps = scores_of(work, way)[:, None, :n] - scores_of(work, ways.BASE)[None, :, :n]
    longer = _characters(work, way)[:, None, :n] - _characters(work, ways.BASE)[None, :, :n]
    verdicts = ((gaps > 0) + 0.5 * (gaps == 0)).ravel()
    return length_controlled(verdicts, longer.ravel(), np.arange(verdicts.size), gaps.shape)


def _characters(work: Work, way: str) -> NDArray[np.float64]:
    """Lengths of a way's answers, [seeds, prompts]."""
    found = [read_answers(work, str(row["job"])) for row in answers_of(work, way)]
    return np.array([[float(len(row["text"])) for row in rows] for rows in found])


def _shares(work: Work, way: str) -> list[Estimate | None]:
    """Of the gap to DPO, in reward and in wins; prompts that one of them left out do not count."""
    sides = [scores_of(work, one) for one in (way, ways.DPO, ways.BASE)]
    n = min(side.shape[1] for side in sides)
    one, dpo, base = (side[:, :n] for side in sides)
    return [share_of_gap(gain(one, base), gain(dpo, base)) for gain in (reward_gains, win_gains)]


def _claims(work: Work) -> list[list[str]]:
    allowed, claims = may_claim(work), []
    for found, measure in zip(_shares(work, ways.WEAK_TO_STRONG), ("reward", "wins"), strict=True):
        told = (
            "undecided (no gap)" if found is None else verdict(found, above=SHARE, allowed=allowed)
        )
        told_of = f"the weak ARM closes over {SHARE:.0%} of the gap to DPO, in {measure}"
        claims.append([told_of, cell(found), told])
    against: dict[str, Any] = {ways.BASE: "the base", ways.WEAK_CONTRAST: "the weak contrast"}
    for way, named in against.items():
        if way in rows_of(work.config):
            found = won(scores_of(work, ways.WEAK_TO_STRONG), scores_of(work, way))
            told = verdict(found, above=0.5, allowed=allowed)
            claims.append([f"guided by the weak ARM it wins against {named}", cell(found), told])
    return claims


def _notes(work: Work, even: Mapping[str, LengthControlled]) -> list[str]:
    config, weak = work.config, work.rows[ways.WEAK]
    nll = {when: cell(found) for when, found in nlls_of(weak).items()}
    arms = ", ".join(
        f"{accuracy_of(work, f'weak-arm-{seed}').value:.3f}" for seed in range(config.seeds)
    )
    missing = [f"No length-controlled rate of `{w}`: {e.why}." for w, e in even.items() if e.why]
    return [
        f"{config.pairs} pairs a model, {config.max_new_tokens} tokens an answer, sampled at "
        "temperature 1. Intervals are 95 % bootstraps over prompts and, where there are several, "
        "training seeds; there is a share of the gap where DPO is above the base beyond its own.",
        f"The weak model: the first {weak['layers']} layers, {weak['parameters']:,} of "
        f"{weak['base_parameters']:,} parameters, adapted to the base's own "
        f"answers to {weak['prompts']} training prompts, "
        f"{config.samples} each, in {weak['seconds']:.0f} s ({weak['num_train_epochs']} epochs). "
        f"Nats per token of its answers to {nlls_of(weak)['base'].n} other prompts: "
        f"{nll['before']} before, {nll['after']} after, the base's own {nll['base']}.",
        f"Accuracy on held-out pairs (n={accuracy_of(work, 'weak-arm-0').n}): weak ARMs {arms}, "
        f"the reward model that strengths were chosen by {accuracy_of(work, 'trajectory-0')}.",
        f"Seconds an answer: {config.batch_size} answered together, models loaded.",
        *missing,
    ]
