"""Scorers: a reward model, a rule in Python, or a judge behind an OpenAI-compatible server.

`load_scorer` checks what it can without loading a weight; weights are loaded with the first score.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import ConfigError
from trimtab.models.folder import fetch
from trimtab.scoring.model_scorer import ModelScorer
from trimtab.scoring.scorer import SPECS, Scorer
from trimtab.steering import require_name

if TYPE_CHECKING:
    from trimtab.models.types import DType

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


def require_specs(
    specs: Mapping[str, str | Scorer], rubrics: Mapping[str, str], *, batch_size: int
) -> list[str]:
    """The objectives that are rated, once all that the specs alone tell is checked.

    Raises:
        ConfigError: no scorer, a name that is none or is too long, a rubric of something else.
    """
    if not specs:
        raise ConfigError("nothing to score with", "give --scorer OBJECTIVE=SCORER")
    for name in specs:
        require_name(name)
        if len(name.encode()) > LONGEST_NAME:
            raise ConfigError(
                f"the objective {name[:20]}… has too long a name",
                f"use at most {LONGEST_NAME} letters: it is a file's name, too",
            )
    if batch_size < 1:
        raise ConfigError(f"--scorer-batch-size is {batch_size}", "it must be 1 or more")
    for name in rubrics:
        _require_known(name, specs, "--rubric")
    return list(specs)


def require_costs(costs: Collection[str], objectives: Sequence[str]) -> list[str]:
    """The objectives of which less is better, in their order.

    Raises:
        ConfigError: a cost that is no objective.
    """
    for name in costs:
        _require_known(name, objectives, "--costs")
    return [name for name in objectives if name in costs]


def _require_known(name: str, objectives: Collection[str], option: str) -> None:
    if name not in objectives:
        raise ConfigError(
            f"{option} names {name!r}, which has no --scorer",
            f"the objectives here are: {', '.join(objectives)}",
        )


def load_scorers(
    specs: Mapping[str, str | Scorer],
    *,
    rubrics: Mapping[str, str],
    batch_size: int,
    dtype: DType,
    device: str | None,
    trust_remote_code: Collection[str],
    revisions: Mapping[str, str],
) -> dict[str, Scorer]:
    """Objective -> scorer, all checked; no weight is loaded.

    Args:
        specs: objective -> what `load_scorer` takes, or a scorer that is made already.
        rubrics: objective -> what it means, for its judge.
        batch_size: responses in one forward pass of a reward model.
        dtype: of reward models' weights.
        device: where reward models go; the GPU by default where there is one.
        trust_remote_code: objectives whose scorer's own code may run.
        revisions: objective -> branch, tag or commit of its scorer's hub id.
    """
    return {
        name: spec
        if isinstance(spec, Scorer)
        else load_scorer(
            spec,
            name,
            rubric=rubrics.get(name),
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            trust_remote_code=name in trust_remote_code,
            revision=revisions.get(name),
        )
        for name, spec in specs.items()
    }
