"""Options of the commands that score responses on several objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from trimtab.cli.options import ModelsOptions
from trimtab.errors import ConfigError
from trimtab.models.origins import Origins, parse_revisions
from trimtab.steering import require_name

if TYPE_CHECKING:
    from trimtab.scoring.scorer import Scorer


LONGEST_NAME = 100


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

    def cost_names(self, objectives: Sequence[str]) -> list[str]:
        """The costs, each of them an objective."""
        names = [name.strip() for name in self.costs.split(",") if name.strip()]
        for name in names:
            _require_known(name, objectives, "--costs")
        return [name for name in objectives if name in names]

    def objectives(self) -> list[str]:
        """What is rated; everything that the options alone tell is checked."""
        return list(self._specs())

    def _specs(self) -> Mapping[str, str]:
        specs = named_entries(self.scorer, "--scorer", "helpful=FOLDER")
        if not specs:
            raise ConfigError("nothing to score with", "give --scorer OBJECTIVE=SCORER")
        for name in specs:
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
        for name in self._rubrics():
            _require_known(name, list(specs), "--rubric")
        return specs

    def require_names(self, *others: str) -> None:
        """Refuse origins of models that there are not, besides scorers and the others."""
        names = [*others, *self._specs()]
        Origins.of(names, self.trust_remote_code, parse_revisions(self.revision))

    def _rubrics(self) -> Mapping[str, str]:
        return named_entries(self.rubric, "--rubric", 'helpful="does what was asked"')

    def scorers(self) -> dict[str, Scorer]:
        """Objective -> scorer, all checked; no weight is loaded."""
        from trimtab.scoring.specs import load_scorer

        rubrics, revisions = self._rubrics(), parse_revisions(self.revision)
        return {
            name: load_scorer(
                spec,
                name,
                rubric=rubrics.get(name),
                batch_size=self.scorer_batch_size,
                dtype=self.dtype,
                device=self.device,
                trust_remote_code=name in self.trust_remote_code,
                revision=revisions.get(name),
            )
            for name, spec in self._specs().items()
        }


def named_entries(entries: Sequence[str], option: str, example: str) -> Mapping[str, str]:
    """`NAME=VALUE` entries of a repeated option, each name once."""
    named: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name.strip() or not value:
            raise ConfigError(f"cannot read {option} {entry}", f"write {option} {example}")
        if name in named:
            raise ConfigError(f"two of {option} for {name!r}", "name each objective once")
        named[name] = value
    return named


def _require_known(name: str, objectives: Sequence[str], option: str) -> None:
    if name not in objectives:
        raise ConfigError(
            f"{option} names {name!r}, which has no --scorer",
            f"the objectives here are: {', '.join(objectives)}",
        )
