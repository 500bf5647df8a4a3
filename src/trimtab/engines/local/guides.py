"""ARMs in memory: each on a backbone that is there already, wherever it can be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from trimtab.arms.adapter import WEIGHTS, AdapterWeights, factor_soup, read_lora, soup
from trimtab.arms.conditioned import ConditionedConfig
from trimtab.arms.conditioned_files import PROJECTION, read_conditioned
from trimtab.arms.describe import objective_vectors
from trimtab.arms.load import load_backbone, tokenizer_of
from trimtab.arms.objectives import conditioned_on, is_conditioned
from trimtab.arms.peft_adapter import changes_base
from trimtab.arms.sidecar import Sidecar, require_base, same_backbone
from trimtab.engines.local.check import Case
from trimtab.engines.local.references import (
    Probe,
    is_measurable,
    of_adapter,
    of_model,
    say_unverified,
)
from trimtab.errors import ConfigError, ModelLoadError
from trimtab.models.folder import adapter_revision, is_adapter
from trimtab.models.load import load_model
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
        cases: what it has to give.
        carrier: an adapter's backbone, as it is without it.
        carrier_name: of it, among the backbones.
    """

    name: str
    model: Any
    adapter: AdapterWeights | None
    source: str
    cases: Sequence[Case] = ()
    carrier: Any = None
    carrier_name: str = ""


@dataclass(frozen=True)
class Loading:
    """How ARMs are loaded.

    Attributes:
        backbones: models in memory by name; what has to be loaded is added.
        options: for `load_model`, by the ARM's name.
        probe: makes the text on which an ARM is compared with its library.
        in_float32: verifies an ARM (name, folder, backbone) whose effect is lost in the noise of
            the type it is loaded in; None where that is float32.
        noises: of the backbones' own forwards, as far as they are known.
        revisions: of backbones that are hub ids.
    """

    backbones: dict[str, Any]
    options: Callable[[str], dict[str, Any]]
    probe: Probe
    in_float32: Callable[[str, str, str], None] | None
    noises: dict[str, float]
    revisions: Mapping[str, str | None]

    def shared_by(self, folder: str) -> str:
        """The backbone in memory that an adapter was trained on; "" if there is none."""
        names = (b for b in self.backbones if same_backbone(folder, b, self.revisions.get(b)))
        return next(names, "")

    def noise_of(self, backbone: str, name: str) -> float:
        """Nats, of a backbone's own forward; measured once."""
        if backbone not in self.noises:
            case = of_model(self.backbones[backbone], backbone, name, self.probe)
            self.noises[backbone] = case.wanted.noise
        return self.noises[backbone]


def load_guides(
    arms: Mapping[str, str],
    facts: Mapping[str, Sidecar],
    loading: Loading,
    *,
    combine: Combine = "fusion",
    describe: Mapping[str, str] | None = None,
) -> list[LoadedArm]:
    """Load ARMs, and ask their libraries what they compute.

    Args:
        arms: name -> folder.
        facts: name -> sidecar.
        loading: where their backbones are, and how others are loaded.
        combine: `soup` and `factor-soup` make one ARM of all.
        describe: further objectives of a UniARM, name -> description.

    Raises:
        ModelLoadError, ConfigError: an ARM that does not fit, or cannot be combined or described.
    """
    described = _describable(arms, describe or {})
    loaded: dict[str, LoadedArm] = {}
    for name, folder in arms.items():
        if folder not in loaded:
            more = (describe or {}) if folder == described else {}
            loaded[folder] = _load(name, folder, loading, more)
    guides = [replace(loaded[folder], name=name, source=name) for name, folder in arms.items()]
    return [_soup(guides, facts, combine)] if combine in _SOUPS else guides


