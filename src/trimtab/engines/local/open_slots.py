"""How a group keeps what it has read."""

from __future__ import annotations

from typing import Any

from trimtab.engines.local.own_caches import OwnCaches
from trimtab.engines.local.slots import Slots
from trimtab.engines.local.streams import Group


def open_slots(group: Group, slots: int, length: int) -> Any:
    """The fastest way that a group's architecture can be run."""
    return (Slots if group.in_slots else OwnCaches)(group, slots, length)
