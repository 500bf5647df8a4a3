"""What a front compares: guides by name, found in folders and checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trimtab.arms.objectives import conditioned_on, is_conditioned
from trimtab.arms.sidecar import NAME, arm_facts
from trimtab.engines.guides import Contrast, Instruction, models_of
from trimtab.errors import ConfigError, ModelLoadError
from trimtab.models.classifiers import require_language_model
from trimtab.models.folder import check_folder, fetch, is_adapter
from trimtab.scoring.model_scorer import model_identity
from trimtab.steering import Combine, parse_strength

BASE = "base"
_TAKEN = {BASE: "the unguided base", "draft": "the engine's drafter"}
_SEED = "{seed}"
_CONFIGS = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Guide:
    """One way to guide the base.

    Attributes:
        name: in tables and pictures.
        arms: sampling seed -> what is loaded for it, name -> folder; seeds that share all folders
            have equal entries. Empty for the unguided base.
        strength: how hard it pulls.
        combine: `fusion` runs every ARM, `soup` averages them into one.
        instruct: objective -> an instruction.
        contrast: objective -> two models, on this machine.
    """

    name: str
    arms: Mapping[int, Mapping[str, str]]
    strength: float
    combine: Combine = "fusion"
    instruct: Mapping[str, Instruction] = field(default_factory=dict)
    contrast: Mapping[str, Contrast] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """What it and its models are called."""
        arms = [name for seeded in self.arms.values() for name in seeded]
        return [*dict.fromkeys([self.name, *arms, *self.opposed().values()])]

    def opposed(self) -> dict[str, str]:
        """The models of its contrasts: what an engine calls them -> what they are called here."""
        return {name: f"{self.name}.{name}" for name in models_of(self.contrast)}

    def loads(self) -> list[tuple[list[int], Mapping[str, str]]]:
        """What has to be in memory at once: seeds, and the ARMs they share."""
        groups: list[tuple[list[int], Mapping[str, str]]] = []
        for seed, arms in self.arms.items():
            loaded = next((seeds for seeds, other in groups if other == arms), None)
            if loaded is None:
                groups.append(([seed], arms))
            else:
                loaded.append(seed)
        return groups

    def identity(self) -> dict[str, Any]:
        """What its answers depend on, for a job's settings."""
        seeds = {
            str(seed): {name: model_identity(folder) for name, folder in arms.items()}
            for seed, arms in self.arms.items()
        }
        whole: dict[str, Any] = {
            "name": self.name,
            "combine": self.combine,
            "strength": self.strength,
            "arms": seeds,
        }
        if self.instruct or self.contrast:
            models = models_of(self.contrast)
            whole["instruct"] = {name: asdict(one) for name, one in self.instruct.items()}
            whole["contrast"] = {name: model_identity(place) for name, place in models.items()}
            whole["weights"] = {name: pair.weight for name, pair in self.contrast.items()}
        return whole

    def made_of(self) -> dict[Any, Any]:
        """Folders and texts, for a manifest."""
        if not (self.instruct or self.contrast):
            return dict(self.arms)
        return {
            "instruct": {name: asdict(one) for name, one in self.instruct.items()},
            "contrast": {name: asdict(pair) for name, pair in self.contrast.items()},
        }


def unguided(seeds: Sequence[int]) -> Guide:
    """The base alone, which every front is seen beside."""
    return Guide(BASE, {seed: {} for seed in seeds}, 0.0)


def read_guides(
    entries: Sequence[str],
    soups: Sequence[str],
    *,
    objectives: Sequence[str],
    seeds: Sequence[int],
    strength: float,
    revisions: Mapping[str, str] | None = None,
) -> list[Guide]:
    """Guides from `NAME=FOLDER[@STRENGTH]` entries, all checked.

    Args:
        entries: guides whose ARMs are fused.
        soups: guides whose ARMs are averaged.
        objectives: what the scorers measure, and so what every guide must steer to.
        seeds: sampling seeds; `{seed}` in a folder's name stands for each of them.
        strength: of a guide that names none.
        revisions: guide -> branch, tag or commit, of one that is a hub id.

    Raises:
        ConfigError: an entry that cannot be read, a name given twice, other objectives.
        MissingFileError, ModelLoadError: a folder that is not there or holds no ARM.
    """
    known: list[Guide] = []
    both = [("--guide", entry) for entry in entries] + [("--soup", entry) for entry in soups]
    for option, entry in both:
        name, equals, place = entry.partition("=")
        if not equals or not name or not place:
            raise ConfigError(f"cannot read {option} {entry}", f"write {option} NAME=FOLDER")
        require_free(name, place, known)
        folder, own_strength = _strength_of(place, strength)
        combine: Combine = "soup" if option == "--soup" else "fusion"
        arms = {
            seed: _arms(
                name,
                folder.replace(_SEED, str(seed)),
                combine,
                objectives,
                (revisions or {}).get(name),
            )
            for seed in seeds
        }
        known.append(Guide(name, arms, own_strength, combine))
    return known


