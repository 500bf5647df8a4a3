"""`trimtab score`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.arms.folder import conditioned_on, fetch, weights_fingerprint
from trimtab.cli.options import OneModelOptions
from trimtab.cli.parse import parse, quiet_libraries
from trimtab.data.chats import prompt_of, require_characters
from trimtab.data.formats import Unusable, pairs_of
from trimtab.data.pairs import Prompt
from trimtab.data.sources import Row, fingerprint, read_rows
from trimtab.errors import ConfigError, DataError, PreferenceError
from trimtab.files import only_writer
from trimtab.jobs import RowFile, going_on
from trimtab.steering import Steering

DESCRIPTION = "Per-token and per-response rewards of given responses."


@dataclass(kw_only=True)
class ScoreOptions(OneModelOptions):
    """Rewards of given responses."""

    arm: str
    """The reward model: a folder that `trimtab train` wrote, or any causal LM."""

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
    options.arm = fetch(options.arm, what="reward model")
    if objectives := conditioned_on(options.arm):
        Steering.of(objectives, options.preference)
    elif options.preference is not None:
        raise PreferenceError("this reward model takes no preference", "leave --preference out")
    if options.output is None:
        return _score(options, items, None)
    with only_writer(Path(options.output)):
        return _score(options, items, options.output)


def _score(options: ScoreOptions, items: list[_Item], output: str | None) -> int:
    """Score what is not done yet; write or print it."""
    job = None
    if output is not None:
        settings = {
            "arm": options.arm,
            "weights": weights_fingerprint(options.arm),
            "preference": options.preference,
            "input_sha256": fingerprint([options.input]),
        }
        job = RowFile(Path(output), settings, overwrite=options.overwrite)
        if job.done >= len(items):
            print(f"{output} is complete: {job.done} rows", file=sys.stderr)
            return 0
        items = items[job.done :]
    from trimtab.cli import show
    from trimtab.evaluation.scoring import RewardModel

    quiet_libraries()
    model = RewardModel(
        options.arm,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
    )
    rows: list[dict[str, Any]] = []
    with going_on() if job else contextlib.nullcontext(), show.progress() as report:
        for start in range(0, len(items), 4 * options.batch_size):
            group = items[start : start + 4 * options.batch_size]
            found = model.score(
                [item.prompt for item in group],
                [item.response for item in group],
                batch_size=options.batch_size,
                prompt_format=[
                    "raw" if item.verbatim else model.sidecar.prompt_format for item in group
                ],
                preference=options.preference,
            )
            rows += [
                {
                    "source": item.place,
                    "prompt": item.prompt,
                    "response": item.response,
                    "reward": scored.reward,
                    "tokens": list(scored.tokens),
                    "token_rewards": list(scored.token_rewards),
                }
                for item, scored in zip(group, found, strict=True)
            ]
            if job is not None:
                _append(job, rows)
                rows = []
            report("scoring", min(start + len(group), len(items)), len(items))
    if job is None:
        _print(rows, as_json=options.json)
    return 0


def _items(place: str, row: Row) -> list[_Item]:
    """What a row asks to be scored: one response, or the two of a preference pair."""
    if "response" in row:
        prompt = prompt_of(row, place)
        if prompt is None or not isinstance(row["response"], str):
            raise DataError(f"{place} has no text `prompt` and `response`", "mend the row")
        require_characters(row["response"], place, "response")
        return [_Item(place, prompt, row["response"])]
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
    title = "rewards (nats; --json or --output for every token)"
    show.console().print(show.table(title, ("row", "reward", "tokens", "response"), shown))
