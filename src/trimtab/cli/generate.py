"""`trimtab generate`."""

from __future__ import annotations

import contextlib
import difflib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.arms.sidecar import Sidecar
from trimtab.cli.options import EngineOptions, SamplingOptions
from trimtab.cli.parse import parse
from trimtab.data.chats import prompt_of
from trimtab.data.literals import read_literal
from trimtab.data.sources import fingerprint, read_rows
from trimtab.engines.types import Completion, Request, Sampling
from trimtab.errors import ConfigError, DataError, TrimtabError
from trimtab.files import only_writer
from trimtab.jobs import RowFile, going_on
from trimtab.models.folder import weights_fingerprint
from trimtab.models.messages import require_characters

if TYPE_CHECKING:
    from trimtab.engines.local import LocalEngine
    from trimtab.engines.local.rows import RowPlan


def _whole(value: Any) -> int:
    """A whole number, or text of one; pandas writes 5 as 5.0 where a column has gaps."""
    text = str(value)
    whole, _, zeros = text.partition(".")
    return int(text if zeros.strip("0") else whole)


_ROW_SAMPLING: dict[str, Callable[[Any], Any]] = {
    "max_new_tokens": _whole, "temperature": float, "top_k": _whole, "top_p": float, "min_p": float,
}  # fmt: skip
_ROW_KEYS = ("prompt", "tools", "preference", "strength", "seed", *_ROW_SAMPLING, "id")
_OF_PAIRS = ("chosen", "rejected", "response", "objective", "labels", "scores", "kept")
DESCRIPTION = "Answer prompts with a frozen base steered by ARMs."


@dataclass(kw_only=True)
class GenerateOptions(EngineOptions, SamplingOptions):
    """Answer prompts with a frozen base steered by ARMs."""

    prompt: str | None = None
    """One prompt; its answer is streamed."""

    input: str | None = None
    """File of rows with `prompt` (text or chat messages, with `tools` where it has some) and, where
    a row differs, `preference`, `strength`, `seed`, `max_new_tokens`, `temperature`, `top_k`,
    `top_p`, `min_p`. An `id` is kept; columns of preference data say nothing here; any other key is
    refused."""

    output: str | None = None
    """JSONL file; rows are appended as they are done, and a killed run goes on where it stopped.
    Without it the rows of an input file are printed."""

    overwrite: bool = False
    """Replace an output file of another run."""

    batch_size: int = 8
    """Prompts decoded together; the next one starts as soon as one is done."""

    report: bool = False
    """Add base log-prob, rewards and fused log-prob of every token."""

    json: bool = False
    """Print the answers as JSON."""


def main(argv: Sequence[str]) -> int:
    """Parse, check everything, load, answer."""
    options = parse(GenerateOptions, argv, "generate", DESCRIPTION)
    if (options.prompt is None) == (options.input is None):
        raise ConfigError("nothing to answer", "give either --prompt TEXT or --input FILE")
    if options.prompt == "":
        raise ConfigError("the prompt is empty", "give at least one character")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size is {options.batch_size}", "it must be 1 or more")
    options.steering()
    rows: list[dict[str, Any]] = [{"prompt": options.prompt}]
    if options.input is not None:
        rows = [row for _, row in read_rows(options.input)]
    requests = [_request(options, number, row) for number, row in enumerate(rows)]
    if options.output is None:
        return _print_answers(options, rows, requests)
    with only_writer(Path(options.output)), going_on():
        job = RowFile(Path(options.output), _settings(options), overwrite=options.overwrite)
        if job.done >= len(requests):
            print(f"{options.output} is complete: {job.done} rows", file=sys.stderr)
            return 0
        return _write_answers(options, job, rows, requests)


def _request(options: GenerateOptions, number: int, row: dict[str, Any]) -> Request:
    """One input row as a request, validated before any model is loaded."""
    place = f"row {number + 1} of the input" if options.input else "the command line"
    own = {k: v for k, v in row.items() if v is not None and v != ""}  # tables fill with nothing
    _check_keys(own, place)
    prompt = prompt_of(own, place)
    if not prompt:
        raise DataError(f"{place} has no `prompt`", "give text or messages")
    sampling = options.sampling()
    try:
        seed = _whole(own.get("seed", sampling.seed + number))
    except ValueError:
        raise DataError(f"{place} has seed {own['seed']!r}", "give a whole number") from None
    request = Request(
        prompt,
        _own_preference(own, place) if "preference" in own else options.preference,
        own.get("strength", options.strength),
        replace(sampling, seed=seed),
        options.kl_budget,
        options.gate,
    )
    with _naming(place if options.input else ""):
        request = replace(request, sampling=_own_sampling(request.sampling, own))
        request.steering(options.objectives)
    return request