def require_free(name: str, whose: str, known: Sequence[Guide]) -> None:
    """Refuse a guide's name that is taken.

    Raises:
        ConfigError: it says by what.
    """
    if name in _TAKEN:
        raise ConfigError(
            f"the name {name!r} is taken by {_TAKEN[name]}", f"give {whose} another name"
        )
    if name in [guide.name for guide in known]:
        raise ConfigError(f"two guides are called {name!r}", "give each a name of its own")


def _strength_of(place: str, default: float) -> tuple[str, float]:
    """`FOLDER@0.5` as folder and strength; a folder whose own name has an @ is one."""
    folder, at, text = place.rpartition("@")
    try:
        float(text)
    except ValueError:
        return place, default
    return (folder, parse_strength(text)) if at and not Path(place).exists() else (place, default)


def _arms(
    guide: str, folder: str, combine: Combine, objectives: Sequence[str], revision: str | None
) -> dict[str, str]:
    """What one folder holds, name -> folder, after checking that it is ARMs of the objectives."""
    parts = _parts(folder, objectives)
    single = parts == [folder]
    if single:
        folder = fetch(folder, what=f"guide {guide!r}", revision=revision)
    elif revision is not None:
        raise ConfigError(f"a revision for {folder}, which is on this machine", "leave it out")
    if single and is_conditioned(folder):
        if combine == "soup":
            raise ConfigError(
                f"guide {guide!r} is one ARM for all objectives: there is nothing to average",
                "give it with --guide",
            )
        require_same(guide, conditioned_on(folder), objectives)
        return {guide: folder}
    arms: dict[str, str] = {}
    for part in [folder] if single else parts:
        objective = _objective_of(guide, part, single=single)
        if objective in arms:
            raise ConfigError(
                f"guide {guide!r} has two ARMs for {objective!r} ({arms[objective]}, {part})",
                "leave one in its folder",
            )
        if combine == "soup" and not is_adapter(part):
            raise ConfigError(
                f"{part} is a whole model: only LoRA ARMs make a soup", "give it with --guide"
            )
        arms[objective] = part
    require_same(guide, list(arms), objectives)
    return {name: arms[name] for name in objectives}


def _parts(folder: str, objectives: Sequence[str]) -> list[str]:
    """The ARM folders of a guide: itself, or its sub-folders that `trimtab train` wrote.

    Where each objective has a sub-folder of its name, others beside them do not count.
    """
    path = Path(folder)
    if not path.is_dir() or any((path / name).is_file() for name in _CONFIGS):
        return [folder]
    named = [path / objective for objective in objectives]
    if all((part / NAME).is_file() for part in named):
        return [str(part) for part in named]
    parts = [str(part.parent) for part in sorted(path.glob(f"*/{NAME}"))]
    if not parts:
        raise ModelLoadError(
            f"{folder} holds no ARM, and none of its folders does",
            "name a folder that `trimtab train` wrote",
        )
    return parts


def _objective_of(guide: str, folder: str, *, single: bool) -> str:
    """The objective of a plain ARM, by its sidecar or else by its folder among others."""
    check_folder(folder, what="ARM")
    if is_conditioned(folder):
        raise ConfigError(
            f"{folder} is one ARM for all objectives", f"name it: --guide {guide}={folder}"
        )
    sidecar = arm_facts(folder)
    require_language_model(folder)
    if not sidecar.objective and single:
        raise ConfigError(
            f"the ARM {folder} names no objective",
            'write {"objective": "…"} into its trimtab.json',
        )
    return sidecar.objective or Path(folder).name


def require_same(guide: str, given: Sequence[str], objectives: Sequence[str]) -> None:
    """Refuse a guide of other objectives than are measured.

    Raises:
        ConfigError: it names both.
    """
    if set(given) != set(objectives):
        raise ConfigError(
            f"guide {guide!r} steers to {', '.join(given) or 'nothing'}, but the scorers measure "
            f"{', '.join(objectives)}",
            "give one --scorer for each objective of the guides, and for no others",
        )
