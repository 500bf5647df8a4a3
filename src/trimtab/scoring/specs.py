"""Scorers: a reward model, a rule in Python, or a judge behind an OpenAI-compatible server.

`load_scorer` checks what it can without loading a weight; weights are loaded with the first score.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import ConfigError
from trimtab.models.folder import fetch
from trimtab.models.types import DType
from trimtab.scoring.model_scorer import ModelScorer
from trimtab.scoring.scorer import SPECS, Scorer
from trimtab.steering import require_name

LONGEST_NAME = 100
_RULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load_scorer(
    spec: str,
    objective: str,
    *,
    rubric: str | None = None,
    batch_size: int = 16,
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> Scorer:
    """Make a scorer from what a user wrote.

    Args:
        spec: a folder or hub id of a trajectory reward model or an ARM; `module:function`, a rule;
            or `judge:MODEL@http://host:port/v1`.
        objective: what is rated.
        rubric: what the objective means, for a judge; by default its name.
        batch_size: responses in one forward pass of a reward model.
        dtype: of a reward model's weights.
        device: where a reward model goes; the GPU by default where there is one.
        trust_remote_code: run model code that comes with a checkpoint.
        revision: of a hub id: a branch, tag or commit.

    Raises:
        ConfigError: a spec that means nothing, a rule that cannot be imported.
        MissingFileError, ModelLoadError: a folder that is not there or cannot be loaded.
    """
    is_model = not spec.startswith("judge:") and (Path(spec).exists() or ":" not in spec)
    if revision is not None and not is_model:
        raise ConfigError(f"a revision for {objective!r}, whose scorer is no model", "leave it out")
    if spec.startswith("judge:"):
        from trimtab.scoring.judge import Judge

        return Judge(spec, objective, rubric)
    if rubric is not None:
        raise ConfigError(
            f"a rubric for {objective!r}, whose scorer is no judge", "leave out its --rubric"
        )
    if not Path(spec).exists() and _RULE.fullmatch(spec):
        from trimtab.scoring.rule import Rule

        return Rule(spec)
    if not spec or (not Path(spec).exists() and ":" in spec):
        raise ConfigError(f"cannot read the scorer {spec!r} of {objective!r}", SPECS)
    options = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    folder = fetch(spec, what="reward model", revision=revision)
    return ModelScorer(folder, batch_size, options)


@dataclass(frozen=True, kw_only=True)
class ScorerSpecs:
    """The scorers of several objectives as a user names them, and how their models are loaded.

    Attributes:
        scorers: objective -> what `load_scorer` takes, or a scorer that is made already.
        costs: objectives of which less is better.
        rubrics: objective -> what it means, for its judge.
        scorer_batch_size: responses in one forward pass of a reward model.
        dtype: of reward models' weights.
        device: where reward models go; the GPU by default where there is one.
        trust_remote_code: names of models whose own code may run; those of objectives count here.
        revisions: objective -> branch, tag or commit of its scorer's hub id.
    """

    scorers: Mapping[str, str | Scorer]
    costs: Collection[str] = ()
    rubrics: Mapping[str, str] | None = None
    scorer_batch_size: int = 16
    dtype: DType = "auto"
    device: str | None = None
    trust_remote_code: Collection[str] = ()
    revisions: Mapping[str, str] | None = None

    def objectives(self) -> list[str]:
        """What is rated, once all that the specs alone tell is checked.

        Raises:
            ConfigError: no scorer, a name that is none or is too long, a rubric of something else.
        """
        if not self.scorers:
            raise ConfigError("nothing to score with", "give --scorer OBJECTIVE=SCORER")
        for name in self.scorers:
            require_name(name)
            if len(name.encode()) > LONGEST_NAME:
                raise ConfigError(
                    f"the objective {name[:20]}… has too long a name",
                    f"use at most {LONGEST_NAME} letters: it is a file's name, too",
                )
        if self.scorer_batch_size < 1:
            raise ConfigError(
                f"--scorer-batch-size is {self.scorer_batch_size}", "it must be 1 or more"
            )
        for name in self.rubrics or {}:
            self._require_known(name, "--rubric")
        return list(self.scorers)

    def less_is_better(self) -> list[str]:
        """The costs, in the order of the objectives.

        Raises:
            ConfigError: a cost that is no objective.
        """
        for name in self.costs:
            self._require_known(name, "--costs")
        return [name for name in self.scorers if name in self.costs]

    def _require_known(self, name: str, option: str) -> None:
        if name not in self.scorers:
            raise ConfigError(
                f"{option} names {name!r}, which has no --scorer",
                f"the objectives here are: {', '.join(self.scorers)}",
            )

    def load(self) -> dict[str, Scorer]:
        """Objective -> scorer, all checked; no weight is loaded.

        Raises:
            TrimtabError: what `load_scorer` refuses.
        """
        return {
            name: spec
            if isinstance(spec, Scorer)
            else load_scorer(
                spec,
                name,
                rubric=(self.rubrics or {}).get(name),
                batch_size=self.scorer_batch_size,
                dtype=self.dtype,
                device=self.device,
                trust_remote_code=name in self.trust_remote_code,
                revision=(self.revisions or {}).get(name),
            )
            for name, spec in self.scorers.items()
        }
