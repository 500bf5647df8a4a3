"""What a table is made of: pairs and prompts, split so that no prompt is in two parts.

A prompt's hash modulo 10 says whether it is for testing (0), validation (1) or training, as
everywhere; its next digit gives a training prompt to the judge (odd) or to the guides (even). Where
there is no judge, all training prompts are the guides', and validation pairs are test pairs, too:
nothing is chosen by them.

Pairs of --judge-data are for testing alone: those whose prompt the judge learns from are left out.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.arms.load import tokenizer_of
from trimtab.bench.tables.config import HUMAN, Part, TableConfig
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import Pair, split_of
from trimtab.data.prompts import read_prompts
from trimtab.data.sources import fingerprint
from trimtab.data.tokenize import tokenize_pair
from trimtab.errors import ConfigError, DataError
from trimtab.files import write_text
from trimtab.models.messages import Prompt, first_user_turn, prompt_hash
from trimtab.models.templates import TemplateError

_WRITING = threading.Lock()
"""Trainings that run at a time may learn from the same file."""


def parts_of(prompt: Prompt, *, judged: bool) -> tuple[Part, ...]:
    """Where a prompt belongs."""
    split = split_of(prompt)
    if split == "validation" and not judged:
        return "validation", "test"
    if split != "train":
        return (split,)
    return ("judge",) if judged and prompt_hash(prompt) // 10 % 2 else ("guide",)


@dataclass(frozen=True)
class Material:
    """Pairs by objective and part, and the prompts to answer.

    Attributes:
        pairs: objective -> part -> pairs, shuffled once.
        prompts: to be measured on.
        validation: to try settings on.
        folder: where files for trainings go.
        sha256: of all files read.
    """

    pairs: dict[str, dict[Part, list[Pair]]]
    prompts: list[Prompt]
    validation: list[Prompt]
    folder: Path
    sha256: str

    @classmethod
    def read(cls, config: TableConfig, base: str) -> Material:
        """Read all data of a table.

        Raises:
            DataError: no pair or no prompt for some part.
        """
        folder = Path(config.output_dir) / "material"
        pairs = {name: _parts(config, base, name) for name in config.files}
        if config.judge_data:
            pairs[HUMAN] = _unseen(config, base, pairs)
        main = pairs[config.objective]
        prompts = _prompts_of(main["test"])
        sources = [file for files in config.files.values() for file in files]
        sources += map(config.place, config.judge_data)
        if config.prompts_file:
            file = config.place(config.prompts_file)
            sources.append(file)
            prompts = _apart(read_prompts(file)[0], pairs, judged=bool(config.judge))
            random.Random(0).shuffle(prompts)
        if len(prompts) < config.prompts:
            raise DataError(
                f"{len(prompts)} prompts to answer, not {config.prompts}", "set --prompts lower"
            )
        validation = _prompts_of(main["validation"])[: config.search_prompts]
        return cls(pairs, prompts[: config.prompts], validation, folder, fingerprint(sources))

    def drawn(self, objective: str, part: Part, count: int, *, seed: int = 0) -> list[Pair]:
        """So many pairs of a part; each seed has its own.

        Raises:
            ConfigError: there are not so many.
        """
        self.require(objective, part, count)
        return random.Random(seed).sample(self.pairs[objective][part], count)

    def file(
        self, objective: str, part: Part, count: int, *, seed: int = 0, shuffled: bool = False
    ) -> str:
        """A file of `drawn` pairs, to train on.

        Args:
            objective: whose pairs.
            part: of them.
            count: how many.
            seed: of the draw.
            shuffled: swap the sides of about every second pair: labels that say nothing.

        Raises:
            ConfigError: there are not so many.
        """
        drawn = self.drawn(objective, part, count, seed=seed)
        coin = random.Random(seed + 1)
        swapped = [coin.random() < 0.5 for _ in drawn] if shuffled else [False] * count
        rows = [_row(pair, swap) for pair, swap in zip(drawn, swapped, strict=True)]
        name = f"{objective}-{part}-{count}-{seed}{'-shuffled' if shuffled else ''}.jsonl"
        with _WRITING:
            write_text(self.folder / name, "".join(json.dumps(row) + "\n" for row in rows))
        return str(self.folder / name)

    def require(self, objective: str, part: Part, count: int) -> None:
        """Refuse to draw more pairs than there are.

        Raises:
            ConfigError: there are not so many.
        """
        there = len(self.pairs[objective][part])
        if there < count:
            raise ConfigError(
                f"{count} {part} pairs of {objective} are wanted and {there} are there",
                "ask for fewer, or raise --max-length",
            )

    def of_all(self, part: Part, count: int) -> list[Prompt]:
        """Different prompts of a part, of each objective in turn."""
        each = [pairs[part] for pairs in self.pairs.values()]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*each))
        return _prompts_of([pair for pair in turns if pair is not None])[:count]

    def training_prompts(self, objective: str, count: int) -> list[Prompt]:
        """Prompts of the guides' part."""
        return _prompts_of(self.pairs[objective]["guide"])[:count]


