"""Which reward models a search asks: checked before a weight is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trimtab.arms.sidecar import require_scalar
from trimtab.engines.policies import AMATEUR
from trimtab.errors import ConfigError
from trimtab.methods.protocol import Judge, Method
from trimtab.models.folder import fetch
from trimtab.models.types import DType

JUDGES: Mapping[Judge, str] = {"reward": "reward-model", "baseline": "baseline-reward-model"}
"""What a reward model is for -> what users call it."""


@dataclass(frozen=True)
class JudgeLoading:
    """How the reward models of a search are loaded.

    Attributes:
        places: folders, by what they are for.
        dtype: of their weights.
        device: where they go.
        trusted: those, as users call them, whose own code may run.
    """

    places: Mapping[Judge, str]
    dtype: DType = "auto"
    device: str | None = None
    trusted: Collection[str] = ()


def judges_of(
    method: Method,
    guides: Sequence[str],
    reward_model: str | None,
    baseline: str | None,
    revisions: Mapping[str, str] | None = None,
) -> dict[Judge, str]:
    """The reward models of a search, by what they are for; none where the guides score.

    Args:
        method: the method.
        guides: names of the engine's.
        reward_model: folder or hub id.
        baseline: likewise.
        revisions: of hub ids, by what users call them.

    Raises:
        ConfigError: nothing scores, or one has no part in the method.
        ModelLoadError: one that gives no reward, or several.
    """
    if baseline and not method.takes_baseline:
        raise ConfigError(
            f"a baseline reward model has no part in {method.name}",
            "it is for the indirect form of transfer-q",
        )
    scoring = [name for name in guides if name != AMATEUR]  # it has no opinion of its own
    if reward_model is None and not (method.guides_score and scoring):
        what = "a reward model, or a guide that scores" if method.guides_score else "a reward model"
        raise ConfigError(f"{method.name} needs {what}", "give --reward-model DIR")
    found: dict[Judge, str] = {}
    for name, place in (("reward", reward_model), ("baseline", baseline)):
        if place is not None:
            if not place.strip():
                raise ConfigError(f"the {name} model has no place", "give --reward-model DIR")
            judge: Judge = "reward" if name == "reward" else "baseline"
            label = JUDGES[judge].replace("-", " ")
            folder = fetch(place, what=label, revision=(revisions or {}).get(JUDGES[judge]))
            require_scalar(folder, label)
            found[judge] = folder
    return found
