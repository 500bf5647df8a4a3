"""GenARM's table 1 in kind: every method against DPO and the base, beside controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.bench.tables import ways
from trimtab.bench.tables.answering import Answer, Match, Search, Spread
from trimtab.bench.tables.config import TableConfig
from trimtab.bench.tables.jobs import Job, Row, Work
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
from trimtab.bench.tables.values import Values
from trimtab.methods.registry import METHODS
from trimtab.stats import Estimate, hierarchical

GRID = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Strengths of GenARM for reward against base NLL."""
WAYS = (ways.BASE, ways.GENARM, ways.DPO, *METHODS, *ways.CONTROLS)
BEATEN = ("args", "transfer-q", "cards", "best-of-n")
"""What GenARM's answers are expected to win against."""


def rows_of(config: TableConfig) -> list[str]:
    """The ways of the table; the base and GenARM, beside which all are seen, always are."""
    return config.rows(WAYS, ways.BASE, ways.GENARM)


def jobs(config: TableConfig) -> list[Job]:
    """Train, try settings, answer, judge."""
    rows, seeds = rows_of(config), range(config.seeds)
    trained: list[Job] = [train_judge(config), Train("trajectory-0", "trajectory")]
    trained += [Train(f"genarm-{seed}", "genarm", seed=seed) for seed in seeds]
    if ways.DPO in rows:
        trained += [Train(f"dpo-{seed}", "dpo", seed=seed) for seed in seeds]
    if ways.SHUFFLED in rows:
        trained.append(Train("shuffled-0", "genarm", shuffled=True))
    measured = ["trajectory-0", *(f"genarm-{seed}" for seed in seeds)]
    trained += [*measure_judge(config), *(Accuracy(f"accuracy {name}", name) for name in measured)]
    if any(way in rows for way in ways.BY_VALUE):
        trained.append(Values("value-0"))
    if any(way in rows for way in ways.BY_THRESHOLD):
        trained.append(Spread())
    tried = [Search(f"search {way}", way, s) for way, s in config.tried.items() if way in rows]
    answers = _answers(rows, config.seeds)
    names = [job.name for job in answers if isinstance(job, Answer)]
    last = [Scores("judged", JUDGE, names), Scores("rewarded", "trajectory-0", names)]
    return [*trained, *tried, *answers, *last]


def _answers(rows: Sequence[str], seeds: int) -> list[Job]:
    found: list[Job] = []
    for way in rows:
        if way == ways.COOLED:
            found.append(Match("match", ways.GENARM))
        of = range(seeds) if way in (*ways.SEEDED, ways.BASE) else range(1)
        found += [Answer(f"answer {way}-{seed}", way, seed) for seed in of]
    found += [Answer(f"answer genarm@{w:g}-0", f"genarm@{w:g}") for w in GRID]
    return found


def scores_of(work: Work, way: str, job: str = "judged") -> NDArray[Any]:
    """Rewards of a way's answers, [seeds, prompts], as a job gave them."""
    found = work.rows[job]["scores"]
    return np.array([found[f"answer {way}-{row['seed']}"] for row in answers_of(work, way)])


def answers_of(work: Work, way: str) -> list[Row]:
    """What each seed's answers were like."""
    return [row for row in work.rows.values() if row.get("way") == way]


def numbers_of(work: Work, way: str, key: str) -> Estimate | None:
    """A number that each answer has, such as its base NLL; None where this way's have none."""
    rows = answers_of(work, way)
    return hierarchical([row[key] for row in rows]) if key in rows[0] else None


def won(one_SP: NDArray[Any], other_SP: NDArray[Any], seed: int = 0) -> Estimate:
    """win + ½ tie of one way's answers against another's, of all pairs of seeds.

    Prompts that one of them did not answer are left out.
    """
    n = min(one_SP.shape[1], other_SP.shape[1])
    gaps_STP = one_SP[:, None, :n] - other_SP[None, :, :n]
    return hierarchical((gaps_STP > 0) + 0.5 * (gaps_STP == 0), seed=seed, shares=True)


def report(work: Work) -> Report:
    """The table, its claims and what stands above and below."""
    rows = rows_of(work.config)
    base, genarm = scores_of(work, ways.BASE), scores_of(work, ways.GENARM)
    dpo = scores_of(work, ways.DPO) if ways.DPO in rows else None
    lines = []
    for way in rows:
        scores = scores_of(work, way)
        answers = answers_of(work, way)
        lines.append(
            [
                way,
                "–" if dpo is None or way == ways.DPO else cell(won(scores, dpo)),
                "–" if way == ways.BASE else cell(won(scores, base)),
                "–" if way == ways.GENARM else cell(won(genarm, scores)),
                cell(hierarchical(scores)),
                cell(hierarchical(scores_of(work, way, "rewarded"))),
                cell(numbers_of(work, way, "base_nll")),
                cell(numbers_of(work, way, "kl")),
                f"{np.mean([row['tokens'] for row in answers]):.0f}",
                setting(answers[0]["ask"]),
                f"{scores.shape[0]} x {scores.shape[1]}",
            ]
        )
    columns = [
        "",
        "win+½tie against DPO",
        "against the base",
        "GenARM against it",
        "judge's reward",
    ]
    columns += ["search reward model's", "base NLL", "KL per token", "tokens", "setting"]
    columns += ["seeds x prompts"]
    return Report(
        f"alignment: {work.config.objective}",
        columns,
        lines,
        _notes(work),
        _claims(work, rows, genarm, dpo),
        judge_line(work),
    )


def _claims(
    work: Work, rows: Sequence[str], genarm: NDArray[Any], dpo: NDArray[Any] | None
) -> list[list[str]]:
    allowed, claims = may_claim(work), []
    for way in (way for way in BEATEN if way in rows):
        found = won(genarm, scores_of(work, way))
        told = verdict(found, above=0.5, allowed=allowed)
        claims.append([f"GenARM wins against {way}", cell(found), told])
    if dpo is not None:
        found = won(genarm, dpo)
        told = verdict(found, above=0.45, allowed=allowed)
        claims.append(["GenARM is near DPO (.45 or more)", cell(found), told])
    return claims


def _notes(work: Work) -> list[str]:
    config = work.config
    measured = [f"genarm-{seed}" for seed in range(config.seeds)]
    accuracies = ", ".join(f"{accuracy_of(work, name).value:.3f}" for name in measured)
    rewards = accuracy_of(work, "trajectory-0")
    return [
        f"{config.pairs} pairs a model, {config.max_new_tokens} tokens an answer, sampled at "
        "temperature 1 where a method does not say otherwise. Base NLL, and KL from the base of "
        "what is guided (of a search it cannot be known), are in nats per token. Intervals are "
        "95 % bootstraps over prompts and, where there are several, training seeds.",
        f"Accuracy on the same held-out pairs: GenARM's ARMs {accuracies}, the searches' reward "
        f"model {rewards}. The latter is what searches look at: its column shows that they do.",
        f"`{ways.ITSELF}` is guided by the base itself, as by an untrained ARM.",
    ]
