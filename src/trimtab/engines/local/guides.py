"""ARMs in memory: each on a backbone that is there already, wherever it can be."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from trimtab.arms.adapter import AdapterWeights, read_lora, soup
from trimtab.arms.conditioned import ConditionedConfig
from trimtab.arms.conditioned_files import PROJECTION, WEIGHTS, read_conditioned
from trimtab.arms.describe import objective_vectors
from trimtab.arms.folder import conditioned_on, is_adapter, is_conditioned
from trimtab.arms.load import (
    load_model,
    load_tokenizer,
    require_base,
    same_backbone,
    share_weights,
    with_adapter,
)
from trimtab.arms.sidecar import Sidecar
from trimtab.errors import ConfigError, ModelLoadError
from trimtab.steering import Combine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedArm:
    """An ARM in memory.

    Attributes:
        name: its objective, or what a conditioned ARM is called.
        model: its backbone.
        adapter: what it adds to the backbone; None if the model is the ARM.
        source: the name it was asked for by, whose tokenizer it has.
    """

    name: str
    model: Any
    adapter: AdapterWeights | None
    source: str


def load_guides(
    arms: Mapping[str, str],
    facts: Mapping[str, Sidecar],
    backbones: dict[str, Any],
    options: dict[str, Any],
    *,
    combine: Combine = "fusion",
    describe: Mapping[str, str] | None = None,
) -> list[LoadedArm]:
    """Load ARMs.

    Args:
        arms: name -> folder.
        facts: name -> sidecar.
        backbones: models in memory by name; what has to be loaded is added.
        options: for `load_model`.
        combine: `soup` makes one ARM of all.
        describe: further objectives of a UniARM, name -> description.

    Raises:
        ModelLoadError, ConfigError: an ARM that does not fit, or cannot be combined or described.
    """
    described = _describable(arms, describe or {})
    loaded: dict[str, tuple[Any, AdapterWeights | None]] = {}
    for folder in arms.values():
        if folder not in loaded:
            more = (describe or {}) if folder == described else {}
            loaded[folder] = _load(folder, backbones, options, more)
    guides = [LoadedArm(name, *loaded[folder], name) for name, folder in arms.items()]
    return guides if combine == "fusion" else [_soup(guides, facts)]


def _load(
    folder: str, backbones: dict[str, Any], options: dict[str, Any], describe: Mapping[str, str]
) -> tuple[Any, AdapterWeights | None]:
    """An ARM's model, and what it adds to it.

    Plain LoRA and our own cores join their backbone's forward; an adapter with more than that is
    left to PEFT, on a second module tree over the same weights.
    """
    if not is_adapter(folder):
        if folder not in backbones:
            backbones[folder] = load_model(folder, **options)
        return backbones[folder], None
    name = next((b for b in backbones if same_backbone(folder, b)), "") or require_base(folder)
    if name not in backbones:
        backbones[name] = load_model(name, **options)
    carrier = backbones[name]
    where: dict[str, Any] = {"dtype": carrier.dtype, "device": options["device"]}
    if is_conditioned(folder):
        more = _vectors(folder, carrier, describe) if describe else {}
        adapter: AdapterWeights | None = read_conditioned(folder, more=more, **where)
    else:
        adapter = read_lora(folder, **where)
    if adapter is None:
        return with_adapter(share_weights(carrier), folder), None
    _check_layers(folder, carrier, adapter)
    return carrier, adapter


def _check_layers(folder: str, carrier: Any, adapter: AdapterWeights) -> None:
    modules = dict(carrier.named_modules())
    for name, term in adapter.layers.items():
        shape = getattr(getattr(modules.get(name), "weight", None), "shape", None)
        if shape is None or {*shape} != {term.a.shape[1], term.b.shape[0]}:
            raise ModelLoadError(
                f"the adapter {folder} does not fit its backbone at {name}",
                "name the base that the ARM was trained on",
            )


def _describable(arms: Mapping[str, str], describe: Mapping[str, str]) -> str:
    """The folder of the one UniARM that takes further descriptions; "" if there are none."""
    if not describe:
        return ""
    able = [
        folder
        for folder in arms.values()
        if is_conditioned(folder) and ConditionedConfig.load(folder).core == "affine"
    ]
    if len(able) != 1:
        raise ConfigError(
            "--describe needs one ARM that knows objectives by their descriptions, "
            f"and there are {len(able)}",
            "give one that was trained with --method uniarm",
        )
    known = [n for n in describe if n in conditioned_on(able[0])]
    if known:
        raise ConfigError(f"{known[0]!r} is described already, by training", "take another name")
    return able[0]


def _vectors(folder: str, carrier: Any, describe: Mapping[str, str]) -> dict[str, Tensor]:
    """Vectors of objectives that the ARM was not trained for."""
    logger.warning(
        "%s: %s known by description only, which is experimental: measure before you rely on it",
        folder,
        " and ".join(describe) + (" is" if len(describe) == 1 else " are"),
    )
    known = ConditionedConfig.load(folder).descriptions
    projection = load_file(f"{folder}/{WEIGHTS}").get(PROJECTION)
    if projection is None:
        raise ModelLoadError(f"{folder} has no {PROJECTION}", "train it again")
    texts = {**known, **describe}  # all, so that none is like another
    vectors = objective_vectors(carrier, load_tokenizer(folder), texts, projection)
    return {name: v for name, v in zip(texts, vectors, strict=True) if name in describe}


def _soup(guides: Sequence[LoadedArm], facts: Mapping[str, Sidecar]) -> LoadedArm:
    """All ARMs as one, called by all their names."""
    mixed = soup({guide.name: guide.adapter for guide in guides})
    if len({id(guide.model) for guide in guides}) != 1:
        raise ConfigError("the ARMs of a soup are not on one backbone", "train them on one model")
    if len({(facts[g.name].scale, facts[g.name].prompt_format) for g in guides}) != 1:
        raise ConfigError("the ARMs of a soup differ in scale or prompt format", "train them alike")
    name = "+".join(guide.name for guide in guides)
    return replace(guides[0], name=name, adapter=mixed)
