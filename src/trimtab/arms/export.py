"""A conditioned ARM at one preference, as a standard LoRA folder or a whole model."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from trimtab.arms.card import Made, model_card
from trimtab.arms.hub import destination, push
from trimtab.arms.objectives import conditioned_on, is_conditioned
from trimtab.arms.sidecar import Sidecar, language_model_facts, require_base
from trimtab.errors import ConfigError
from trimtab.files import OTHER_MODEL, only_writer, require_fresh, whole_directory
from trimtab.models.folder import (
    adapter_config,
    adapter_revision,
    canonical,
    fetch,
    is_adapter,
    is_local,
)
from trimtab.steering import PreferenceLike, Steering
from trimtab.version import __version__

logger = logging.getLogger(__name__)

TRAINED = ("run.json", "results.json")
"""What would have `trimtab train` take the folder for its own."""


def export(
    arm: str,
    output_dir: str | Path,
    *,
    preference: PreferenceLike | None = None,
    merge: bool = False,
    overwrite: bool = False,
    revision: str | None = None,
    push_to_hub: bool = False,
    hub_model_id: str | None = None,
    hub_private_repo: bool = False,
) -> str:
    """Write an ARM at one preference as a folder that needs nothing of Trimtab.

    PARM becomes a plain LoRA, with PEFT the same bits. UniARM's shift makes a bias beside it
    (`lora_bias`): PEFT applies that, the same but for rounding, and merges it only into layers
    that have a bias themselves. `merge` gives them one, where their architecture can have it.

    Args:
        arm: folder or hub id of a conditioned ARM; with `merge`, of any LoRA ARM.
        output_dir: where the folder goes.
        preference: what the ARM is fixed at; needed for a conditioned ARM.
        merge: write a whole model instead of a LoRA.
        overwrite: allow an output directory that is not empty.
        revision: of the ARM's hub id: a branch, tag or commit.
        push_to_hub: put the folder at the hub, too; needs a login.
        hub_model_id: OWNER/NAME; by default the output directory's name, among your own.
        hub_private_repo: make the repository private, where it has to be made.

    Returns:
        The folder.

    Raises:
        PreferenceError, ConfigError: no preference, nothing to export, or a bias that the model
            has no place for.
    """
    arm, folder = fetch(str(arm), revision=revision), Path(output_dir)
    facts = language_model_facts(arm)
    if not is_adapter(arm):
        raise ConfigError(f"{arm} is a whole model", "there is nothing to export")
    if not is_conditioned(arm) and not merge:
        raise ConfigError(f"{arm} is a standard LoRA folder", "add --merge to make a whole model")
    text = _fixed(arm, preference)
    if folder.resolve() in (Path(arm).resolve(), Path(require_base(arm)).resolve()):
        raise ConfigError(f"{folder} is what is exported", "choose another --output-dir")
    if merge and facts.reference == "start":  # a whole model no longer names its base by itself
        place = require_base(arm)
        revision_of_start = None if is_local(place) else adapter_revision(arm)
        facts = replace(facts, start=canonical(place), start_revision=revision_of_start)
    if text:
        facts = replace(facts, objective="+".join(conditioned_on(arm)), preference=text)
    if (hub_model_id or hub_private_repo) and not push_to_hub:
        raise ConfigError("a hub id or --hub-private-repo without --push-to-hub", "add it")
    require_fresh(folder, overwrite=overwrite)  # before anybody is asked for a login
    name = hub_model_id or folder.resolve().name
    to = destination(name, private=hub_private_repo) if push_to_hub else None
    with only_writer(folder, folder=True):
        require_fresh(folder, overwrite=overwrite)
        _write(arm, folder, facts, text, merge=merge, place=to.repo if to else str(folder))
        if to:
            logger.info("pushed to %s", push(folder, to))
    return str(folder)


def has_bias(folder: str | Path) -> bool:
    """Whether a LoRA folder has a bias beside the low-rank update, as UniARM's shift makes one."""
    return is_adapter(str(folder)) and bool(adapter_config(str(folder)).get("lora_bias"))


def _write(
    arm: str, folder: Path, facts: Sidecar, preference: str, *, merge: bool, place: str
) -> None:
    from trimtab.arms import folding  # PyTorch, once all that is cheap to know is known
    from trimtab.arms.load import tokenizer_of

    model = folding.merged(arm, preference) if merge else None  # refused before it is written
    with whole_directory(folder, (*OTHER_MODEL, *TRAINED)) as staging:
        if model is not None:
            model.save_pretrained(staging)
        else:
            folding.save_lora(arm, preference, staging)
        tokenizer_of(arm).save_pretrained(staging)
        facts = replace(facts, trimtab_version=__version__)
        facts.save(staging)
        made = Made(
            model=require_base(arm),
            place=place,
            is_adapter=not merge,
            settings={"merged": merge},
            has_bias=has_bias(staging),
        )
        (staging / "README.md").write_text(model_card(facts, made), encoding="utf-8")


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
