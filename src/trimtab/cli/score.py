"""`trimtab score`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.arms.objectives import conditioned_on
from trimtab.cli.options import OneModelOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.data.chats import prompt_of
from trimtab.data.pairs import Unusable
from trimtab.data.reading import pairs_in
from trimtab.data.rows import pairs_of
from trimtab.data.sources import Row, fingerprint, read_rows
from trimtab.errors import ConfigError, DataError
from trimtab.files import only_writer
from trimtab.jobs import RowFile, going_on
from trimtab.models.folder import fetch
from trimtab.models.messages import Prompt, require_characters
from trimtab.steering import weights_of

if TYPE_CHECKING:
    from trimtab.arms.reward_model import Scored
    from trimtab.models.types import PromptFormat

DESCRIPTION = "Per-token and per-response rewards of given responses."


@dataclass(kw_only=True)
class ScoreOptions(OneModelOptions):
    """Rewards of given responses."""

    arm: str
    """The reward model: a folder that `trimtab train` wrote, any causal LM, or a sequence
    classifier with one output (its logit)."""

    input: str
    """File of rows with `prompt` and `response`, or preference pairs (both sides are scored)."""

    preference: str | None = None
    """What a conditioned ARM scores for, such as `helpful=0.7,harmless=0.3`; by default all
    objectives alike."""

    output: str | None = None
    """JSONL file for the rewards of every token; without it a table is printed."""

    overwrite: bool = False
    """Replace an output file of another run."""

    batch_size: int = 16
    """Responses in one forward pass."""

    json: bool = False
    """Print rewards, tokens included, as JSON."""


@dataclass(frozen=True)
class _Item:
    """One response to be scored; a `verbatim` prompt is raw text cut anywhere."""

    place: str
    prompt: Prompt
    response: str
    verbatim: bool = False


def main(argv: Sequence[str]) -> int:
    """Read, score, write or print."""
    options = parse(ScoreOptions, argv, "score", DESCRIPTION)
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size is {options.batch_size}", "it must be 1 or more")
    items = [item for place, row in read_rows(options.input) for item in _items(place, row)]
    options.arm = fetch(options.arm, what="reward model", revision=options.revision)
    weights_of(options.preference, conditioned_on(options.arm))  # refused before anything loads
    if options.output is None:
        _print(_score(options, items, None), as_json=options.json)
        return 0
    with only_writer(Path(options.output)):
        job = _job(options, options.output)
        if job.done >= len(items):
            print(f"{options.output} is complete: {job.done} rows", file=sys.stderr)
            return 0
        _score(options, items[job.done :], job)
    return 0


def _job(options: ScoreOptions, output: str) -> RowFile:
    """The output file: new, or to go on with."""
    from trimtab.models.classifiers import is_classifier
    from trimtab.scoring.model_scorer import model_identity

    settings = {
        "arm": options.arm,
        "model": model_identity(options.arm),
        "dtype": options.dtype,
        "preference": options.preference,
        "input_sha256": fingerprint([options.input]),
        **({"read_as": "classifier"} if is_classifier(options.arm) else {}),
    }
    return RowFile(Path(output), settings, overwrite=options.overwrite)


def _score(
    options: ScoreOptions, items: Sequence[_Item], job: RowFile | None
) -> list[dict[str, Any]]:
    """Score what is left; returns the rows that were not written."""
    from trimtab.arms.reward_model import RewardModel
    from trimtab.arms.reward_reader import RewardReader
    from trimtab.cli import show

    quiet_libraries()
    reader = RewardReader(options.arm, trust_remote_code=options.trust_remote_code)
    own = reader.sidecar.prompt_format
    reader.read(*_asked(items, own))  # before a weight is loaded
    model = RewardModel(
        options.arm,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        reader=reader,
    )
    rows: list[dict[str, Any]] = []
    with going_on() if job else contextlib.nullcontext(), show.progress() as report:
        for start in range(0, len(items), 4 * options.batch_size):
            group = items[start : start + 4 * options.batch_size]
            prompts, responses, styles, places = _asked(group, own)
            found = model.score(
                prompts,
                responses,
                batch_size=options.batch_size,
                prompt_format=styles,
                preference=options.preference,
                places=places,
            )
            rows += [_row(item, scored) for item, scored in zip(group, found, strict=True)]
            if job is not None:
                _append(job, rows)
                rows = []
            report("scoring", start + len(group), len(items))
    return rows


def _asked(
    items: Sequence[_Item], own: PromptFormat
) -> tuple[list[Prompt], list[str], list[PromptFormat], list[str]]:
    """Prompts, responses, how the prompts are read, and places."""
    return (
        [item.prompt for item in items],
        [item.response for item in items],
        ["raw" if item.verbatim else own for item in items],
        [item.place for item in items],
    )


def _row(item: _Item, scored: Scored) -> dict[str, Any]:
    return {
        "source": item.place,
        "prompt": item.prompt,
        "response": item.response,
        "reward": scored.reward,
        "tokens": list(scored.tokens),
        "token_rewards": list(scored.token_rewards),
    }


def _items(place: str, row: Row) -> list[_Item]:
    """What a row asks to be scored: one response, or the two of a preference pair."""
    if "response" in row:
        prompt = prompt_of(row, place)
        if prompt is None or not isinstance(row["response"], str):
            raise DataError(f"{place} has no text `prompt` and `response`", "mend the row")
        require_characters(row["response"], place, "response")
        return [_Item(place, prompt, row["response"])]
    return [item for where, pair in pairs_in(row, place) for item in _sides(where, pair)]


def _sides(place: str, row: Row) -> list[_Item]:
    try:
        pair = next(pairs_of(row, place))
    except Unusable as reason:
        raise DataError(f"{place} cannot be scored: {reason}", "mend or delete it") from None
    return [
        _Item(f"{place} chosen", pair.prompt, pair.chosen, pair.verbatim),
        _Item(f"{place} rejected", pair.prompt, pair.rejected, pair.verbatim),
    ]


def _append(job: RowFile, rows: list[dict[str, Any]]) -> None:
    with job:
        for row in rows:
            job.append(row)


def _print(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    from trimtab.cli import show

    if as_json:
        show.print_json(rows)
        return
    shown = [
        (
            row["source"],
            f"{row['reward']:.2f}",
            str(len(row["tokens"])) if row["tokens"] else "–",
            row["response"].replace("\n", " ")[:60],
        )
        for row in rows
    ]
    by_token = any(row["tokens"] for row in rows)
    title = "rewards (nats; --json or --output for every token)" if by_token else "rewards"
    show.console().print(show.table(title, ("row", "reward", "tokens", "response"), shown))
