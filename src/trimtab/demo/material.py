"""What a demo is made of: a model, pairs, ARMs, objectives, prompts and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Objective:
    """What a demo steers to, and how a reader can check it.

    Attributes:
        name: of the objective.
        measure: a number for an answer.
        unit: what that number is, for columns and axes.
        explained: how it is measured, a sentence or two for the page.
        less_is_better: whether a lower number is what the objective wants.
        marks: regular expressions of what counts -> how the terminal shows it.
    """

    name: str
    measure: Callable[[str], float]
    unit: str
    explained: str
    less_is_better: bool = False
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def column(self) -> str:
        """The unit with an arrow that says which way is better."""
        return f"{self.unit} {'↓' if self.less_is_better else '↑'}"


@dataclass(frozen=True)
class Material:
    """What a demo is made of.

    Attributes:
        model: gives the frozen model's folder; may fetch it.
        about: the model, in words.
        pairs: file of preference pairs.
        objectives: two of them.
        shipped: objective -> folder of an ARM that comes with Trimtab; the others are trained.
        control: folder of an ARM trained on shuffled labels, "" for none.
        training: options of `trimtab train`.
        sampling: how answers are sampled, with `max_new_tokens`.
        batch_size: requests decoded together.
        held_out: prompts whose subjects are in no pair.
        shown: prompts answered side by side.
        curve: weights of the first objective along which the preference goes.
        opening: the page's first paragraph.
    """

    model: Callable[[], str]
    about: str
    pairs: str
    objectives: tuple[Objective, Objective]
    held_out: tuple[str, ...]
    shown: tuple[str, ...]
    curve: tuple[float, ...]
    opening: str
    training: Mapping[str, Any]
    sampling: Mapping[str, Any]
    shipped: Mapping[str, str] = field(default_factory=dict)
    control: str = ""
    batch_size: int = 32

    @property
    def names(self) -> tuple[str, ...]:
        """Of the objectives."""
        return tuple(objective.name for objective in self.objectives)

    @property
    def trained(self) -> tuple[str, ...]:
        """Objectives whose ARM is trained while one watches."""
        return tuple(name for name in self.names if name not in self.shipped)
