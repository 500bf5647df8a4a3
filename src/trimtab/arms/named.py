"""ARMs as users name them: `OBJECTIVE=FOLDER`, or a folder that says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trimtab.arms.objectives import conditioned_on
from trimtab.arms.sidecar import Sidecar
from trimtab.errors import ConfigError
from trimtab.models.folder import fetch


def split_arm(entry: str) -> tuple[str | None, str]:
    """`OBJECTIVE=FOLDER` as name and place; a place that is there, or alone, has no name.

    Raises:
        ConfigError: an entry without a name or a place beside its `=`.
    """
    name, equals, place = entry.partition("=")
    if not equals or Path(entry).exists():
        return None, entry
    if not name or not place:
        raise ConfigError(f"--arm {entry} names no ARM", "write --arm helpful=FOLDER")
    return name, place


def named_arms(
    entries: Sequence[str], revisions: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`OBJECTIVE=FOLDER` entries as objective -> folder.

    A folder alone names its own objective; a conditioned ARM has several and is named by them all.
    Of a hub id, the revision by its name here is fetched.
    """
    revisions = revisions or {}
    named: dict[str, str] = {}
    for entry in entries:
        name, place = split_arm(entry)
        pinned = None if Path(place).exists() else revisions.get(name or place)
        folder = fetch(place, revision=pinned)  # what it is, its own files say
        if name is None:
            name = "+".join(conditioned_on(folder)) or Sidecar.load(folder).objective
        elif objectives := conditioned_on(folder):
            raise ConfigError(
                f"--arm {entry} is conditioned on {', '.join(objectives)}", f"write --arm {folder}"
            )
        if not name or not folder:
            raise ConfigError(f"--arm {entry} names no objective", "write --arm helpful=FOLDER")
        if name in named:
            raise ConfigError(f"two ARMs for {name!r}", "name each objective once")
        named[name] = folder
    return named


def left_to_load(revisions: Mapping[str, str], others: Sequence[str] = ()) -> dict[str, str]:
    """The revisions that naming ARMs leaves to an engine: those of base, draft and other models."""
    return {name: pin for name, pin in revisions.items() if name in ("base", "draft", *others)}


def objectives_of(arms: Mapping[str, str]) -> list[str]:
    """What ARMs steer to, in their order: name -> folder; a conditioned ARM brings several."""
    return [o for name, folder in arms.items() for o in conditioned_on(folder) or [name]]
