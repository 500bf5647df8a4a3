"""The demo's flow: train one ARM per objective, steer, measure, draw. No output but files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.demo import MODEL, PAIRS
from trimtab.demo.prompts import HELD_OUT_PROMPTS, SHOWN_PROMPTS
from trimtab.demo.rules import RULES
from trimtab.engines.local import LocalEngine, load_engine
from trimtab.engines.types import Completion
from trimtab.evaluation.stats import Estimate, mean
from trimtab.training.callbacks import Progress
from trimtab.training.config import TrainConfig
from trimtab.training.run import TrainResult, train

OBJECTIVES = tuple(RULES)
STRENGTH = 1.0
MAX_NEW_TOKENS = 64
CURVE = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Setting:
    """One way of answering: a name, a strength and the weight of the first objective."""

    name: str
    strength: float
    first: float

    @property
    def preference(self) -> dict[str, float]:
        """Weight per objective."""
        return dict(zip(OBJECTIVES, (self.first, 1 - self.first), strict=True))


UNGUIDED = Setting("unguided", 0.0, 0.5)
SHOWN = (
    UNGUIDED,
    Setting(f"{OBJECTIVES[0]} 1", STRENGTH, 1.0),
    Setting("half and half", STRENGTH, 0.5),
    Setting(f"{OBJECTIVES[1]} 1", STRENGTH, 0.0),
)

Scores = Mapping[str, Estimate]


def train_arms(
    output: Path, *, seed: int, overwrite: bool, progress: Progress
) -> dict[str, TrainResult]:
    """Train one ARM per objective on the demo's pairs."""
    config = TrainConfig(
        model=MODEL,
        data=[PAIRS],
        objectives=",".join(OBJECTIVES),
        output_dir=str(output / "arms"),
        lora_r=16,
        lora_alpha=32,
        lora_target_modules=["all-linear"],
        learning_rate=3e-3,
        num_train_epochs=3,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=1,
        save_strategy="no",
        seed=seed,
        overwrite=overwrite,
    )
    results = train(config, progress)
    return {result.objective: result for result in results}


def load_arms(output: Path) -> LocalEngine:
    """The demo's engine: the tiny model and the two ARMs."""
    return load_engine(MODEL, {name: str(output / "arms" / name) for name in OBJECTIVES})


def answer(
    engine: LocalEngine,
    prompts: Sequence[str],
    setting: Setting,
    *,
    seed: int,
    report: bool = False,
) -> list[Completion]:
    """Answer prompts in one setting, the same seeds in each."""
    return engine.generate(
        prompts,
        preference=setting.preference,
        strength=setting.strength,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=0.8,
        seed=seed,
        batch_size=64,
        report=report,
    )


def side_by_side(engine: LocalEngine, *, seed: int) -> dict[str, dict[str, Completion]]:
    """Prompt -> setting -> answer, with per-token reports."""
    shown: dict[str, dict[str, Completion]] = {prompt: {} for prompt in SHOWN_PROMPTS}
    for setting in SHOWN:
        answers = answer(engine, SHOWN_PROMPTS, setting, seed=seed, report=True)
        for prompt, completion in zip(SHOWN_PROMPTS, answers, strict=True):
            shown[prompt][setting.name] = completion
    return shown


def sweep(engine: LocalEngine, *, seed: int, progress: Progress) -> dict[Setting, Scores]:
    """Mean rule scores on the held-out prompts: unguided, and along the preferences."""
    curve = [Setting(f"{OBJECTIVES[0]} {first:g}", STRENGTH, first) for first in CURVE]
    settings = [UNGUIDED, *curve]
    found: dict[Setting, Scores] = {}
    for number, setting in enumerate(settings):
        progress("answering held-out prompts", number, len(settings))
        texts = [c.text for c in answer(engine, HELD_OUT_PROMPTS, setting, seed=seed)]
        found[setting] = {
            name: mean([rule(text) for text in texts], seed=seed) for name, rule in RULES.items()
        }
    progress("answering held-out prompts", len(settings), len(settings))
    return found