def _load(name: str, folder: str, loading: Loading, describe: Mapping[str, str]) -> LoadedArm:
    """An ARM's model, and what it adds to it.

    Plain LoRA and our own cores join their backbone's forward; an adapter with more than that, or
    one that changes the backbone's weights when it is loaded, is left to PEFT.
    """
    backbones = loading.backbones
    if not is_adapter(folder):
        if folder not in backbones:
            backbones[folder] = load_model(folder, **loading.options(name))
        model = backbones[folder]
        return LoadedArm(name, model, None, name, [of_model(model, folder, name, loading.probe)])
    base = _backbone(name, folder, loading)
    carrier = backbones[base]
    where: dict[str, Any] = {"dtype": carrier.dtype, "device": str(carrier.device)}
    if is_conditioned(folder):
        more = _vectors(folder, carrier, describe) if describe else {}
        adapter: AdapterWeights | None = read_conditioned(folder, more=more, **where)
    else:
        adapter = read_lora(folder, **where)
    if adapter is not None:
        _check_layers(folder, carrier, adapter)
    expected = of_adapter(folder, name, carrier, loading.probe, loading.noise_of(base, name))
    objectives = adapter.objectives if adapter else ()
    cases = [_with_described(expected.case, len(objectives))] if expected.case else []
    if not expected.case and adapter is None:
        raise ConfigError(
            f"PEFT does not run the adapter {folder} on quantised weights",
            "load without --quantization, or merge it into its base first",
        )
    if not expected.case:
        _look_closer(name, folder, base, loading, "PEFT does not run it on quantised weights")
    elif not is_measurable(expected.case.wanted, expected.effect):
        _look_closer(name, folder, base, loading, "it changes next to nothing on ordinary text")
    if expected.model is not None and (adapter is None or changes_base(expected.model, carrier)):
        return LoadedArm(name, expected.model, None, name, cases, carrier, base)
    return LoadedArm(name, carrier, adapter, name, cases, carrier, base)


def _backbone(name: str, folder: str, loading: Loading) -> str:
    """The name of an adapter's backbone, which is in memory then."""
    if shared := loading.shared_by(folder):
        return shared
    base = require_base(folder)
    if base in loading.backbones:  # the base's hub id, at another revision
        base = f"{base}@{adapter_revision(folder)}"
    if base not in loading.backbones:
        loading.backbones[base] = load_backbone(folder, **loading.options(name))
    return base


def _with_described(case: Case, objectives: int) -> Case:
    """A case whose preference says nothing of the objectives known by description only."""
    rest = objectives - len(case.conditions)
    return replace(case, conditions=[*case.conditions, *[0.0] * rest]) if rest > 0 else case


def _look_closer(name: str, folder: str, base: str, loading: Loading, why: str) -> None:
    """Verify in float32 an adapter of which nothing can be seen in its own type, or say why not."""
    if loading.in_float32 is not None:
        loading.in_float32(name, folder, base)
    else:
        say_unverified(folder, why)


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
    vectors = objective_vectors(carrier, tokenizer_of(folder), texts, projection)
    return {name: v for name, v in zip(texts, vectors, strict=True) if name in describe}


_SOUPS = {"soup": soup, "factor-soup": factor_soup}


def _soup(guides: Sequence[LoadedArm], facts: Mapping[str, Sidecar], combine: Combine) -> LoadedArm:
    """All ARMs as one, called by all their names; at one name's preference it is that ARM."""
    mixed = _SOUPS[combine]({guide.name: guide.adapter for guide in guides})
    if len({id(guide.model) for guide in guides}) != 1:
        raise ConfigError("the ARMs of a soup are not on one backbone", "train them on one model")
    if len({(facts[g.name].scale, facts[g.name].prompt_format) for g in guides}) != 1:
        raise ConfigError("the ARMs of a soup differ in scale or prompt format", "train them alike")
    if len({facts[g.name].reference for g in guides}) != 1:
        raise ConfigError("only some ARMs of a soup have a reference", "train them alike")
    name = "+".join(guide.name for guide in guides)
    cases = [
        replace(case, conditions=[float(i == place) for i in range(len(guides))])
        for place, guide in enumerate(guides)
        for case in guide.cases
    ]
    return replace(guides[0], name=name, adapter=mixed, cases=cases)
