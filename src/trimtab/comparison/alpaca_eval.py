"""AlpacaEval's outputs: a JSON list of instruction, output and generator, as its judges read it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.comparison.sides import text_prompt
from trimtab.data.sources import read_rows
from trimtab.errors import ConfigError, DataError, OutputError
from trimtab.files import only_writer, write_json
from trimtab.models.messages import Prompt
from trimtab.scoring.answers import answer_in

Entries = list[dict[str, Any]]


def write_alpaca_eval(
    answers: str | os.PathLike[str] | Sequence[Mapping[str, Any]],
    output: str | Path,
    *,
    generator: str,
    overwrite: bool = False,
) -> Entries:
    """Write answers as AlpacaEval's outputs, for `alpaca_eval --model_outputs`.

    Args:
        answers: the file that `generate` wrote, another file of answers, or such rows. A row's
            `dataset` goes with it.
        output: JSON file.
        generator: what the answers are called on a leaderboard.
        overwrite: replace a file that holds something else than this generator's answers to the
            same instructions.

    Returns:
        What was written: `instruction`, `output`, `generator`, and `dataset` where there is one.

    Raises:
        DataError: a row that is no answer, a prompt that is no text, one that is answered twice.
        ConfigError: no name.
        OutputError: a file of something else, without `overwrite`.
    """
    given: Iterable[tuple[str, Mapping[str, Any]]]
    if isinstance(answers, str | os.PathLike):
        given = read_rows(answers)
    else:
        given = ((f"row {i}", row) for i, row in enumerate(answers, 1))
    entries = [_entry(place, row, generator) for place, row in given]
    require_place(output, generator, [one["instruction"] for one in entries], overwrite=overwrite)
    with only_writer(Path(output)):
        write_json(Path(output), entries)
    return entries


def require_place(
    output: str | Path, generator: str, prompts: Sequence[Prompt], *, overwrite: bool
) -> None:
    """Refuse what could not be written, before anything is answered.

    Raises:
        ConfigError, DataError, OutputError: as `write_alpaca_eval`.
    """
    if not generator.strip():
        raise ConfigError("AlpacaEval's outputs have no name", "give --generator NAME")
    instructions: dict[str, int] = {}
    for number, prompt in enumerate(prompts, 1):
        text = _instruction(prompt, f"prompt {number}")
        if text in instructions:
            raise DataError(
                f"prompts {instructions[text]} and {number} are the same: {text[:60]!r}",
                "AlpacaEval has one answer to each",
            )
        instructions[text] = number
    path = Path(output)
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "name a file")
    if path.exists() and not overwrite and not _is_own(path, generator, list(instructions)):
        raise OutputError(
            f"{path} holds something else than answers of {generator} to these prompts",
            "choose another file, or pass --overwrite",
        )


def _is_own(path: Path, generator: str, instructions: Sequence[str]) -> bool:
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        told = [(entry["instruction"], entry["generator"]) for entry in written]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return told == [(instruction, generator) for instruction in instructions]


def _entry(place: str, row: Mapping[str, Any], generator: str) -> dict[str, Any]:
    answer = answer_in(place, dict(row))
    if answer is None:
        raise DataError(f"{place} is no answer", "give what `trimtab generate` wrote")
    dataset = {} if row.get("dataset") is None else {"dataset": row["dataset"]}
    return {
        **dataset,
        "instruction": _instruction(answer.prompt, place),
        "output": answer.response,
        "generator": generator,
    }


def _instruction(prompt: Prompt, place: str) -> str:
    text = text_prompt(prompt)
    if not isinstance(text, str):
        raise DataError(
            f"{place} is a chat of several turns, which AlpacaEval has no place for",
            "give prompts of one user turn",
        )
    return text
