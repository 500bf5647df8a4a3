"""The model that an ARM's training started from, against which its rewards are measured.

An ARM with `reference: start` in its sidecar has the reward log π_r − log π_start of every token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trimtab.arms.objectives import is_conditioned
from trimtab.arms.sidecar import NAME, Sidecar, require_base
from trimtab.errors import MissingFileError, ModelLoadError
from trimtab.models.folder import (
    adapter_revision,
    canonical,
    check_folder,
    is_adapter,
    is_local,
    weights_fingerprint,
)


@dataclass(frozen=True)
class Start:
    """Where a model stands that was trained further.

    Attributes:
        place: folder, GGUF file or hub id.
        revision: of the hub id.
    """

    place: str
    revision: str | None = None


def start_of(arm: str) -> Start | None:
    """The model that an ARM's rewards are measured against; None where there is none.

    Args:
        arm: its folder.

    Raises:
        ModelLoadError, MissingFileError: it is not told, not there, or no longer the same.
    """
    if not has_start(arm) or not is_adapter(arm):
        return start_to_load(arm)
    base = require_base(arm)
    return Start(base, None if Path(base).exists() else adapter_revision(arm))


def start_to_load(arm: str, nearby: str = "") -> Start | None:
    """The same of a whole model; None for an adapter, too, which comes with its backbone.

    Args:
        arm: its folder.
        nearby: a model that may be the one, wherever the ARM says it is.

    Raises:
        ModelLoadError, MissingFileError: as `start_of`.
    """
    if not has_start(arm) or is_adapter(arm):
        return None
    facts, mend = Sidecar.load(arm), f"put its place into `start` of {arm}/{NAME}"
    if nearby and _is_start(facts, nearby):
        return Start(nearby)
    if not facts.start:
        raise ModelLoadError(
            f"{arm} does not say which model it was trained from, which its rewards are against",
            mend,
        )
    try:
        check_folder(facts.start)
    except MissingFileError:
        raise MissingFileError(
            f"the rewards of {arm} are against {facts.start}, which is not there", mend
        ) from None
    if is_local(facts.start) and not _is_start(facts, facts.start):
        raise ModelLoadError(
            f"{facts.start} no longer holds the weights that {arm} was trained from", mend
        )
    return Start(facts.start, None if is_local(facts.start) else facts.start_revision)


def has_start(arm: str) -> bool:
    """Whether rewards are measured against the start.

    Raises:
        ModelLoadError: a reference that is not known, or that the ARM cannot have.
    """
    reference = Sidecar.load(arm).reference
    if reference == "none":
        return False
    if reference != "start" or is_conditioned(arm):
        raise ModelLoadError(
            f"the ARM {arm} has the reference {reference!r}, which it cannot have",
            f"mend its {NAME}, or train it again",
        )
    return True


def _is_start(facts: Sidecar, model: str) -> bool:
    """Whether a model is the one; where weights can be compared it is they that count."""
    if facts.base_fingerprint and is_local(model):
        return facts.base_fingerprint == weights_fingerprint(model)
    same = bool(facts.start) and canonical(facts.start) == canonical(model)
    return same and (is_local(model) or facts.start_revision is None)
