"""The two sides of a comparison: files of answers, a file for each training seed, met by prompt."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.data.sources import read_rows, saved_folder
from trimtab.errors import DataError, MissingFileError
from trimtab.models.messages import Prompt
from trimtab.scoring.answers import answer_in
from trimtab.scoring.score_files import Answer

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_ANSWERS = "a row has prompt and response, is of `trimtab generate`, or has instruction and output"
_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")


@dataclass(frozen=True)
class Side:
    """One side's answers.

    Attributes:
        name: `A` or `B`.
        files: one for each training seed.
        answers: [seeds, slots]; a slot is the i-th answer to a prompt, the same one everywhere.
    """

    name: str
    files: tuple[str, ...]
    answers: tuple[tuple[Answer, ...], ...]

    def every(self) -> list[Answer]:
        """All answers, seed after seed."""
        return [answer for seed in self.answers for answer in seed]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt.

    Attributes:
        slot: of the prompt and the number of its answer.
        seed_a, seed_b: which of a side's files, from 0.
        a, b: the answers.
    """

    slot: int
    seed_a: int
    seed_b: int
    a: Answer
    b: Answer


@dataclass(frozen=True)
class Meeting:
    """Two sides that answered the same prompts.

    Attributes:
        a, b: the sides.
        prompt_of: slot -> number of its prompt, from 0, in the order of A's first file.
    """

    a: Side
    b: Side
    prompt_of: tuple[int, ...]

    @property
    def prompts(self) -> int:
        """Different prompts."""
        return max(self.prompt_of) + 1

    @property
    def by_seed(self) -> bool:
        """Whether the i-th seed of A meets the i-th of B alone; otherwise all of them meet."""
        return len(self.a.files) == len(self.b.files)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the cells of pairs: [seeds, prompts], or [seeds of A, seeds of B, prompts]."""
        seeds = (len(self.a.files), len(self.b.files))
        return (*(seeds[:1] if self.by_seed else seeds), self.prompts)

    def pairs(self) -> list[Pair]:
        """All pairs, in the order of the cells."""
        return [
            Pair(slot, i, j, self.a.answers[i][slot], self.b.answers[j][slot])
            for i in range(len(self.a.files))
            for j in ([i] if self.by_seed else range(len(self.b.files)))
            for slot in range(len(self.prompt_of))
        ]

    def sha256(self) -> str:
        """Identity of the answers, in their order."""
        texts = [
            [(one.prompt, one.response, one.finish_reason) for one in side.every()]
            for side in (self.a, self.b)
        ]
        return hashlib.sha256(json.dumps([texts, *self.shape]).encode()).hexdigest()


def read_meeting(a: Paths, b: Paths) -> Meeting:
    """Read both sides and pair their answers by prompt.

    Args:
        a: a file of answers, a folder that holds one for each training seed, or several files.
        b: likewise.

    Raises:
        MissingFileError: no such file, or a folder without one.
        DataError: a row that is no answer, prompts that differ or are answered more often in one
            file than in another, or a file on both sides.
    """
    files = {"A": _files(a), "B": _files(b)}
    _require_apart(files)
    read = {name: [_read(file) for file in own] for name, own in files.items()}
    first = read["A"][0]
    for name, own in read.items():
        for file, answers in zip(files[name], own, strict=True):
            _require_same(f"A ({files['A'][0]})", first, f"{name} ({file})", answers)
    order = list(first)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(key for key, _ in order))}
    sides = [
        Side(name, tuple(files[name]), tuple(tuple(one[key] for key in order) for one in own))
        for name, own in read.items()
    ]
    return Meeting(sides[0], sides[1], tuple(numbers[key] for key, _ in order))


def text_prompt(prompt: Prompt) -> Prompt:
    """A chat of one user turn and nothing else as its text; any other prompt as it is."""
    if isinstance(prompt, str) or len(prompt) != 1:
        return prompt
    turn = prompt[0]
    alone = turn["role"] == "user" and not any(v for k, v in turn.items() if k not in _TURN)
    return turn["content"] if alone else prompt


_TURN = ("role", "content")
Slots = dict[tuple[str, int], Answer]
"""(prompt, number of its answer) -> answer, in the order of a file."""


def _files(given: Paths) -> list[str]:
    """The files of one side, a folder's in the order of their names."""
    if not isinstance(given, str | os.PathLike):
        return [file for one in given for file in _files(one)]
    folder = Path(given)
    if not folder.is_dir() or saved_folder(str(given)) is not None:
        return [str(given)]
    held = sorted(path for path in folder.iterdir() if _is_answers(path))
    if not held:
        raise MissingFileError(
            f"{folder} holds no file of answers", "it should hold one for each training seed"
        )
    return [str(path) for path in held]


def _is_answers(path: Path) -> bool:
    suffixes = [suffix for suffix in path.suffixes if suffix not in (".gz", ".xz")]
    hidden = path.name.startswith(".") or path.name.endswith(".job.json")
    return path.is_file() and not hidden and bool(suffixes) and suffixes[-1] in _SUFFIXES


def _require_apart(files: dict[str, list[str]]) -> None:
    """Refuse a side without a file, and a file that is read twice."""
    seen: dict[str, str] = {}
    for name, own in files.items():
        if not own:
            raise DataError(f"{name} has no file of answers", "name one for each training seed")
        for file in own:
            real = os.path.realpath(file)
            if real in seen:
                both = "both A and B" if seen[real] != name else f"two seeds of {name}"
                raise DataError(f"{file} is {both}", "name two different files")
            seen[real] = name


def _read(file: str) -> Slots:
    slots: Slots = {}
    count: Counter[str] = Counter()
    for place, row in read_rows(file):
        answer = answer_in(place, row)
        if answer is None:
            raise DataError(f"{place} is no answer", _ANSWERS)
        key = json.dumps(text_prompt(answer.prompt), sort_keys=True)
        slots[key, count[key]] = answer
        count[key] += 1
    return slots


def _require_same(one: str, first: Slots, other: str, answers: Slots) -> None:
    """Refuse two files that did not answer the same prompts, equally often."""
    mine, others = (dict.fromkeys(key for key, _ in slots) for slots in (first, answers))
    only = [[key for key in a if key not in b] for a, b in ((mine, others), (others, mine))]
    if any(only):
        lacks, has = (other, one) if only[0] else (one, other)
        keys = only[0] or only[1]
        raise DataError(
            f"{lacks} has no answer to {len(keys)} of the {len(mine if only[0] else others)} "
            f"prompts of {has}, such as {_shown(keys[0])}",
            "compare answers to the same prompts",
        )
    for key, number in _differing(first, answers):
        lacks, has = (other, one) if (key, number) in first else (one, other)
        raise DataError(
            f"{has} has more answers to {_shown(key)} than {lacks}, which has {number}",
            "compare equally many answers to each prompt",
        )


def _differing(first: Slots, answers: Slots) -> Iterator[tuple[str, int]]:
    yield from sorted(first.keys() ^ answers.keys(), key=lambda slot: slot[1])


def _shown(key: str) -> str:
    """The beginning of a prompt, for an error."""
    prompt = json.loads(key)
    text = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
    return repr(text[:60] + "…" * (len(text) > 60))