def _check_keys(row: Mapping[str, Any], place: str) -> None:
    """Refuse a key that would have no effect (a setting misspelt), and values no file can hold."""
    for key, value in row.items():
        if key not in (*_ROW_KEYS, *_OF_PAIRS):  # preference data can be answered as they are
            near = difflib.get_close_matches(str(key), _ROW_KEYS, n=1)
            hint = f"do you mean `{near[0]}`?" if near else f"the keys are {', '.join(_ROW_KEYS)}"
            raise DataError(f"{place} has an unknown key `{key!s:.40}`", hint)
        require_characters(value, place, key)
    try:
        json.dumps(row.get("id"))
    except (TypeError, ValueError):  # Parquet has dates, decimals and bytes
        raise DataError(f"{place} has an `id` that JSON cannot hold", "make it text") from None


def _own_preference(row: Mapping[str, Any], place: str) -> Any:
    """A row's own preference; a table holds `{"helpful": 1}` as text."""
    found = row["preference"]
    if not isinstance(found, str) or not found.lstrip().startswith("{"):
        return found
    try:
        return read_literal(found)
    except ValueError:
        raise DataError(f"{place} has preference {found!r}", "write NAME=WEIGHT,…") from None


def _own_sampling(sampling: Sampling, row: dict[str, Any]) -> Sampling:
    """A row's own sampling settings, where it has some."""
    changes: dict[str, Any] = {}
    for name, kind in _ROW_SAMPLING.items():
        if name in row:
            try:
                changes[name] = kind(row[name])
            except (TypeError, ValueError):
                wanted = "a whole number" if kind is _whole else "a number"
                raise DataError(f"{name} is {row[name]!r}", f"give {wanted}") from None
    return sampling.but(**changes)


@contextlib.contextmanager
def _naming(place: str) -> Iterator[None]:
    """Say in an error which row of the input it is about."""
    try:
        yield
    except TrimtabError as error:
        if not place:
            raise
        raise type(error)(f"{place}: {error.args[0]}", error.hint) from None


def _settings(options: GenerateOptions) -> dict[str, Any]:
    """What the output depends on."""
    free = {"output", "overwrite", "batch_size", "json", "input"}
    settings = {key: value for key, value in asdict(options).items() if key not in free}
    models = [options.base, *options.arms.values()]
    if options.draft_model and options.draft_model != "ngram":
        models.append(options.draft_model)
    return {
        **settings,
        "weights": [weights_fingerprint(model) for model in models],
        "scales": [Sidecar.load(arm).scale for arm in options.arms.values()],
        "input_sha256": fingerprint([options.input] if options.input else []),
    }


def _load(options: GenerateOptions, requests: list[Request]) -> tuple[LocalEngine, list[RowPlan]]:
    """The engine and its plans; a prompt too long for a stream is refused before any answer."""
    engine = options.load()
    plans = []
    for number, request in enumerate(requests, 1):
        with _naming(f"row {number} of the input" if options.input else ""):
            plans.append(engine.plan(request))
    return engine, plans


def _print_answers(
    options: GenerateOptions, rows: list[dict[str, Any]], requests: list[Request]
) -> int:
    from trimtab.cli import show

    engine, plans = _load(options, requests)
    if options.prompt is not None and not (options.json or options.report):
        for chunk in engine.stream(requests[0], speculate=options.speculate):
            print(chunk.text, end="", flush=True)
        print()
        return 0
    done = _answers(engine, options, plans)
    found = (as_row(i, r, c, rows[i].get("id")) for i, (r, c) in enumerate(done))
    if options.json or options.report:
        show.print_json(list(found))
        return 0
    for row in found:
        print(json.dumps(row, ensure_ascii=False), flush=True)
    return 0


def _write_answers(
    options: GenerateOptions, job: RowFile, rows: list[dict[str, Any]], requests: list[Request]
) -> int:
    from trimtab.cli import show

    engine, plans = _load(options, requests)
    with job, show.progress() as report:
        start = job.done
        report("answering", start, len(requests))
        for i, (request, completion) in enumerate(_answers(engine, options, plans[start:]), start):
            job.append(as_row(i, request, completion, rows[i].get("id")))
            report("answering", job.done, len(requests))
    return 0


def _answers(
    engine: LocalEngine, options: GenerateOptions, plans: list[RowPlan]
) -> Iterator[tuple[Request, Completion]]:
    completions = engine.answers(
        plans,
        batch_size=options.batch_size,
        report=options.report,
        speculate=options.speculate,
    )
    return zip((plan.request for plan in plans), completions, strict=True)


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
        "seed": request.sampling.seed,
    }
    if request.gate is not None:
        row["gated"] = completion.gated
    if completion.drafted:
        row |= {"drafted": completion.drafted, "accepted": completion.accepted}
    if completion.tokens:
        row["tokens"] = [asdict(token) for token in completion.tokens]
    return row
