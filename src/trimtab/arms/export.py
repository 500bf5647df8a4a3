"""A conditioned ARM at one preference, as a standard LoRA folder or a whole model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import trimtab
from trimtab.arms.card import model_card
from trimtab.arms.folder import conditioned_on, fetch, is_adapter, is_conditioned
from trimtab.arms.sidecar import Sidecar, arm_facts, require_base
from trimtab.errors import ConfigError
from trimtab.files import OTHER_MODEL, only_writer, require_fresh, whole_directory
from trimtab.steering import PreferenceLike, Steering

TRAINED = ("run.json", "results.json")
"""What would have `trimtab train` take the folder for its own."""


def export_arm(
    arm: str,
    output_dir: str | Path,
    *,
    preference: PreferenceLike | None = None,
    merge: bool = False,
    overwrite: bool = False,
) -> str:
    """Write an ARM at one preference as a folder that needs nothing of Trimtab.

    Args:
        arm: folder or hub id of a conditioned ARM; with `merge`, of any LoRA ARM.
        output_dir: where the folder goes.
        preference: what the ARM is fixed at; needed for a conditioned ARM.
        merge: write a whole model instead of a LoRA.
        overwrite: allow an output directory that is not empty.

    Returns:
        The folder.

    Raises:
        PreferenceError, ConfigError: no preference, nothing to export, or a bias that the model
            has no place for.
    """
    arm, folder = fetch(str(arm)), Path(output_dir)
    facts = arm_facts(arm)
    if not is_adapter(arm):
        raise ConfigError(f"{arm} is a whole model", "there is nothing to export")
    if not is_conditioned(arm) and not merge:
        raise ConfigError(f"{arm} is a standard LoRA folder", "add --merge to make a whole model")
    text = _fixed(arm, preference)
    if folder.resolve() in (Path(arm).resolve(), Path(require_base(arm)).resolve()):
        raise ConfigError(f"{folder} is what is exported", "choose another --output-dir")
    if text:
        facts = replace(facts, objective="+".join(conditioned_on(arm)), preference=text)
    with only_writer(folder, folder=True):
        require_fresh(folder, overwrite=overwrite)
        _write(arm, folder, facts, text, merge=merge)
    return str(folder)


def _write(arm: str, folder: Path, facts: Sidecar, preference: str, *, merge: bool) -> None:
    from trimtab.arms import folding  # PyTorch, once all that is cheap to know is known
    from trimtab.arms.load import load_tokenizer

    model = folding.merged(arm, preference) if merge else None  # refused before it is written
    with whole_directory(folder, (*OTHER_MODEL, *TRAINED)) as staging:
        if model is not None:
            model.save_pretrained(staging)
        else:
            folding.save_lora(arm, preference, staging)
        load_tokenizer(arm).save_pretrained(staging)
        facts = replace(facts, trimtab_version=trimtab.__version__)
        facts.save(staging)
        card = model_card(
            facts,
            model=require_base(arm),
            is_adapter=not merge,
            datasets=[],
            results={},
            counts={},
            settings={"merged": merge},
        )
        (staging / "README.md").write_text(card, encoding="utf-8")


def _fixed(arm: str, preference: PreferenceLike | None) -> str:
    """The preference as text, checked; "" for a plain LoRA."""
    if not is_conditioned(arm):
        if preference is not None:
            raise ConfigError(f"{arm} takes no preference", "leave --preference out")
        return ""
    objectives = conditioned_on(arm)
    if preference is None:
        example = ",".join(f"{name}={1 / len(objectives):.2g}" for name in objectives)
        raise ConfigError("no preference to export at", f"write --preference {example}")
    weights = Steering.of(objectives, preference).preference
    return ",".join(f"{name}={weight!r}" for name, weight in weights.items())
