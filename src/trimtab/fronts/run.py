"""`trimtab pareto` as a function: check everything, answer, score, report; a killed run goes on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from trimtab.data.prompts import read_prompts
from trimtab.data.tally import RowTally
from trimtab.engines.guides import ContrastLike, InstructionLike
from trimtab.engines.sampling import Sampling
from trimtab.entries import as_entries, named_entries
from trimtab.errors import ConfigError
from trimtab.files import only_writer
from trimtab.fronts import files
from trimtab.fronts.guides import Guide, read_guides
from trimtab.fronts.lattice import lattice, lattice_size
from trimtab.fronts.numbers import Design, Normalize, Reference, front_numbers
from trimtab.fronts.reference import read_reference
from trimtab.fronts.sweep import (
    SCORES,
    Sweep,
    own_file,
    require_vocabularies,
    require_within_budget,
    respond,
    responses_file,
)
from trimtab.fronts.untrained import described, read_untrained
from trimtab.jobs import Progress, RowFile, Say, going_on, unseen
from trimtab.models.folder import check_folder
from trimtab.models.origins import Origins
from trimtab.models.types import DType, PromptFormat
from trimtab.scoring.score_files import ScoreFile, made_again, missing, score_answers, score_files
from trimtab.scoring.scorer import Scorer
from trimtab.scoring.specs import ScorerSpecs
from trimtab.steering import PreferenceLike, Steering, parse_strength

logger = logging.getLogger(__name__)


def pareto(
    *,
    base: str,
    prompts: str,
    scorers: Mapping[str, str | Scorer],
    output_dir: str | Path,
    guides: Mapping[str, str] | Sequence[str] = (),
    soups: Mapping[str, str] | Sequence[str] = (),
    policies: Mapping[str, str] | Sequence[str] = (),
    combine: Mapping[str, str] | Sequence[str] = (),
    instruct: Mapping[str, InstructionLike] | Sequence[str] = (),
    contrast: Mapping[str, ContrastLike] | Sequence[str] = (),
    costs: Collection[str] = (),
    rubrics: Mapping[str, str] | None = None,
    scorer_batch_size: int = 16,
    prompts_limit: int | None = None,
    preference_step: float = 0.1,
    preferences: Sequence[PreferenceLike] = (),
    strength: float = 1.0,
    seeds: Sequence[int] = (0,),
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    stop: Sequence[str] = (),
    batch_size: int = 32,
    max_responses: int = 20000,
    normalize: Normalize = "base",
    reference: Reference | str = "worst",
    resamples: int = 2000,
    prompt_format: PromptFormat = "auto",
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress = unseen,
    say: Say = logger.warning,
) -> dict[str, Any]:
    """Sweep preferences: fronts of guides, their hypervolume and mean inner product.

    Args:
        base: the frozen base; unguided, it is always measured too.
        prompts: file of prompts or of preference pairs; each different prompt is taken once.
        scorers: objective -> folder of a reward model, `module:function`, `judge:MODEL@URL`, or a
            `Scorer`; two objectives or more.
        output_dir: where responses, scores, front.json, table.md and front.png go. A killed run
            goes on where it stopped; a finished one only reports again.
        guides: what is compared, name -> FOLDER or FOLDER@STRENGTH (or `NAME=FOLDER` texts): one
            conditioned ARM, or a folder with an ARM per objective in its sub-folders; `{seed}`
            stands for each seed. The others are compared with the first.
        soups: the same, but the LoRA ARMs in the folder are averaged into one.
        policies: the same, but the folder holds a policy per objective (DPO models, say), which are
            decoded together in the base's place (MOD); their strength is 1 or less.
        combine: of these, name -> `fusion` (the reverse KL, the default), `forward-kl`, `soup` or
            `factor-soup`, as for `load`.
        instruct: objective -> a text, as for `load`, for every objective: a guide without training,
            called `instructions`. `GUIDE.OBJECTIVE` instead names further ones, which may have
            contrasts, too. Their weights multiply the strength.
        contrast: objective -> two models, as for `load`: a guide called `contrasts`, or likewise.
        costs: objectives of which less is better.
        rubrics: objective -> what it means, for its judge.
        scorer_batch_size: responses in one forward pass of a reward model.
        prompts_limit: take this many prompts, from the beginning.
        preference_step: 0.1 measures 11 preferences of two objectives, 66 of three.
        preferences: those to measure, instead of all of a step.
        strength: of a guide that names none.
        seeds: of sampling; prompt number i is sampled with 100003 seed + i everywhere.
        max_new_tokens, temperature, top_k, top_p, min_p, stop: as for `generate`.
        batch_size: responses decoded together, whatever their preferences.
        max_responses: refuse a sweep of more.
        normalize: `base` puts HV and MIP in standard deviations of the base's own answers, with
            their mean as zero; `none` in the scorers' units.
        reference: point of the hypervolume: `worst`, `base`, or objective -> number in the scorers'
            own units.
        resamples: bootstrap resamples of the prompts behind every interval.
        prompt_format, dtype, device: as for `load`.
        trust_remote_code: names of models (`base`, an ARM's or a scorer's) whose own code may run.
        revisions: name -> branch, tag or commit of a hub id.
        overwrite: replace what another run left; responses that are this run's own are kept.
        progress: is told (what, done, total).
        say: is told what a user should know, a line each.

    Returns:
        What front.json holds.

    Raises:
        TrimtabError: options, prompts, models or scorers that cannot work; nothing is written.
    """
    specs = ScorerSpecs(
        scorers=scorers,
        costs=costs,
        rubrics=rubrics,
        scorer_batch_size=scorer_batch_size,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        revisions=revisions,
    )
    objectives = specs.objectives()
    counts = {
        "batch_size": (batch_size, 1),
        "prompts_limit": (prompts_limit, 1),
        "max_responses": (max_responses, 1),
        "resamples": (resamples, 100),
    }
    _require_numbers(
        objectives, bool(guides or soups or policies or instruct or contrast), counts, seeds
    )
    point = read_reference(reference, objectives)
    below = specs.less_is_better()
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, min_p, 0, tuple(stop))
    check_folder(base, what="base model")
    pinned = dict(revisions or {})
    reading: _Reading = {
        "objectives": objectives,
        "seeds": seeds,
        "strength": parse_strength(strength),
        "revisions": pinned,
    }
    combined = named_entries(as_entries(combine), "--combine", "mod=forward-kl")
    wanted = read_guides(
        as_entries(guides), as_entries(soups), as_entries(policies), combined, **reading
    )
    wanted += read_untrained(instruct, contrast, wanted, **reading)
    names = ["base", *(name for guide in wanted for name in guide.names), *objectives]
    Origins.of(names, trust_remote_code, pinned)
    asked, unusable = read_prompts(prompts, prompts_limit)
    points = _preferences(
        preferences, preference_step, objectives, wanted, seeds, len(asked), max_responses, sampling
    )
    sweep = Sweep(
        base=base,
        guides=wanted,
        preferences=points,
        seeds=list(seeds),
        prompts=asked,
        sampling=sampling,
        prompt_format=prompt_format,
        dtype=dtype,
        device=device,
        trust_remote_code=list(trust_remote_code),
        batch_size=batch_size,
        revision=pinned.get("base"),
    )
    design = Design(
        [guide.name for guide in wanted], objectives, below, points, list(seeds), len(asked)
    )
    loaded = specs.load()  # the last, as one may have to be fetched
    folder = Path(output_dir)
    run = _Run(folder, sweep, design, loaded, unusable, overwrite, progress, say)
    with only_writer(folder, folder=True):
        with going_on():
            records = run.records()
        front = front_numbers(
            records, design, normalize=normalize, reference=point, resamples=resamples
        )
        front["made_of"] = {guide.name: text for guide in wanted if (text := described(guide))}
        files.write_numbers(folder, front)
    return front


class _Reading(TypedDict):
    """What every guide is read with."""

    objectives: Sequence[str]
    seeds: Sequence[int]
    strength: float
    revisions: Mapping[str, str]


def _require_numbers(
    objectives: Sequence[str],
    guided: bool,
    counts: Mapping[str, tuple[int | None, int]],
    seeds: Sequence[int],
) -> None:
    """Refuse numbers that mean nothing: name -> what was given, and the least it may be."""
    if len(objectives) < 2:
        raise ConfigError("one objective makes no front", "give --scorer for two or more")
    if not guided:
        raise ConfigError(
            "no guide to measure", "give --guide NAME=FOLDER, or --instruct OBJECTIVE=TEXT"
        )
    for name, (given, least) in counts.items():
        if given is not None and given < least:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} is {given}", f"it must be {least} or more")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError("--seeds are none, or one twice", "give each seed once")


def _preferences(
    wanted: Sequence[PreferenceLike],
    step: float,
    objectives: Sequence[str],
    guides: Sequence[Guide],
    seeds: Sequence[int],
    prompts: int,
    most: int,
    sampling: Sampling,
) -> list[Mapping[str, float]]:
    """The points of the sweep, once they are known to be within the budget."""
    chosen = [Steering.of(objectives, one).preference for one in wanted]
    for i, point in enumerate(chosen):
        if point in chosen[:i]:
            raise ConfigError(f"--preference {wanted[i]} is given twice", "drop one")
    require_within_budget(
        len(guides),
        len(seeds),
        len(chosen) or lattice_size(len(objectives), step),
        prompts,
        most=most,
        max_new_tokens=sampling.max_new_tokens,
    )
    return chosen or [*lattice(objectives, step)]


@dataclass(frozen=True)
class _Run:
    """A sweep in its folder, checked and ready to go on."""

    folder: Path
    sweep: Sweep
    design: Design
    scorers: Mapping[str, Scorer]
    unusable: RowTally
    overwrite: bool
    progress: Progress
    say: Say

    def records(self) -> list[dict[str, Any]]:
        """Answer and score what is not done yet; returns all rows."""
        settings = self.sweep.settings()
        responses = responses_file(self.folder, settings, overwrite=self.overwrite)
        self._try_out(responses, self._score_files(settings))
        for line in self.unusable.lines():
            self.say(line)
        respond(self.sweep, responses, self.progress, begun=self._begun)
        scores = self._score_files(settings)
        for line in made_again(scores):
            self.say(line)
        if any(file.lacks_some(self.sweep.size) for file in scores):
            files.forget_results(self.folder)
        self._write_manifest(answering=False)
        scored = score_answers(scores, list(files.answers_of(self.folder)), self.progress)
        for line in missing(scores, scored):
            self.say(line)
        return files.write_records(self.folder, scored)

    def _score_files(self, settings: Mapping[str, Any]) -> list[ScoreFile]:
        def place(objective: str) -> Path:
            return self.folder / SCORES.format(objective)

        return own_file(
            lambda: score_files(place, settings, self.scorers, overwrite=self.overwrite)
        )

    def _begun(self) -> None:
        files.forget_scores(self.folder)
        self._write_manifest(answering=True)

    def _write_manifest(self, *, answering: bool) -> None:
        counts = self.unusable.counts
        files.write_manifest(
            self.folder, self.sweep, self.design, self.scorers, counts, answering=answering
        )

    def _try_out(self, responses: RowFile, scores: Sequence[ScoreFile]) -> None:
        """Find out what cannot work before the first response is made, as far as that is cheap."""
        asked = self.sweep.prompts
        unanswered = responses.done < self.sweep.size
        if unanswered:
            require_vocabularies(self.sweep)
        for file in scores:
            if unanswered:
                file.scorer.check_prompts(asked)
            if unanswered or file.lacks_some(self.sweep.size):
                file.scorer.probe(asked[0])
