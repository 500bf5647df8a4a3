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

from trimtab.bench.tables.jobs import Work
from trimtab.bench.tables.material import Part
from trimtab.bench.tables.rates import Rates
from trimtab.errors import TrainingError
from trimtab.evaluation.accuracy import accuracy
from trimtab.evaluation.floors import bag_of_words, longer_is_better
from trimtab.stats import Estimate, share

COMMON: dict[str, Any] = {"split": "none", "eval_strategy": "no", "save_strategy": "no"}
"""The parts are split already, and nothing is chosen by an evaluation."""
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True)
class Train:
    """Train a model.

    Attributes:
        name: of the job, and of the model's folder.
        method: of `trimtab train`.
        part: whose pairs it learns from.
        pairs: how many.
        seed: of the draw of its pairs and of training.
        objective: whose pairs; the table's own by default.
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
        """Of all tokens that it sees; another backbone's by the size of its weights."""
        epochs = float(self._options(work).get("num_train_epochs", 1.0))
        tokens = 2 * 0.7 * self._longest(work) * self._pairs(work) * epochs
        passes = 1.3 if self.method == "dpo" else 1.0  # the start is read, too
        return 10 + passes * rates.training(tokens) * self._relative_size(work)

    def run(self, work: Work) -> dict[str, Any]:
        """What training took: seconds, bytes at the peak, and the last loss."""
        objective = self.objective or work.config.objective
        data = work.material.file(
            objective, self.part, self._pairs(work), seed=self.seed, shuffled=self.shuffled
        )
        options = {
            "model": self._start(work),
            "data": data,
            "objectives": objective,
            "method": self.method,
            "max_length": 2 * self._longest(work),  # another tokenizer may take more
            **COMMON,
            **self._options(work),
        }
        return {"pairs": self._pairs(work), **trained(work.model(self.name), self.seed, options)}

    def _options(self, work: Work) -> dict[str, Any]:
        own = work.config.options(self.kind or self.method)
        if self.kind == "judge" and work.config.judge_chat_template:
            own = {"chat_template": work.config.place(work.config.judge_chat_template), **own}
        return own

    def _pairs(self, work: Work) -> int:
        return self.pairs or work.config.pairs

    def _longest(self, work: Work) -> int:
        return work.config.longest(self.objective or work.config.objective)

    def _start(self, work: Work) -> str:
        return {"base": work.base, "judge": work.judge}.get(self.of) or work.model(self.of)

    def _relative_size(self, work: Work) -> float:
        if self.of != "judge":
            return 1.0
        return _bytes(work.judge) / _bytes(work.base)


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
        return 5 + 2 * 0.5 * work.config.test_length * rates.read * _tests(work, self.objective)

    def run(self, work: Work) -> dict[str, Any]:
        """The share ranked right with its interval."""
        found = accuracy(
            work.model(self.model),
            test_file(work, self.objective),
            split="all",
            dtype=work.config.dtype,
            device=work.config.device,
            batch_size=16,
        )
        return {"accuracy": vars(found.arm)}


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
        parts, n = work.material.pairs[objective], _tests(work, objective)
        test = parts["test"][:n]
        words = bag_of_words(parts["guide"][:count], test)
        found: dict[str, Estimate] = {"prefer longer": share(longer_is_better(test), n)}
        found |= {} if words is None else {"bag of words": share(words, n)}
        return {name: vars(estimate) for name, estimate in found.items()}


def _tests(work: Work, objective: str) -> int:
    pairs = work.material.pairs[objective or work.config.objective]["test"]
    return min(work.config.test_pairs, len(pairs))


def test_file(work: Work, objective: str = "") -> str:
    """The held-out pairs of an objective, the same for every model."""
    name = objective or work.config.objective
    return work.material.file(name, "test", _tests(work, objective))
