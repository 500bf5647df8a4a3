"""`trimtab generate` as a function: rows answered, in memory or to a file that can go on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.arms.named import left_to_load, named_arms, objectives_of
from trimtab.arms.sidecar import Sidecar
from trimtab.arms.starts import start_to_load
from trimtab.data.sources import fingerprint, read_rows
from trimtab.engines.guides import (
    ContrastLike,
    InstructionLike,
    contrasts,
    instructions,
    models_of,
    require_distinct,
)
from trimtab.engines.input_rows import naming, request_of
from trimtab.engines.types import Completion, LoadSettings, Request, Sampling, Speculate
from trimtab.entries import as_entries, parse_bytes
from trimtab.errors import ConfigError
from trimtab.files import only_writer
from trimtab.jobs import Progress, RowFile, Say, going_on, unseen
from trimtab.models.folder import weights_fingerprint
from trimtab.models.origins import Origins
from trimtab.models.types import DType, PromptFormat, Quantization
from trimtab.steering import Combine, PreferenceLike

if TYPE_CHECKING:
    from trimtab.engines.local import LocalEngine
    from trimtab.engines.local.rows import RowPlan

logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, Any]]
_APART = ("cache_memory", "instruct", "contrast")
"""No token depends on the first; the others are written as they were read."""


def generate(
    *,
    base: str,
    input: str | Rows,
    arms: Mapping[str, str] | Sequence[str] = (),
    output: str | Path | None = None,
    preference: PreferenceLike | None = None,
    strength: float = 1.0,
    kl_budget: float | None = None,
    gate: float | None = None,
    combine: Combine = "fusion",
    describe: Mapping[str, str] | None = None,
    instruct: Mapping[str, InstructionLike] | Sequence[str] = (),
    contrast: Mapping[str, ContrastLike] | Sequence[str] = (),
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    batch_size: int = 8,
    report: bool = False,
    speculate: Speculate = "off",
    draft: str | None = None,
    max_length: int | None = None,
    cache_memory: int | str | None = None,
    quantization: Quantization | None = None,
    prompt_format: PromptFormat = "auto",
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress = unseen,
    each: Callable[[dict[str, Any]], None] = lambda row: None,
    say: Say = logger.warning,
) -> list[dict[str, Any]]:
    """Answer rows of prompts with a frozen base steered by ARMs.

    To answer prompts one after the other, load an engine once: `trimtab.load`.

    Args:
        base: folder, GGUF file or hub id of the frozen base.
        input: a file or hub data set of rows, or the rows: `prompt` (text or chat messages, with
            `tools` where it has some) and, where a row differs, `preference`, `strength`,
            `kl_budget`, `gate`, `seed`, `max_new_tokens`, `temperature`, `top_k`, `top_p`, `min_p`.
        arms: objective -> folder of its ARM, or `OBJECTIVE=FOLDER` texts and folders of ARMs that
            say what they are for.
        output: JSONL file; rows are appended as they are done, and a killed run goes on where it
            stopped.
        preference, strength, kl_budget, gate: of rows that have none; see `Steering`.
        instruct, contrast: as for `load`, or texts like `plain=Use short words.` and
            `safe=TUNED:UNTUNED`, with a weight before it where it is not 1 (`plain=-0.5:...`).
        combine, describe, draft, max_length, cache_memory, quantization: as for `load`.
        prompt_format, dtype, device, trust_remote_code, revisions: as for `load`.
        max_new_tokens, temperature, top_k, top_p, min_p, seed, stop: see `Sampling`; row number i
            takes `seed + i`.
        batch_size: prompts decoded together; the next one starts as soon as one is done.
        report: add base log-prob, rewards and fused log-prob of every token.
        speculate: draft tokens and verify them in one pass: the same tokens.
        overwrite: replace an output file of another run.
        progress: is told (what, done, total).
        each: is given every row as soon as it is done.
        say: is told what a user should know, a line each.

    Returns:
        The rows; none that were written to a file.

    Raises:
        TrimtabError: rows, options or models that cannot work; nothing is written.
    """
    parse_bytes(cache_memory, "--cache-memory")
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "it must be 1 or more")
    named = named_arms(as_entries(arms), revisions)
    opposed, instructed = contrasts(contrast), instructions(instruct)
    require_distinct(named, opposed, instructed)
    others = [*models_of(opposed)]
    Origins.of(["base", "draft", *named, *as_entries(arms), *others], (), revisions or {})
    objectives = [*objectives_of(named), *opposed, *instructed, *(describe or {})]
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, min_p, seed, tuple(stop))
    common = Request(
        "", preference, strength, sampling, kl_budget, gate, report=report, speculate=speculate
    )
    common.steering(objectives)
    rows: Rows = [row for _, row in read_rows(input)] if isinstance(input, str) else input
    places = [
        f"row {i} of the input" if isinstance(input, str) or len(rows) > 1 else ""
        for i in range(1, len(rows) + 1)
    ]
    requests = [
        request_of(row, i, common, objectives, place)
        for i, (row, place) in enumerate(zip(rows, places, strict=True))
    ]
    loading: LoadSettings = {
        "dtype": dtype,
        "device": device,
        "prompt_format": prompt_format,
        "trust_remote_code": list(trust_remote_code),
        "revisions": left_to_load(revisions or {}, others),
        "draft": draft,
        "max_length": max_length,
        "cache_memory": cache_memory,
        "quantization": quantization,
        "combine": combine,
        "describe": dict(describe or {}),
        "instruct": instructed,
        "contrast": opposed,
    }
    run = _Run(base, named, loading, batch_size, requests, rows, places, each)
    if output is None:
        return list(run.answers(0))
    read = json.dumps(list(rows), sort_keys=True, default=str).encode()
    settings = {
        "command": "generate",
        "base": base,
        "arms": named,
        "loading": {k: v for k, v in loading.items() if k not in _APART},
        "instruct": {name: asdict(instruction) for name, instruction in instructed.items()},
        "contrast": {name: asdict(pair) for name, pair in opposed.items()},
        "common": asdict(common),
        "input_sha256": fingerprint([input])
        if isinstance(input, str)
        else hashlib.sha256(read).hexdigest(),
        **run.identity(),
    }
    run.to_file(Path(output), settings, overwrite=overwrite, progress=progress, say=say)
    return []


@dataclass(frozen=True)
class _Run:
    """Rows to be answered, checked before a model is loaded."""

    base: str
    arms: Mapping[str, str]
    loading: LoadSettings
    batch_size: int
    requests: Sequence[Request]
    rows: Rows
    places: Sequence[str]
    each: Callable[[dict[str, Any]], None]

    def identity(self) -> dict[str, object]:
        """Of the models, as they are now."""
        draft = self.loading["draft"]
        arms = [Sidecar.load(arm) for arm in self.arms.values()]
        references = [facts.reference for facts in arms]
        models = [self.base, *self.arms.values()]
        models += models_of(contrasts(self.loading["contrast"])).values()
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
        engine, plans = self._load()
        return self._answers(engine, plans, start)

    def _load(self) -> tuple[LocalEngine, list[RowPlan]]:
        from trimtab.engines.local import load_engine

        engine = load_engine(self.base, self.arms, **self.loading)
        plans = []
        for place, request in zip(self.places, self.requests, strict=True):
            with naming(place):
                plans.append(engine.plan(request))
        return engine, plans

    def _answers(
        self, engine: LocalEngine, plans: Sequence[RowPlan], start: int
    ) -> Iterator[dict[str, Any]]:
        completions = engine.answers(plans[start:], batch_size=self.batch_size)
        for i, completion in enumerate(completions, start):
            row = as_row(i, self.requests[i], completion, self.rows[i].get("id"))
            self.each(row)
            yield row


def as_row(
    index: int, request: Request, completion: Completion, identity: object = None
) -> dict[str, Any]:
    """One answer as an output row."""
    row: dict[str, Any] = {"index": index}
    if identity is not None:
        row["id"] = identity
    row |= {
        "prompt": request.prompt,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "preference": dict(completion.preference),
        "strength": completion.strength,
        "seed": completion.seed,
    }
    if request.gate is not None:
        row["gated"] = completion.gated
    if completion.drafted:
        row |= {"drafted": completion.drafted, "accepted": completion.accepted}
    if completion.tokens:
        row["tokens"] = [asdict(token) for token in completion.tokens]
    return row
