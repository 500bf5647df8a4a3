"""What a calibration looks for, what it needs to know, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.calibration.curve import CurvePoint
from trimtab.engines.guides import (
    Contrast,
    Instruction,
    contrasts,
    instructions,
    models_of,
    require_distinct,
)
from trimtab.engines.sampling import Sampling
from trimtab.errors import ConfigError
from trimtab.models.messages import Prompt
from trimtab.scoring.scorer import Scorer


@dataclass(frozen=True)
class Goal:
    """What a calibration looks for.

    Attributes:
        target_kl: nats per generated token; None where the score decides.
        tolerance: how far the KL found may be from it, as a share of it.
        cost: the score is one of which less is better.
        max_kl: nats per token that the best score may cost.
        max_loops: share of answers that may loop beyond those of the base itself.
    """

    target_kl: float | None = None
    tolerance: float = 0.05
    cost: bool = False
    max_kl: float | None = None
    max_loops: float = 0.1


@dataclass(frozen=True)
class Calibration:
    """What a calibration found.

    Attributes:
        arm: folder; "" for an instruction or a contrast.
        goal: what was looked for.
        curve: by strength, from 0; strengths count as if no scale were stored with the ARM.
        chosen: the point taken; None if none would do.
        scale_before: the scale that the ARM came with.
        saved: the chosen strength is now the ARM's scale.
        facts: everything that the numbers depend on, as `calibration.json` holds it.
    """

    arm: str
    goal: Goal
    curve: Sequence[CurvePoint]
    chosen: CurvePoint | None
    scale_before: float
    saved: bool
    facts: Mapping[str, Any]

    @property
    def scale(self) -> float | None:
        """The strength that was taken: what strength 1 means once it is stored."""
        return self.chosen.strength if self.chosen else None


class NoStrengthError(ConfigError):
    """No strength does what was asked for.

    Attributes:
        measured: the curve that shows it.
    """

    measured: Calibration


@dataclass(frozen=True)
class Untrained:
    """The one instruction, or the one contrast, that is calibrated in place of an ARM."""

    instruct: Mapping[str, Instruction]
    contrast: Mapping[str, Contrast]

    @classmethod
    def of(cls, arm: str | None, instruct: Any, contrast: Any, *, save: bool) -> Untrained | None:
        """What was given beside or instead of an ARM; None beside none.

        Raises:
            ConfigError: not exactly one guide, or one beside which no scale can be stored.
        """
        found = cls(instructions(instruct), contrasts(contrast))
        count = bool(arm) + len(found.instruct) + len(found.contrast)
        if count != 1:
            raise ConfigError(
                f"{count} guides to calibrate" if count else "no guide to calibrate",
                "give one: an ARM, an instruction or a contrast",
            )
        if arm:
            return None
        require_distinct(found.instruct, found.contrast)
        if save:
            raise ConfigError(
                f"there is no folder to store a scale of {found.name!r} in",
                "leave out --save and pass the strength yourself",
            )
        return found

    @property
    def name(self) -> str:
        """Of the guide."""
        [name] = [*self.instruct, *self.contrast]
        return name

    @property
    def models(self) -> dict[str, str]:
        """Name -> place of the contrast's models."""
        return models_of(self.contrast)


@dataclass(frozen=True)
class Plan:
    """Everything that the curve depends on, checked before a weight is loaded.

    Attributes:
        base: folder, GGUF file or hub id.
        name: of the ARM in the engine.
        arm: its folder; "" for an instruction or a contrast.
        prompts: what is answered.
        preferences: what every prompt is answered at; a prompt's numbers are the mean over them.
        sampling: how; prompt number i takes `seed + i` at every strength and preference.
        scorer: rates the answers.
        objective: what the scorer is called.
        resamples: bootstrap resamples of the prompts.
        batch_size: answers decoded together.
        loading: further options of `load_engine`.
        guide: the instruction or contrast.
    """

    base: str
    name: str
    arm: str
    prompts: Sequence[Prompt]
    preferences: Sequence[Mapping[str, float]]
    sampling: Sampling
    scorer: Scorer | None
    objective: str
    resamples: int
    batch_size: int
    loading: Mapping[str, Any]
    guide: Untrained | None = None
