"""Options of the commands that score responses on several objectives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypedDict

import tyro

from trimtab.cli.options import BaseOptions, ModelsOptions, SamplingOptions
from trimtab.entries import named_entries, parse_revisions
from trimtab.models.types import DType


class Scoring(TypedDict):
    """What `trimtab.label` and `trimtab.pareto` take to score with."""

    scorers: dict[str, str]
    rubrics: dict[str, str]
    costs: list[str]
    scorer_batch_size: int
    dtype: DType
    device: str | None
    trust_remote_code: list[str]
    revisions: dict[str, str]


@dataclass(kw_only=True)
class ScorerOptions(ModelsOptions):
    """What responses are scored with."""

    scorer: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """What rates an objective, as OBJECTIVE=SCORER; repeat the option for each objective. A scorer
    is a folder (a trajectory reward model, a sequence classifier with one output, or an ARM),
    `module:function` (a rule, of the response or of prompt and response), or
    `judge:MODEL@http://host:port/v1` (an OpenAI-compatible server; its key is read from
    OPENAI_API_KEY). A judge is asked to end its reply with a line `Rating: N`, N from 1 to 10; a
    reply without one is a missing score."""

    costs: str = ""
    """Objectives of which less is better, comma-separated."""

    rubric: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """What an objective means, as OBJECTIVE=TEXT, for its judge; its name alone by default."""

    scorer_batch_size: int = 16
    """Responses in one forward pass of a reward model."""

    def scoring(self) -> Scoring:
        """What the functions that score take, as they take it."""
        return {
            "scorers": named_entries(self.scorer, "--scorer", "helpful=FOLDER"),
            "rubrics": named_entries(self.rubric, "--rubric", 'helpful="does what was asked"'),
            "costs": [name.strip() for name in self.costs.split(",") if name.strip()],
            "scorer_batch_size": self.scorer_batch_size,
            "dtype": self.dtype,
            "device": self.device,
            "trust_remote_code": self.trust_remote_code,
            "revisions": parse_revisions(self.revision),
        }


@dataclass(kw_only=True)
class MeasureOptions(BaseOptions, ScorerOptions, SamplingOptions):
    """Of the commands that have the base answer prompts and score the answers."""

    prompts_limit: int | None = None
    """Take this many prompts, from the beginning of the file."""

    resamples: int = 2000
    """Bootstrap resamples of the prompts behind every interval."""
