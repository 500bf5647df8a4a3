"""Jobs that train and measure what was trained, each training in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.arms.reward_model import RewardModel
from trimtab.bench.tables.config import Part
from trimtab.bench.tables.jobs import Apart, Work
from trimtab.bench.tables.rates import Rates
from trimtab.bench.tables.ways import WEAK
from trimtab.bench.tables.weak import relative_depth
from trimtab.data.pairs import Pair
from trimtab.errors import TrainingError
from trimtab.evaluation.floors import bag_of_words, longer_is_better
from trimtab.evaluation.pair_rewards import pair_rewards
from trimtab.stats import Estimate, hierarchical, ranked, ranked_right, share

COMMON: dict[str, Any] = {"split": "none", "eval_strategy": "no", "save_strategy": "no"}
"""The parts are split already, and nothing is chosen by an evaluation."""
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True)
class Train(Apart):
    """Train a model.

    Attributes:
        name: of the job, and of the model's folder.
        method: of `trimtab train`.
        part: whose pairs it learns from.
        pairs: how many.
        seed: of the draw of its pairs and of training.
        objective: whose pairs, so many of each where there are several, as `helpful,harmless`; the
            table's own by default.
        kind: whose options of the config it takes; its method's by default.
        of: job that made what it starts from; `base` or `judge`, or another's name.
        shuffled: learn from shuffled labels.
    """

    name: str
    method: str
    part: Part = "guide"
    pairs: int = 0
    seed: int = 0
    objective: str = ""
    kind: str = ""
    of: str = "base"
    shuffled: bool = False

    def seconds(self, work: Work, rates: Rates) -> float:
        """Of all tokens that it sees; another backbone's by the size of its weights.

        Raises:
            ConfigError: there are not so many pairs.
        """
        for name in self._objectives(work):
            work.material.require(name, self.part, self._pairs(work))
        epochs = float(self._options(work).get("num_train_epochs", 1.0))
        each = sum(work.config.longest(name, self.part) for name in self._objectives(work))
        tokens = 2 * 0.7 * each * self._pairs(work) * epochs
        passes = 1.3 if self.method == "dpo" else 1.0  # the start is read, too
        return 10 + passes * rates.training(tokens) * relative_size(work, self.of)

    def run(self, work: Work) -> dict[str, Any]:
        """What training took: seconds, bytes at the peak, and the last loss."""
        objectives, count, file = self._objectives(work), self._pairs(work), work.material.file
        data = [
            f"{name}={file(name, self.part, count, seed=self.seed, shuffled=self.shuffled)}"
            for name in objectives
        ]
        longest = max(work.config.longest(name, self.part) for name in objectives)
        options = {
            "model": self._start(work),
            "data": data,
            "objectives": ",".join(objectives),
            "method": self.method,
            "max_length": 2 * longest,  # another tokenizer may take more
            **COMMON,
            **self._options(work),
        }
        return {"pairs": count, **trained(work.model(self.name), self.seed, options)}

    def _options(self, work: Work) -> dict[str, Any]:
        own = work.config.options(self.kind or self.method)
        if self.kind == "judge" and work.config.judge_chat_template:
            own = {"chat_template": work.config.judge_chat_template, **own}
        if self.method == "uniarm":
            own = {"describe": work.config.describe, **own}
        return own

    def _pairs(self, work: Work) -> int:
        return self.pairs or work.config.pairs

    def _objectives(self, work: Work) -> list[str]:
        return (self.objective or work.config.objective).split(",")

    def _start(self, work: Work) -> str:
        return {"base": work.base, "judge": work.judge}.get(self.of) or work.model(self.of)


def relative_size(work: Work, of: str) -> float:
    """How large the weights are that a model starts from, beside the base's."""
    if of == WEAK:
        return relative_depth(work)
    return _bytes(work.judge) / _bytes(work.base) if of == "judge" else 1.0


def _bytes(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) or 1


def trained(folder: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Train into a folder, which a killed training may have begun.

    Raises:
        TrainingError: it failed; its own words stand above.
    """
    if not (Path(folder) / "results.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
    job = {**options, "output_dir": folder, "seed": seed, "resume_from_checkpoint": "auto"}
    done = subprocess.run(
        [sys.executable, "-m", "trimtab.bench.tables.train_process", json.dumps(job)],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **QUIET},
    )
    if done.returncode:
        raise TrainingError(f"training {folder} failed", "see above")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@dataclass(frozen=True)
class Accuracy:
    """Measure a trained model on held-out pairs.

    Attributes:
        name: of the job.
        model: name of the job that trained it.
        objective: of the pairs; the table's own by default.
    """

    name: str
    model: str
    objective: str = ""

    def seconds(self, work: Work, rates: Rates) -> float:
        """Both sides are read."""
        return 5 + 2 * 0.5 * work.config.test_length * rates.read * len(tests(work, self.objective))

    def run(self, work: Work) -> dict[str, Any]:
        """Whether each pair is ranked right: 1, or 0, or ½ of a tie."""
        model = RewardModel(
            work.model(self.model), dtype=work.config.dtype, device=work.config.device
        )
        rewards_2N = pair_rewards(model, tests(work, self.objective)).arm
        return {"right": [ranked(gap) for gap in rewards_2N[0] - rewards_2N[1]]}


@dataclass(frozen=True)
class Floors:
    """Measure what every reward model has to beat on the same held-out pairs.

    Attributes:
        name: of the job.
        objective: of the pairs; the table's own by default.
        pairs: that the bag of words learns from.
    """

    name: str
    objective: str = ""
    pairs: int = 0

    def seconds(self, work: Work, rates: Rates) -> float:
        """Next to nothing."""
        return 2.0

    def run(self, work: Work) -> dict[str, Any]:
        """Prefer the longer answer; a bag of words fitted on the first seed's pairs."""
        objective = self.objective or work.config.objective
        count = self.pairs or work.config.pairs
        test = tests(work, objective)
        words = bag_of_words(work.material.drawn(objective, "guide", count), test)
        found: dict[str, Estimate] = {"prefer longer": share(longer_is_better(test), len(test))}
        if words is not None:
            found["bag of words"] = share(ranked_right(words), len(test))
        return {name: vars(estimate) for name, estimate in found.items()}


def tests(work: Work, objective: str = "") -> list[Pair]:
    """The held-out pairs of an objective, the same for every model."""
    pairs = work.material.pairs[objective or work.config.objective]["test"]
    return pairs[: work.config.test_pairs]


def right_of(work: Work, *models: str) -> list[list[float]]:
    """Whether each held-out pair was ranked right by each of some models, [models, pairs]."""
    return [list(work.rows[f"accuracy {model}"]["right"]) for model in models]


def accuracy_of(work: Work, *models: str) -> Estimate:
    """Of one model, Wilson's interval; of several seeds the mean, and an interval over both."""
    right = right_of(work, *models)
    if len(right) == 1:
        return share(sum(right[0]), len(right[0]))
    return hierarchical(right, shares=True)
