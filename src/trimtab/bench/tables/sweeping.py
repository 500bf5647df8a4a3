"""Jobs that sweep preferences with `trimtab.pareto`: to choose strengths, and to be measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trimtab
from trimtab.bench.tables.answering import loading
from trimtab.bench.tables.config import Part
from trimtab.bench.tables.jobs import Work
from trimtab.bench.tables.rates import Rates
from trimtab.bench.tables.training import relative_size
from trimtab.bench.tables.ways import GENARM, ITSELF, SYSTEM
from trimtab.files import write_text
from trimtab.fronts.lattice import lattice_size
from trimtab.fronts.sweep import RECORDS, responses_needed
from trimtab.scoring.score_files import read_jsonl

SOUP, PARM, UNIARM = "soup", "parm", "uniarm"
MOD, TOLD = "mod", "instructions"
FOLDERS = {
    GENARM: ("guides", "genarm-{seed}"),
    SOUP: ("soups", "genarm-{seed}"),
    PARM: ("guides", "parm-{seed}"),
    UNIARM: ("guides", "uniarm-{seed}"),
    MOD: ("policies", "dpo-{seed}"),
    ITSELF: ("guides", ITSELF),
}
"""Guide -> the option of `pareto` that takes it, and its folder among the table's models."""
SEARCH, FRONT = "search", "front"
JUDGES, SEARCHERS = "judge", "searcher"
"""Folders of the reward models, one for each objective: those that the table reports, and those
that strengths are chosen by."""
SEARCH_STEP = 0.5
STREAMS = {GENARM: 2.4, MOD: 2.4, TOLD: 2.4, ITSELF: 3.0}
"""Time of a token beside the base's, about; 1.7 for the others."""

Asked = Mapping[str, tuple[str, float]]
"""What a guide is called in a sweep -> which it is, and its strength."""


@dataclass(frozen=True)
class Strengths:
    """Try strengths of every guide on validation prompts; take those of the largest hypervolume.

    The judges have no part in it: reward models of the guides' own pairs score the answers.

    Attributes:
        tried: guide -> strengths, as many for each.
        name: of the job, and of the sweep's folder.
    """

    tried: Mapping[str, Sequence[float]]
    name: str = SEARCH

    def seconds(self, work: Work, rates: Rates) -> float:
        """Of a small sweep for each strength."""
        guides = [guide for guide, values in self.tried.items() for _ in values]
        return _seconds(work, rates, guides, self._sizes(work), of="base")

    def run(self, work: Work) -> dict[str, Any]:
        """Hypervolume and mean inner product at each strength, and what is chosen."""
        asked = {
            f"{guide}-{i}": (guide, value)
            for guide, values in self.tried.items()
            for i, value in enumerate(values)
        }
        front = _swept(work, self.name, asked, "validation", SEARCHERS, self._sizes(work))
        tried = [
            {
                "guide": guide,
                "strength": value,
                "hypervolume": front["guides"][name]["hypervolume"]["value"],
                "mip": front["guides"][name]["mip"]["value"],
            }
            for name, (guide, value) in asked.items()
        ]
        best = {
            guide: max((t for t in tried if t["guide"] == guide), key=lambda t: t["hypervolume"])
            for guide in self.tried
        }
        chosen = {guide: one["strength"] for guide, one in best.items()}
        return {"tried": tried, "chosen": chosen, "n": front["n_prompts"]}

    def _sizes(self, work: Work) -> _Sizes:
        config = work.config
        return _Sizes(1, SEARCH_STEP, config.search_prompts, config.search_tokens)


