"""What a front compares: guides by name, found in folders and checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

from trimtab.arms.objectives import conditioned_on, is_conditioned
from trimtab.arms.sidecar import NAME, arm_facts, language_model_facts
from trimtab.engines.guides import Contrast, Instruction, models_of
from trimtab.engines.policies import require_share
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
        combine: `fusion` runs every ARM or policy, the others make one of them.
        instruct: objective -> an instruction.
        contrast: objective -> two models, on this machine.
        policies: `arms` are policies, which take the base's place.
    """

    name: str
    arms: Mapping[int, Mapping[str, str]]
    strength: float
    combine: Combine = "fusion"
    instruct: Mapping[str, Instruction] = field(default_factory=dict)
    contrast: Mapping[str, Contrast] = field(default_factory=dict)
    policies: bool = False

    @property
    def model(self) -> str:
        """What one of `arms` is, for messages."""
        return "policy" if self.policies else "ARM"

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
            **({"policies": True} if self.policies else {}),
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
    policies: Sequence[str] = (),
    combine: Mapping[str, str] | None = None,
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
        policies: guides of policies, which take the base's place.
        combine: of these, name -> how they act together; `fusion` (the reverse KL) by default.
        objectives: what the scorers measure, and so what every guide must steer to.
        seeds: sampling seeds; `{seed}` in a folder's name stands for each of them.
        strength: of a guide that names none.
        revisions: guide -> branch, tag or commit, of one that is a hub id.

    Raises:
        ConfigError: an entry that cannot be read, a name given twice, other objectives.
        MissingFileError, ModelLoadError: a folder that is not there or holds no ARM.
        PreferenceError: policies stronger than 1.
    """
    given = [("--guide", entry) for entry in entries] + [("--soup", entry) for entry in soups]
    given += [("--policies", entry) for entry in policies]
    left, known = dict(combine or {}), list[Guide]()
    for option, entry in given:
        name, equals, place = entry.partition("=")
        if not equals or not name or not place:
            raise ConfigError(f"cannot read {option} {entry}", f"write {option} NAME=FOLDER")
        require_free(name, place, known)
        folder, own_strength = _strength_of(place, strength)
        guide = Guide(name, {}, own_strength, "soup" if option == "--soup" else "fusion")
        if option == "--policies":
            require_share(own_strength, [name], f"the policies of guide {name!r}")
            how = _combined(name, left.pop(name, guide.combine))
            guide = replace(guide, combine=how, policies=True)
        revision = (revisions or {}).get(name)
        places = {seed: folder.replace(_SEED, str(seed)) for seed in seeds}
        arms = {seed: _arms(guide, places[seed], objectives, revision) for seed in seeds}
        known.append(replace(guide, arms=arms))
    for name in left:
        raise ConfigError(f"--combine names {name!r}, which is no guide of --policies", "drop it")
    return known


def _combined(name: str, how: str) -> Combine:
    """How the policies of a guide act together."""
    for known in get_args(Combine):
        if how == known:
            return cast(Combine, known)
    raise ConfigError(
        f"cannot read --combine {name}={how}", f"there are: {', '.join(get_args(Combine))}"
    )


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
    guide: Guide, folder: str, objectives: Sequence[str], revision: str | None
) -> dict[str, str]:
    """What one folder holds, name -> folder, after checking that it is ARMs of the objectives."""
    parts, name = _parts(folder, objectives, guide.model), guide.name
    single = parts == [folder]
    if single:
        folder = fetch(folder, what=f"guide {name!r}", revision=revision)
    elif revision is not None:
        raise ConfigError(f"a revision for {folder}, which is on this machine", "leave it out")
    if single and is_conditioned(folder):
        if guide.policies or guide.combine != "fusion":
            what = "no policy" if guide.policies else "there is nothing to average"
            raise ConfigError(
                f"guide {name!r} is one ARM for all objectives: {what}", "give it with --guide"
            )
        require_same(name, conditioned_on(folder), objectives)
        return {name: folder}
    arms: dict[str, str] = {}
    for part in [folder] if single else parts:
        objective = _objective_of(guide, part, single=single)
        if objective in arms:
            raise ConfigError(
                f"guide {name!r} has two models for {objective!r} ({arms[objective]}, {part})",
                "leave one in its folder",
            )
        if "soup" in guide.combine and not is_adapter(part):
            other = "leave --combine out" if guide.policies else "give it with --guide"
            raise ConfigError(f"{part} is a whole model: only LoRA ARMs make a soup", other)
        arms[objective] = part
    require_same(name, list(arms), objectives)
    return {name: arms[name] for name in objectives}


def _parts(folder: str, objectives: Sequence[str], model: str) -> list[str]:
    """The model folders of a guide: itself, or its sub-folders that `trimtab train` wrote.

    Where each objective has a sub-folder of its name, others beside them do not count.
    """
    path = Path(folder)
    if not path.is_dir() or any((path / name).is_file() for name in _CONFIGS):
        return [folder]
    named = [path / objective for objective in objectives]
    if all(any((part / file).is_file() for file in (NAME, *_CONFIGS)) for part in named):
        return [str(part) for part in named]
    parts = [str(part.parent) for part in sorted(path.glob(f"*/{NAME}"))]
    if not parts:
        raise ModelLoadError(
            f"{folder} holds no {model}, and none of its folders does",
            "name a folder that `trimtab train` wrote",
        )
    return parts


def _objective_of(guide: Guide, folder: str, *, single: bool) -> str:
    """The objective of an ARM or a policy, by its sidecar or else by its folder among others."""
    check_folder(folder, what=guide.model)
    if is_conditioned(folder):
        raise ConfigError(
            f"{folder} is one ARM for all objectives", f"name it: --guide {guide.name}={folder}"
        )
    sidecar = (language_model_facts if guide.policies else arm_facts)(folder, guide.model)
    require_language_model(folder)
    if not sidecar.objective and single:
        raise ConfigError(
            f"the {guide.model} {folder} names no objective",
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
