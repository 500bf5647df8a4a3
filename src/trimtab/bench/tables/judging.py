"""The judge: a reward model on a backbone of its own, and what it says of all answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.arms.reward_model import RewardModel
from trimtab.bench.tables.answering import loading, read_answers
from trimtab.bench.tables.config import HUMAN, TableConfig
from trimtab.bench.tables.jobs import Work
from trimtab.bench.tables.rates import Rates
from trimtab.bench.tables.training import Accuracy, Train, accuracy_of, tests
from trimtab.evaluation.floors import longer_is_better
from trimtab.stats import Estimate, share

JUDGE = "judge"
LEAST = 0.6
"""No win is claimed where the lower bound of the judge's accuracy on human pairs is below."""


_ON_HUMAN = f"{JUDGE}, {HUMAN}"


def train_judge(config: TableConfig) -> Train:
    """Train the judge on prompts that nothing else sees."""
    return Train(JUDGE, "trajectory", part="judge", pairs=config.judge_pairs, kind=JUDGE, of=JUDGE)


def measure_judge(config: TableConfig) -> list[Accuracy]:
    """On held-out pairs, and on those of --judge-data."""
    measured = [Accuracy(f"accuracy {JUDGE}", JUDGE)]
    if config.judge_data:
        measured.append(Accuracy(f"accuracy {_ON_HUMAN}", JUDGE, HUMAN))
    return measured


def judge_accuracy(work: Work, judge: str = JUDGE) -> Estimate:
    """On held-out pairs with human labels."""
    on_human = judge == JUDGE and work.config.judge_data
    return accuracy_of(work, _ON_HUMAN if on_human else judge)


def may_claim(work: Work, judge: str = JUDGE) -> bool:
    """Whether a judge is good enough for a claim."""
    return judge_accuracy(work, judge).low >= LEAST


def judge_line(work: Work) -> str:
    """What stands above a table that the judge made."""
    told = "so wins may be claimed" if may_claim(work) else "so no win is claimed"
    line = (
        f"The judge ranks {judge_accuracy(work)} of held-out human pairs right, {told} "
        f"(they may where the lower bound is {LEAST} or more)."
    )
    pairs = tests(work, HUMAN if work.config.judge_data else "")
    line += f" The longer answer is the better one in {share(longer_is_better(pairs), len(pairs))}."
    if work.config.judge_data:
        line += f" Of held-out pairs like those it was trained on: {accuracy_of(work, JUDGE)}."
    return line


@dataclass(frozen=True)
class Scores:
    """Rewards of all answers.

    Attributes:
        name: of the job.
        model: that judges, by the name of the job that trained it.
        answers: names of the jobs that gave them.
    """

    name: str
    model: str
    answers: Sequence[str]

    def seconds(self, work: Work, rates: Rates) -> float:
        """All are read once."""
        config = work.config
        return 10 + len(self.answers) * config.prompts * 2 * config.max_new_tokens * rates.read

    def run(self, work: Work) -> dict[str, Any]:
        """The reward of every answer, by job."""
        model = RewardModel(work.model(self.model), **loading(work))
        found = {}
        for name in self.answers:
            rows = read_answers(work, name)
            scored = model.score([r["prompt"] for r in rows], [r["text"] for r in rows])
            found[name] = [one.reward for one in scored]
        return {"scores": found}
