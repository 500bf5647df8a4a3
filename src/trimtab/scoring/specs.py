"""Scorers: a reward model, a rule in Python, or a judge behind an OpenAI-compatible server.

`load_scorer` checks what it can without loading a weight; weights are loaded with the first score.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import ConfigError
from trimtab.models.folder import fetch
from trimtab.scoring.model_scorer import ModelScorer
from trimtab.scoring.scorer import SPECS, Scorer

if TYPE_CHECKING:
    from trimtab.models.types import DType

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
