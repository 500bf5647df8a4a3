"""Guides of a front that need no training: an instruction or a contrast for each objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trimtab.arms.objectives import require_unconditioned
from trimtab.engines.guides import (
    Contrast,
    ContrastLike,
    InstructionLike,
    contrasts,
    instructions,
    model_label,
    models_of,
)
from trimtab.entries import named_entries
from trimtab.errors import ConfigError
from trimtab.fronts.guides import Guide, require_free, require_same
from trimtab.models.classifiers import require_language_model
from trimtab.models.folder import check_folder, fetch
from trimtab.steering import Combine, require_name

Given = Mapping[str, Any] | Sequence[str]
_OPTIONS = {
    "instructions": ("--instruct", 'helpful="Be as helpful as you can."'),
    "contrasts": ("--contrast", "helpful=TUNED:UNTUNED"),
}


_POLICIES: dict[Combine, str] = {
    "fusion": "policies in the base's place, decoded together by the reverse KL (MOD)",
    "forward-kl": "policies in the base's place, decoded together by the forward KL (MOD)",
    "soup": "a soup of LoRA policies in the base's place",
    "factor-soup": "a soup of LoRA policies' factors in the base's place",
}


def read_untrained(
    instruct: Mapping[str, InstructionLike] | Sequence[str],
    contrast: Mapping[str, ContrastLike] | Sequence[str],
    beside: Sequence[Guide] = (),
    *,
    objectives: Sequence[str],
    seeds: Sequence[int],
    strength: float,
    revisions: Mapping[str, str] | None = None,
) -> list[Guide]:
    """Guides from `[GUIDE.]OBJECTIVE=...` entries, all checked.

    Those that name no guide make up one called `instructions`, and one called `contrasts`.

    Args:
        instruct: texts, `[GUIDE.]OBJECTIVE=[WEIGHT:]TEXT`.
        contrast: models, `[GUIDE.]OBJECTIVE=[WEIGHT:]TUNED:UNTUNED`.
        beside: guides whose names are taken.
        objectives: what the scorers measure, and so what every guide must steer to.
        seeds: of sampling.
        strength: of these guides; the weights multiply it.
        revisions: GUIDE.OBJECTIVE, or that and `.reference` -> branch, tag or commit of a hub id.

    Raises:
        ConfigError: an entry that cannot be read, a name given twice, other objectives.
        MissingFileError, ModelLoadError: a model that is not there or cannot be contrasted.
    """
    texts, pairs = _by_guide(instruct, "instructions"), _by_guide(contrast, "contrasts")
    known = [*beside]
    for name in dict.fromkeys([*texts, *pairs]):
        require_free(name, "its instructions and contrasts", known)
        told, opposed = instructions(texts.get(name)), contrasts(pairs.get(name))
        for objective in told:
            if objective in opposed:
                raise ConfigError(
                    f"guide {name!r} has an instruction and a contrast for {objective!r}",
                    "steer each objective by one of them",
                )
        require_same(name, [*told, *opposed], objectives)
        found = {n: _found(name, n, c, revisions or {}) for n, c in opposed.items()}
        arms: Mapping[int, Mapping[str, str]] = {seed: {} for seed in seeds}
        known.append(Guide(name, arms, strength, instruct=told, contrast=found))
    return known[len(beside) :]


def _by_guide(given: Given, default: str) -> dict[str, dict[str, Any]]:
    """Guide -> objective -> what was given for it."""
    entries = given if isinstance(given, Mapping) else named_entries(given, *_OPTIONS[default])
    guides: dict[str, dict[str, Any]] = {}
    for key, value in entries.items():
        guide, dot, objective = key.rpartition(".")
        if dot:
            require_name(guide)
        parts = guides.setdefault(guide if dot else default, {})
        if objective in parts:  # with the default's name written out, and without
            raise ConfigError(f"two of {_OPTIONS[default][0]} for {key!r}", "name each once")
        parts[objective] = value
    return guides


def _found(
    guide: str, objective: str, contrast: Contrast, revisions: Mapping[str, str]
) -> Contrast:
    """A contrast whose models are on this machine, and can be one."""
    places = models_of({f"{guide}.{objective}": contrast})
    folders = {}
    for name, place in places.items():
        label = model_label(name, places)
        folders[name] = fetch(place, what=label, revision=revisions.get(name))
        check_folder(folders[name], what=label)
        require_language_model(folders[name])
        require_unconditioned(label, folders[name])
    tuned, untuned = folders.values()
    return replace(contrast, tuned=tuned, untuned=untuned)


def described(guide: Guide) -> str:
    """What a guide is made of, for readers; "" for guides of ARMs."""
    if guide.policies:
        return _POLICIES[guide.combine]
    parts = [(n, i.weight, f'"{i.text}"') for n, i in guide.instruct.items()]
    parts += [(n, c.weight, f"{c.tuned} against {c.untuned}") for n, c in guide.contrast.items()]
    return "; ".join(
        f"{name} {what}" + (f" (weight {weight:g})" if weight != 1 else "")
        for name, weight, what in parts
    )
