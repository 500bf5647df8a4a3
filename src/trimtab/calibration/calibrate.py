"""Calibration: measure an ARM at several strengths, take one, store it as the ARM's scale."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from trimtab.arms.objectives import conditioned_on
from trimtab.arms.sidecar import Sidecar, arm_facts, store_scale
from trimtab.calibration.plan import Calibration, Goal, NoStrengthError, Plan, Untrained
from trimtab.calibration.search import search
from trimtab.data.prompts import read_prompts
from trimtab.engines.guides import ContrastLike, InstructionLike
from trimtab.engines.sampling import Sampling
from trimtab.errors import ConfigError, ModelLoadError, OutputError
from trimtab.files import only_writer, require_fresh
from trimtab.jobs import Progress, unseen
from trimtab.models.folder import check_folder, fetch, weights_fingerprint
from trimtab.models.messages import Prompt
from trimtab.models.origins import Origins
from trimtab.models.types import DType, PromptFormat
from trimtab.scoring.scorer import Scorer
from trimtab.scoring.specs import load_scorer
from trimtab.steering import PreferenceLike, Steering, parse_strength

logger = logging.getLogger(__name__)

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


def calibrate(
    base: str,
    arm: str | None,
    prompts: str | Sequence[Prompt],
    *,
    instruct: Mapping[str, InstructionLike] | Sequence[str] = (),
    contrast: Mapping[str, ContrastLike] | Sequence[str] = (),
    target_kl: float | None = None,
    tolerance: float = 0.05,
    scorer: str | Scorer | None = None,
    cost: bool = False,
    max_kl: float | None = None,
    max_loops: float = 0.1,
    strengths: Sequence[float] = STRENGTHS,
    preference: PreferenceLike | None = None,
    save: bool = False,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    name: str | None = None,
    objective: str = "score",
    prompts_limit: int | None = None,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    resamples: int = 2000,
    batch_size: int = 16,
    prompt_format: PromptFormat = "auto",
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
    progress: Progress = unseen,
) -> Calibration:
    """Find the strength that an ARM should have, and store it as the ARM's `scale` if asked to.

    Every prompt is answered at every strength with the same seeds. With `target_kl`, the two
    strengths between which the mean KL first reaches it are narrowed down by interpolation, each
    step measured, until the KL is within `tolerance`. Otherwise the strength of the grid with the
    best mean score is taken, among those within `max_kl` and `max_loops`.

    Args:
        base: the frozen model: folder, GGUF file or hub id.
        arm: folder or hub id of one ARM; None for an instruction or a contrast.
        instruct: instead of an ARM, one instruction, as for `load`. Its weight multiplies the
            strengths, and there is nothing to `save`.
        contrast: likewise, one contrast.
        prompts: file, hub data set or list of prompts; none that the ARM was trained on.
        target_kl: nats per generated token from the base, mean over prompts. KL is of the fused
            distribution, before temperature and filters.
        tolerance: how far from it the KL may be, as a share of it.
        scorer: folder of a reward model, `module:function`, `judge:MODEL@URL`, or a `Scorer`.
            Beside a `target_kl` it is shown and decides nothing.
        cost: less is better on the scorer.
        max_kl: nats per token that the best score may cost.
        max_loops: share of answers that may loop beyond those of the base itself.
        strengths: the grid, as if no scale were stored with the ARM; 0 is always measured.
        preference: of a conditioned ARM; by default the mean over one-hot preferences.
        save: write the scale into the ARM's `trimtab.json`, where no other value changes.
        output_dir: where `calibration.json` and `calibration.png` go, if anywhere.
        overwrite: replace what is there.
        name: what the ARM is called, also in `trust_remote_code` and `revisions`, where it is
            `arm` by default.
        objective: what the scorer rates.
        prompts_limit: take this many prompts, from the beginning.
        max_new_tokens, temperature, top_k, top_p, min_p, seed, stop: as for `generate`; prompt
            number i takes `seed + i`.
        resamples: bootstrap resamples of the prompts behind every interval.
        batch_size: answers decoded together.
        prompt_format, dtype, device, trust_remote_code, revisions: as for `load`.
        progress: is told (what, done, total).

    Raises:
        NoStrengthError: no strength reaches the target, or scores better than the base; it carries
            the curve. Nothing is stored.
        TrimtabError: bad options, prompts or models; nothing is written.
    """
    goal = _goal(target_kl, tolerance, scorer is not None, cost, max_kl, max_loops)
    grid = _grid(strengths)
    for what, number, least in (
        ("resamples", resamples, 100),
        ("batch size", batch_size, 1),
        ("largest number of prompts", prompts_limit, 1),
    ):
        if number is not None and number < least:
            raise ConfigError(f"the {what} is {number}", f"it must be {least} or more")
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, min_p, seed, tuple(stop))
    guide = Untrained.of(arm, instruct, contrast, save=save)
    known = ("base", *guide.models) if guide else ("base", name or "arm")
    origins = Origins.of(known, trust_remote_code, revisions or {})
    if arm and save:
        _require_storable(arm)
    check_folder(base, what="base model")
    arm = fetch(arm, revision=origins.revision(name or "arm")) if arm else ""
    told = guide.name if guide else _name_of(arm)
    arm_name = told if guide else name or told
    if isinstance(scorer, str):
        scorer = load_scorer(scorer, objective, dtype=dtype, device=device)
    plan = Plan(
        base,
        arm_name,
        arm,
        _prompts(prompts, prompts_limit),
        _preferences(arm, arm_name, preference, scored=goal.target_kl is None),
        sampling,
        scorer,
        objective,
        resamples,
        batch_size,
        {
            "dtype": dtype,
            "device": device,
            "prompt_format": prompt_format,
            "trust_remote_code": [
                arm_name if one == (name or "arm") else one for one in trust_remote_code
            ],
            "revisions": {n: r for n, r in (revisions or {}).items() if guide or n == "base"},
        },
        guide,
    )
    if output_dir is None:
        return _calibrate(plan, goal, grid, None, save, progress)
    with only_writer(Path(output_dir), folder=True):
        require_fresh(Path(output_dir), overwrite=overwrite)
        return _calibrate(plan, goal, grid, Path(output_dir), save, progress)


def _name_of(arm: str) -> str:
    """What an ARM is called in the engine.

    Raises:
        ModelLoadError, ConfigError: it is no ARM, or one that is steered away from.
    """
    facts = arm_facts(arm)
    if facts.scale < 0:
        raise ConfigError(
            f"the ARM {arm} has the scale {facts.scale:g}, which steers away from it",
            "calibration finds positive scales: put 1 into its trimtab.json first",
        )
    return "+".join(conditioned_on(arm)) or facts.objective or "arm"


def _goal(
    target_kl: float | None,
    tolerance: float,
    scored: bool,
    cost: bool,
    max_kl: float | None,
    max_loops: float,
) -> Goal:
    if target_kl is None and not scored:
        raise ConfigError("nothing to calibrate to", "give a target KL (0.2), or a scorer")
    if target_kl is not None and max_kl is not None:
        raise ConfigError("a target KL and a largest KL", "the target alone decides: leave one out")
    bounds = (
        ("the target KL", target_kl, math.ulp(0.0), math.inf, "more than 0 nats per token"),
        ("the tolerance", tolerance, 0.001, 1.0, "0.001 to 1"),
        ("the largest KL", max_kl, math.ulp(0.0), math.inf, "more than 0 nats per token"),
        ("the share of loops", max_loops, 0.0, 1.0, "0 to 1"),
    )
    for what, number, least, most, hint in bounds:
        if number is not None and not (least <= number <= most and math.isfinite(number)):
            raise ConfigError(f"{what} is {number:g}", f"it must be {hint}")
    return Goal(target_kl, tolerance, cost, max_kl, max_loops)


def _grid(strengths: Sequence[float]) -> list[float]:
    """The strengths to begin with, each once, from 0."""
    grid = sorted({0.0, *map(parse_strength, strengths)})
    if len(grid) < 2:
        raise ConfigError("no strength to measure but 0", "give some, such as 0.5,1,2")
    return grid


def _require_storable(arm: str) -> None:
    """Refuse an ARM beside which no scale can be stored.

    Raises:
        ModelLoadError, OutputError: it is on the hub, a file, or may not be written to.
    """
    if not Path(arm).exists() and arm.count("/") == 1 and not Path(arm).parent.is_dir():
        raise ModelLoadError(
            f"the ARM {arm} is on the hub, where no scale can be stored from here",
            f"copy it first (hf download {arm} --local-dir FOLDER) and name that folder, or leave "
            "out --save and pass the strength yourself",
        )
    check_folder(arm, what="ARM")
    if not Path(arm).is_dir():
        raise ModelLoadError(
            f"the ARM {arm} is one file, with no place for a scale",
            "leave out --save and pass the strength yourself",
        )
    if not os.access(arm, os.W_OK | os.X_OK):
        raise OutputError(
            f"the ARM's folder {arm} cannot be written to, so no scale can be stored in it",
            "copy it and name the copy, or leave out --save and pass the strength yourself",
        )


def _preferences(
    arm: str, name: str, preference: PreferenceLike | None, *, scored: bool
) -> list[Mapping[str, float]]:
    """What every prompt is answered at: the preference given, or each objective by itself."""
    objectives = conditioned_on(arm) if arm else []
    if preference is not None or not objectives:
        return [Steering.of(objectives or [name], preference).preference]
    if scored:
        raise ConfigError(
            f"the ARM {arm} takes a preference, and its scores would be of none",
            f"give one: --preference {','.join(f'{o}=1' for o in objectives)}",
        )
    return [{o: float(o == one) for o in objectives} for one in objectives]


def _prompts(prompts: str | Sequence[Prompt], limit: int | None) -> list[Prompt]:
    if not isinstance(prompts, str):
        if not prompts:
            raise ConfigError("no prompts", "give one or more")
        return list(prompts)[:limit]
    asked, unusable = read_prompts(prompts, limit)
    for line in unusable.lines():
        logger.warning(line)
    return asked


def _calibrate(
    plan: Plan, goal: Goal, grid: list[float], folder: Path | None, save: bool, progress: Progress
) -> Calibration:
    """Measure, choose, write, store: in this order, so that an interrupt leaves all as it was."""
    from trimtab.calibration.files import facts_of, write_calibration
    from trimtab.calibration.meter import Meter

    before = weights_fingerprint(plan.arm) if plan.arm else ""
    scale_before = Sidecar.load(plan.arm).scale if plan.arm else 1.0
    facts = facts_of(plan)
    meter = Meter(plan, progress)
    try:
        curve = meter.measure(grid)
        curve, chosen, why = search(meter, curve, goal)
    finally:
        meter.close()
    measured = Calibration(plan.arm, goal, curve, chosen, scale_before, False, facts)
    if chosen and save:
        with only_writer(Path(plan.arm), folder=True):
            if weights_fingerprint(plan.arm) != before:
                raise ModelLoadError(
                    f"the ARM {plan.arm} has changed since it was measured", "calibrate it again"
                )
            store_scale(plan.arm, chosen.strength)
        measured = Calibration(plan.arm, goal, curve, chosen, scale_before, True, facts)
    if folder is not None:
        write_calibration(folder, measured)
    if why is not None:
        error = NoStrengthError(why.args[0], why.hint)
        error.measured = measured
        raise error
    return measured