def _parts(config: TableConfig, base: str, objective: str) -> dict[Part, list[Pair]]:
    pairs, _ = read_pairs(config.files[objective], objective)
    parts: dict[Part, list[Pair]] = {"judge": [], "guide": [], "validation": [], "test": []}
    for pair, length in _with_lengths(pairs, base):
        for part in parts_of(pair.prompt, judged=bool(config.judge)):
            if length <= config.longest(objective, part):
                parts[part].append(pair)
    for name, found in parts.items():
        if not found and (name != "judge" or config.judge):
            raise DataError(f"no {name} pair of {objective} is short enough", "raise --max-length")
        random.Random(0).shuffle(found)
    return parts


def _with_lengths(pairs: Sequence[Pair], base: str) -> Iterator[tuple[Pair, int]]:
    """Pairs with their tokens; without those whose chat the base's template cannot say."""
    tokenizer = tokenizer_of(base)
    for pair in pairs:
        with contextlib.suppress(TemplateError):
            yield pair, len(tokenize_pair(tokenizer, pair))


def _unseen(
    config: TableConfig, base: str, pairs: dict[str, dict[Part, list[Pair]]]
) -> dict[Part, list[Pair]]:
    """Pairs to measure the judge on, whose prompts it does not learn from.

    Prompts are the same where their letters and digits are: two data sets may space one prompt
    differently.
    """
    seen = {_said(pair.prompt) for parts in pairs.values() for pair in parts["judge"]}
    found, _ = read_pairs([config.place(file) for file in config.judge_data])
    kept = [
        replace(pair, objective=HUMAN)
        for pair, length in _with_lengths(found, base)
        if length <= config.test_length and _said(pair.prompt) not in seen
    ]
    if not kept:
        raise DataError(
            f"no pair of {', '.join(config.judge_data)} is short enough and new to the judge",
            "raise --test-length, or measure the judge on other pairs",
        )
    random.Random(0).shuffle(kept)
    return {"test": kept}


def _said(prompt: Prompt) -> str:
    return "".join(filter(str.isalnum, first_user_turn(prompt).lower()))


def _apart(
    prompts: list[Prompt], pairs: dict[str, dict[Part, list[Pair]]], *, judged: bool
) -> list[Prompt]:
    """Prompts that nothing is trained or chosen on; all, where they are not the data's.

    Where they are, the part is taken that their hash gives, whether they have pairs or not: those
    without are no fair draw.
    """
    own = [pair.prompt for parts in pairs.values() for part in parts.values() for pair in part]
    if not {prompt_hash(prompt) for prompt in own} & {prompt_hash(prompt) for prompt in prompts}:
        return prompts
    return [prompt for prompt in prompts if parts_of(prompt, judged=judged)[0] == "test"]


def _prompts_of(pairs: Sequence[Pair]) -> list[Prompt]:
    """Different prompts, in order."""
    return list({json.dumps(pair.prompt, sort_keys=True): pair.prompt for pair in pairs}.values())


def _row(pair: Pair, swap: bool) -> dict[str, Any]:
    """A pair as TRL writes it; its answers are chat turns."""
    better, worse = (pair.rejected, pair.chosen) if swap else (pair.chosen, pair.rejected)
    sides = {"chosen": better, "rejected": worse}
    return {"prompt": pair.prompt, "objective": pair.objective} | {
        side: [{"role": "assistant", "content": text}] for side, text in sides.items()
    }
