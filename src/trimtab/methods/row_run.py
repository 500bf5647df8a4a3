"""Rows of prompts answered by an engine or a search, in memory or to a file that can go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.arms.sidecar import Sidecar
from trimtab.arms.starts import start_to_load
from trimtab.engines.guides import contrasts, models_of
from trimtab.engines.input_rows import KEPT, naming
from trimtab.engines.policies import policies_of
from trimtab.engines.types import Completion, LoadSettings, Request
from trimtab.files import only_writer
from trimtab.jobs import Progress, RowFile, Say, going_on
from trimtab.methods.judges import JudgeLoading
from trimtab.methods.registry import Chosen
from trimtab.models.folder import weights_fingerprint

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SearchPlan:
    """How rows are searched for.

    Attributes:
        chosen: the method.
        judging: its reward models.
    """

    chosen: Chosen
    judging: JudgeLoading

    def identity(self) -> dict[str, object]:
        """What answers depend on, for the settings of a file."""
        return {
            "method": self.chosen.method.name,
            "method_options": asdict(self.chosen.method),
            "reward_models": {
                name: weights_fingerprint(place) for name, place in self.judging.places.items()
            },
        }


@dataclass(frozen=True)
class RowRun:
    """Rows to be answered, checked before a model is loaded."""

    base: str
    arms: Mapping[str, str]
    loading: LoadSettings
    batch_size: int
    requests: Sequence[Request]
    rows: Rows
    places: Sequence[str]
    each: Callable[[dict[str, Any]], None]
    search: SearchPlan | None = None

    def identity(self) -> dict[str, object]:
        """Of the models, as they are now."""
        draft = self.loading["draft"]
        arms = [Sidecar.load(arm) for arm in self.arms.values()]
        references = [facts.reference for facts in arms]
        models = [self.base, *self.arms.values()]
        models += models_of(contrasts(self.loading["contrast"])).values()
        models += policies_of(self.loading["policy"], self.loading["amateur"]).values()
        starts = [start for arm in self.arms.values() if (start := start_to_load(arm, self.base))]
        models += [start.place for start in starts]
        models += [draft] if draft and draft != "ngram" else []
        return {
            "weights": [weights_fingerprint(model) for model in models],
            "scales": [facts.scale for facts in arms],
            **({"references": references} if set(references) - {"none"} else {}),
        }

    def to_file(
        self,
        path: Path,
        settings: Mapping[str, object],
        *,
        overwrite: bool,
        progress: Progress,
        say: Say,
    ) -> None:
        """Append the rows that a file lacks."""
        with only_writer(path), going_on():
            job = RowFile(path, settings, overwrite=overwrite)
            if job.done >= len(self.requests):
                say(f"{path} is complete: {job.done} rows")
                return
            answers = self.answers(job.done)
            with job:
                progress("answering", job.done, len(self.requests))
                for row in answers:
                    job.append(row)
                    progress("answering", job.done, len(self.requests))

    def answers(self, start: int) -> Iterator[dict[str, Any]]:
        """The rows from one on; what is wrong with any is said before the first is answered."""
        return self._answers(self._planned()(start), start)

    def _planned(self) -> Callable[[int], Iterator[Completion]]:
        """Load, check every row, and say how to answer those from one on."""
        from trimtab.engines.local import load_engine

        engine: Any = load_engine(self.base, self.arms, **self.loading)
        if self.search:
            from trimtab.methods.search import loaded

            engine = loaded(engine, self.search.chosen, self.search.judging)
        plans = []
        for place, request in zip(self.places, self.requests, strict=True):
            with naming(place):
                plans.append(engine.plan(request))
        return lambda start: engine.answers(plans[start:], batch_size=self.batch_size)

    def _answers(self, completions: Iterator[Completion], start: int) -> Iterator[dict[str, Any]]:
        for i, completion in enumerate(completions, start):
            row = as_row(i, self.requests[i], completion, self.rows[i])
            self.each(row)
            yield row


def as_row(
    index: int, request: Request, completion: Completion, given: Mapping[str, Any]
) -> dict[str, Any]:
    """One answer as an output row, with what is kept of the input row."""
    row: dict[str, Any] = {"index": index}
    row |= {key: given[key] for key in KEPT if given.get(key) is not None}
    row |= {
        "prompt": request.prompt,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "preference": dict(completion.preference),
        "strength": completion.strength,
        "seed": completion.seed,
    }
    if request.instructions:
        row["instructions"] = dict(request.instructions)
    if completion.cost:
        found = {"reward": completion.reward, "cost": asdict(completion.cost)}
        row |= _strict({**found, **completion.details})
    if request.gate is not None:
        row["gated"] = completion.gated
    if completion.drafted:
        row |= {"drafted": completion.drafted, "accepted": completion.accepted}
    if completion.tokens:
        row["tokens"] = _strict([asdict(token) for token in completion.tokens])
    return row


def _strict(value: Any) -> Any:
    """As JSON can hold it: null for a reward that is infinite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _strict(one) for key, one in value.items()}
    return [_strict(one) for one in value] if isinstance(value, list | tuple) else value