@dataclass(frozen=True)
class Front:
    """Every guide at every preference on the test prompts, scored by the judges.

    Attributes:
        guides: names, the one that others are compared with first.
        name: of the job, and of the sweep's folder.
    """

    guides: Sequence[str]
    name: str = FRONT

    def seconds(self, work: Work, rates: Rates) -> float:
        """Of all answers, and of judging them."""
        return _seconds(work, rates, self.guides, self._sizes(work), of="judge")

    def run(self, work: Work) -> dict[str, Any]:
        """Scores of every answer, [seeds, preferences, prompts, objectives], and what they took."""
        chosen = work.rows[SEARCH]["chosen"] if SEARCH in work.rows else {}
        strengths = {guide: chosen.get(guide, 1.0) for guide in self.guides}
        if ITSELF in strengths:  # a control of what GenARM's strength does by itself
            strengths[ITSELF] = strengths[GENARM]
            _base_as_arms(work)
        asked = {guide: (guide, value) for guide, value in strengths.items()}
        front = _swept(work, self.name, asked, "test", JUDGES, self._sizes(work))
        found = front["guides"].items()
        return {
            "strengths": strengths,
            "preferences": front["preferences"],
            "scores": {name: _scores(work, name, len(one["points"])) for name, one in found},
            "ms_per_token": {name: one["ms_per_token"] for name, one in found},
            "answering": {name: one["seconds"] for name, one in found},
            "n": front["n_prompts"],
        }

    def _sizes(self, work: Work) -> _Sizes:
        config = work.config
        return _Sizes(config.seeds, config.preference_step, config.prompts, config.max_new_tokens)


@dataclass(frozen=True)
class _Sizes:
    seeds: int
    step: float
    prompts: int
    tokens: int


def _swept(
    work: Work, name: str, asked: Asked, part: Part, scorers: str, sizes: _Sizes
) -> dict[str, Any]:
    """A sweep in a folder of the table's; a killed one goes on."""
    prompts = work.material.of_all(part, sizes.prompts)
    if part == "test" and work.config.prompts_file:
        prompts = work.material.prompts
    file = work.material.folder / f"prompts-{part}.jsonl"
    write_text(file, "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return trimtab.pareto(
        base=work.base,
        prompts=str(file),
        scorers={each: work.model(f"{scorers}/{each}") for each in work.config.files},
        output_dir=work.folder / name,
        **_options(work, asked),
        preference_step=sizes.step,
        seeds=range(sizes.seeds),
        max_new_tokens=sizes.tokens,
        batch_size=work.config.batch_size,
        max_responses=10**9,  # the table's own estimate is what bounds it
        overwrite=True,  # by this table with other options; its own answers are kept
        **loading(work),
    )


def _base_as_arms(work: Work) -> None:
    """A folder in which the base is every objective's ARM."""
    for name in work.config.files:
        link = Path(work.model(f"{ITSELF}/{name}"))
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path(work.base).resolve(), target_is_directory=True)


def _options(work: Work, asked: Asked) -> dict[str, Any]:
    """The guides as `pareto` takes them."""
    options: dict[str, dict[str, Any]] = {"guides": {}, "soups": {}, "policies": {}, "instruct": {}}
    for name, (guide, strength) in asked.items():
        if guide == TOLD:
            for each in work.config.files:
                told = {"text": SYSTEM.format(objective=each), "weight": strength}
                options["instruct"][f"{name}.{each}"] = told
        else:
            option, folder = FOLDERS[guide]
            options[option][name] = f"{work.model(folder)}@{strength:g}"
    return options


def _scores(work: Work, guide: str, points: int) -> list[Any]:
    """Of a guide's records, which are in order: [seeds, preferences, prompts, objectives]."""
    rows = [row for row in read_jsonl(work.folder / FRONT / RECORDS) if row["guide"] == guide]
    scores = [[row["scores"][name] for name in work.config.files] for row in rows]
    prompts = len(scores) // (work.config.seeds * points)
    by_point = [scores[i : i + prompts] for i in range(0, len(scores), prompts)]
    return [by_point[i : i + points] for i in range(0, len(by_point), points)]


def _seconds(work: Work, rates: Rates, guides: Sequence[str], sizes: _Sizes, *, of: str) -> float:
    """Of a sweep by these guides, whose answers are scored by models that start from `of`."""
    objectives = len(work.config.files)
    answers = lattice_size(objectives, sizes.step) * sizes.prompts * sizes.seeds
    tokens = answers * sizes.tokens
    one = rates.decoding(tokens / min(work.config.batch_size, answers), tokens)
    decoding = sum(10 * sizes.seeds + STREAMS.get(guide, 1.7) * one for guide in guides)
    scored = responses_needed(
        len(guides), sizes.seeds, lattice_size(objectives, sizes.step), sizes.prompts
    )
    read = scored * 2 * sizes.tokens * rates.read * relative_size(work, of)
    return decoding + objectives * (10 + read)
