"""Judges that had a part in the answers they judge, as far as the files beside the answers say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from trimtab.comparison.sides import Meeting
from trimtab.models.folder import weights_fingerprint
from trimtab.scoring.scorer import Scorer


def partial_judges(meeting: Meeting, scorers: Mapping[str, str | Scorer]) -> list[str]:
    """A line for each scorer whose weights wrote, steered or chose one side's answers.

    `generate` notes the weights beside what it writes; of other files nothing is known.
    """
    known = {
        name: mark
        for name, spec in scorers.items()
        if isinstance(spec, str) and Path(spec).exists() and (mark := weights_fingerprint(spec))
    }
    files = [(side.name, file) for side in (meeting.a, meeting.b) for file in side.files]
    took_part = {(name, file): _weights_behind(file) for name, file in files}
    return [
        f"warning: the weights of the scorer {scorer!r} had a part in the answers of {side} "
        f"({file}): they win by it whatever they are worth"
        for scorer, mark in known.items()
        for (side, file), marks in took_part.items()
        if mark in marks
    ]


def _weights_behind(file: str) -> set[str]:
    """Fingerprints of base, guides and reward models that a file of `generate` was made with."""
    try:
        told = json.loads(Path(f"{file}.job.json").read_text(encoding="utf-8"))
        return {*told["weights"], *told.get("reward_models", {}).values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()
