"""The rows of a table by name: what is loaded for each, and what is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.bench.tables.jobs import Work
from trimtab.methods.registry import METHODS
from trimtab.models.messages import Prompt

BASE, GENARM, DPO = "base", "genarm", "dpo"
ITSELF, SHUFFLED, COOLED, TOLD = "by-itself", "shuffled-labels", "cooled-base", "system-prompt"
CONTROLS = (ITSELF, SHUFFLED, COOLED, TOLD)
"""What a gain has to be held against: guided by the base itself (also what an untrained ARM is, as
a LoRA starts at zero), by an ARM of shuffled labels, sampled at the temperature that gives GenARM's
base NLL, and told by a system message."""
WEAK_TO_STRONG, WEAK, WEAK_DPO = "guided-by-weak", "weak", "weak-dpo"
WEAK_CONTRAST, BY_WEAK = "weak-dpo-contrast", "by-weak-itself"
"""The base guided by an ARM of the weak model, the weak model, DPO on it, the base guided by what
DPO changed in it (EFT, proxy-tuning), and the base guided by the weak model itself."""
SEEDED = (GENARM, DPO, WEAK_TO_STRONG, WEAK_DPO, WEAK_CONTRAST)
"""Ways that each training seed answers anew."""
BY_VALUE = ("vas", "controlled-decoding", "blockwise-decoding")
"""Searches whose reward model is a value model; the others' is a trajectory model."""

BY_THRESHOLD = ("rejection", "cards")
"""Searches that want a reward, which means nothing for another reward model: theirs is so many
standard deviations (the setting `deviations`, 1 by default) above the mean of the base's answers,
and their β half a deviation."""

SYSTEM = "You are a helpful assistant. Answer in a way that is {objective}."


@dataclass(frozen=True)
class Asked:
    """How a way answers.

    Attributes:
        base: folder of what answers in the base's place.
        load: for `trimtab.load`, beside the base.
        ask: for `generate`.
        method: of a search; "" decodes token by token.
        reward_model: of a search.
        options: of its method.
        system: a system message.
    """

    base: str = ""
    load: Mapping[str, Any] = field(default_factory=dict)
    ask: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""
    reward_model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""

    def prompt(self, prompt: Prompt) -> Prompt:
        """With the system message, where there is one."""
        if not self.system:
            return prompt
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
        return [{"role": "system", "content": self.system}, *turns]


Setting = Mapping[str, float]
_STEERED = {"strength": 1.0, "temperature": 1.0}
_ALONE = {"strength": 0.0, "temperature": 1.0}


def asked(way: str, work: Work, seed: int, setting: Setting) -> Asked:
    """A row of the table as it is asked; its temperature is 1 where nothing says otherwise."""
    if way in METHODS:
        model = "value-0" if way in BY_VALUE else "trajectory-0"
        options = dict(setting)
        if way in BY_THRESHOLD:
            options = _reachable(work, **options)
        return Asked(method=way, reward_model=work.model(model), options=options)
    name, _, strength = way.partition("@")
    if strength:
        setting = {"strength": float(strength)}
    return _WAYS[name](work, seed, dict(setting))


def _reachable(work: Work, deviations: float = 1.0, **options: float) -> dict[str, float]:
    spread = work.rows["spread"]
    threshold = spread["mean"] + deviations * spread["deviation"]
    return {"threshold": threshold, "beta": spread["deviation"] / 2, **options}


def _base(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    return Asked(ask={**_ALONE, **setting})


def _guided(work: Work, arm: str, setting: dict[str, float]) -> Asked:
    return Asked(load={"arms": {work.config.objective: arm}}, ask={**_STEERED, **setting})


def _genarm(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    return _guided(work, work.model(f"genarm-{seed}"), setting)


def _shuffled(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    return _guided(work, work.model("shuffled-0"), {**chosen(work, GENARM), **setting})


def _itself(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    return _guided(work, work.base, {**chosen(work, GENARM), **setting})


def _dpo(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    return _tuned(work, work.base, work.model(f"dpo-{seed}"), setting)


def _tuned(work: Work, start: str, place: str, setting: dict[str, float]) -> Asked:
    """Alone at strength 1; beyond it as a contrast with its start, which at 1 is the same."""
    ask = {**_STEERED, **setting}
    objective, base = work.config.objective, "" if start == work.base else start
    if ask["strength"] <= 1:
        return Asked(base, {"policy": {objective: place}}, ask)
    return Asked(base, {"contrast": {objective: (place, start)}}, ask)


def _cooled(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    temperature = float(work.rows["match"]["temperature"])
    return Asked(ask={**_ALONE, "temperature": temperature})


def _told(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    system = SYSTEM.format(objective=work.config.objective)
    return Asked(ask=_ALONE, system=system)


def _weak_to_strong(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    return _guided(work, work.model(f"weak-arm-{seed}"), setting)


def _by_weak(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    return _guided(work, work.model(WEAK), {**chosen(work, WEAK_TO_STRONG), **setting})


def _weak(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    return Asked(work.model(WEAK), ask=_ALONE)


def _weak_dpo(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    return _tuned(work, work.model(WEAK), work.model(f"weak-dpo-{seed}"), setting)


def _weak_contrast(work: Work, seed: int, setting: dict[str, float]) -> Asked:
    sides = (work.model(f"weak-dpo-{seed}"), work.model(WEAK))
    return Asked(load={"contrast": {work.config.objective: sides}}, ask={**_STEERED, **setting})


def chosen(work: Work, way: str) -> dict[str, float]:
    """The setting that was found best for a way, which it answers with."""
    row = work.rows.get(f"search {way.partition('@')[0]}")
    return dict(row["chosen"]) if row else {}


_WAYS: dict[str, Callable[[Work, int, dict[str, float]], Asked]] = {
    BASE: _base,
    GENARM: _genarm,
    DPO: _dpo,
    ITSELF: _itself,
    SHUFFLED: _shuffled,
    COOLED: _cooled,
    TOLD: _told,
    WEAK_TO_STRONG: _weak_to_strong,
    WEAK: _weak,
    WEAK_DPO: _weak_dpo,
    WEAK_CONTRAST: _weak_contrast,
    BY_WEAK: _by_weak,
}
