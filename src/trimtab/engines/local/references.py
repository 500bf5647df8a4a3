"""What the libraries compute for each stream, asked while the models are as they were loaded.

transformers for a whole model, PEFT for its adapters, our training modules for conditioned ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trimtab.arms.conditioned_files import with_conditioned_adapter
from trimtab.arms.objectives import conditioned_on
from trimtab.arms.peft_adapter import with_adapter
from trimtab.engines.local.check import Case
from trimtab.errors import ModelLoadError
from trimtab.models.folder import adapter_config
from trimtab.models.probe import Reference, forward, reference, rms_gap, switching_ids
from trimtab.models.shared import share_weights

logger = logging.getLogger(__name__)

Probe = Callable[[str, Sequence[int]], tuple[list[int], int]]
"""The name of a stream, ids that switch its adapter on -> text and cut (`probe_ids`)."""


def of_model(model: Any, folder: str, name: str, probe: Probe) -> Case:
    """A whole model's case.

    Raises:
        ModelLoadError: it gives NaN.
    """
    ids, cut = probe(name, ())
    wanted = reference(model, ids, cut, name=folder, source="transformers")
    return Case(wanted, what=f"the {'base' if name == 'base' else 'model'} {folder}")


@dataclass(frozen=True)
class AdapterCase:
    """An adapter's case, and what was seen of it.

    Attributes:
        case: None where its library cannot run it on this backbone.
        model: PEFT's, which shares the carrier's weights; None for a conditioned one.
        effect: nats by which the adapter moves the text's log-probs.
    """

    case: Case | None
    model: Any
    effect: float


def of_adapter(folder: str, name: str, carrier: Any, probe: Probe, noise: float) -> AdapterCase:
    """The case of an adapter, by the library that owns its format.

    Args:
        folder: the adapter's.
        name: of its stream.
        carrier: its backbone, which stays as it is.
        probe: makes the text.
        noise: nats, of the carrier's own forward.

    Raises:
        ModelLoadError: it cannot be loaded, not all of it fits, or it gives NaN.
    """
    objectives = conditioned_on(folder)
    try:
        if objectives:
            model = with_conditioned_adapter(share_weights(carrier), folder)
        else:
            model = with_adapter(carrier, folder)
    except ModelLoadError:
        if not _is_quantized(carrier):
            raise
        return AdapterCase(None, None, 0.0)
    ids, cut = probe(name, switching_ids(model))
    inside = uneven(len(objectives))
    if objectives:
        model.conditioning.open(torch.tensor([inside], device=carrier.device))
    source = "its own training module" if objectives else "PEFT"
    wanted = reference(model, ids, cut, name=folder, source=source, noise=noise)
    off_TV = forward(carrier, ids)
    effect = rms_gap(wanted.logits_TV.log_softmax(-1), off_TV.log_softmax(-1))
    kind = adapter_config(folder).get("peft_type")
    kind = "aLoRA" if switching_ids(model) else kind
    case = Case(wanted, f"the {kind} adapter {folder}", inside, is_adapter=True)
    return AdapterCase(case, None if objectives else model, effect)


def uneven(count: int) -> list[float]:
    """A preference that weighs every one of some objectives differently."""
    return [2 * (i + 1) / (count * (count + 1)) for i in range(count)]


def is_measurable(wanted: Reference, effect: float) -> bool:
    """Whether a comparison would notice that an adapter is missing."""
    return effect > 2 * wanted.bar


def say_unverified(folder: str, why: str) -> None:
    """Once a stream."""
    logger.warning("%s could not be verified: %s", folder, why)


def _is_quantized(model: Any) -> bool:
    return any(type(p.data) is not torch.Tensor for p in model.parameters())
