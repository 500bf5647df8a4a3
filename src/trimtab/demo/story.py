"""The demo's flow: train what is not shipped, steer, measure. No output but ARMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimtab.demo.material import Material
from trimtab.engines.local import LocalEngine, load_engine
from trimtab.engines.types import Completion
from trimtab.evaluation.texts import distinct
from trimtab.jobs import Progress
from trimtab.stats import Estimate, mean
from trimtab.training.config import TrainConfig
from trimtab.training.plan import TrainResult
from trimtab.training.run import run_training

STRENGTH = 1.0
CONTROL = "shuffled"


@dataclass(frozen=True)
class Setting:
    """One way of answering: its name, a strength and the preference."""

    name: str
    strength: float
    preference: Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """Answers to the held-out prompts in one setting: means over prompts with their intervals.

    Attributes:
        scores: objective -> its measure.
        base_nll: nats per token under the base alone; low where an answer is what it would say.
        distinct_2: share of different pairs of words in an answer; low where it goes in a loop.
        words: of an answer.
    """

    scores: Mapping[str, Estimate]
    base_nll: Estimate
    distinct_2: Estimate
    words: Estimate

    @property
    def checks(self) -> tuple[Estimate, ...]:
        """What shows whether the scores were bought with worse language."""
        return self.base_nll, self.distinct_2, self.words


CHECKS = ("base NLL", "distinct-2", "words")

Shown = Mapping[str, Mapping[str, Completion]]
Swept = Mapping[str, Measured]


def unguided(material: Material) -> Setting:
    """The base alone."""
    return Setting("unguided", 0.0, dict.fromkeys(material.names, 0.5))


def mixed(material: Material, first: float) -> Setting:
    """A point of the trade-off: the weight of the first objective."""
    one, other = material.names
    name = {0.0: f"{other} 1", 1.0: f"{one} 1"}.get(
        first, f"{one} {first:g}, {other} {1 - first:g}"
    )
    return Setting(name, STRENGTH, {one: first, other: 1 - first})


def side_by_side_settings(material: Material) -> list[Setting]:
    """Those in which a few prompts are shown."""
    return [unguided(material), *(mixed(material, first) for first in (1.0, 0.5, 0.0))]


def train_arms(
    material: Material, model: str, output: Path, *, seed: int, overwrite: bool, progress: Progress
) -> dict[str, TrainResult]:
    """Train the ARMs that are not shipped; objective -> result."""
    trained = {}
    for objective in material.trained:
        config = TrainConfig(
            model=model,
            data=[material.pairs],
            objectives=objective,
            output_dir=str(output / "arms" / objective),
            save_strategy="no",
            seed=seed,
            overwrite=overwrite,
            **material.training,
        )
        [trained[objective]] = run_training(config, progress)
    return trained


def arms_of(material: Material, output: Path) -> dict[str, str]:
    """Objective -> folder of its ARM, once those that are trained have been."""
    return {
        name: material.shipped.get(name) or str(output / "arms" / name) for name in material.names
    }


def load(model: str, arms: Mapping[str, str]) -> LocalEngine:
    """The frozen model and ARMs (objective -> folder)."""
    return load_engine(model, arms, dtype=_fast_dtype())


def _fast_dtype() -> Literal["bfloat16", "float32"]:
    """bfloat16 where this machine computes in it, else float32."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16"
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # of newer torch alone
    able: Mapping[str, object] = capabilities() if capabilities else {}
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def answer(
    engine: LocalEngine,
    material: Material,
    prompts: Sequence[str],
    setting: Setting,
    *,
    seed: int,
) -> list[Completion]:
    """Answer prompts in one setting, the same seeds in each, with a report of every token."""
    preference = {n: w for n, w in setting.preference.items() if n in engine.objectives}
    return engine.generate(
        prompts,
        preference=preference if setting.strength else None,
        strength=setting.strength,
        seed=seed,
        batch_size=material.batch_size,
        report=True,
        **material.sampling,
    )


def side_by_side(
    engine: LocalEngine,
    material: Material,
    prompts: Sequence[str],
    settings: Sequence[Setting],
    *,
    seed: int,
) -> dict[str, dict[str, Completion]]:
    """Prompt -> name of a setting -> answer."""
    shown: dict[str, dict[str, Completion]] = {prompt: {} for prompt in prompts}
    for setting in settings:
        for prompt, completions in zip(
            prompts, answer(engine, material, prompts, setting, seed=seed), strict=True
        ):
            shown[prompt][setting.name] = completions
    return shown


def sweep(
    engine: LocalEngine, material: Material, model: str, *, seed: int, progress: Progress
) -> dict[str, Measured]:
    """Name of a setting -> what was measured on the held-out prompts.

    Unguided, along the preferences and, as controls, with an ARM trained on shuffled labels.
    """
    settings = [unguided(material), *(mixed(material, first) for first in material.curve)]
    blind = controls(material, engine)
    steps = len(settings) + len(blind)
    measures: dict[str, Measured] = {}
    for number, setting in enumerate([*settings, *blind]):
        progress("answering held-out prompts", number, steps)
        if number == len(settings):
            engine = load(model, {CONTROL: material.control})
        answers = answer(engine, material, material.held_out, setting, seed=seed)
        measures[setting.name] = measured(material, answers, seed=seed)
    progress("answering held-out prompts", steps, steps)
    return measures


def controls(material: Material, engine: LocalEngine) -> list[Setting]:
    """Guidance as strong as each objective's ARM alone, by the ARM trained on shuffled labels."""
    if not material.control:
        return []
    return [
        Setting(f"{CONTROL} labels, as {arm.name}", STRENGTH * arm.scale, {CONTROL: 1.0})
        for arm in engine.arms
    ]


def measured(material: Material, answers: Sequence[Completion], *, seed: int) -> Measured:
    """Means over answers."""
    texts = [answer.text for answer in answers]
    nll = [-sum(t.logp_base for t in a.tokens) / len(a.tokens) for a in answers]
    return Measured(
        {o.name: mean([o.measure(text) for text in texts], seed=seed) for o in material.objectives},
        mean(nll, seed=seed),
        mean([distinct(text) for text in texts], seed=seed),
        mean([len(text.split()) for text in texts], seed=seed),
    )
