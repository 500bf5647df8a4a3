"""The base and its ARMs as the one model that a scheduler runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from trimtab.engines.local.streams import Group
from trimtab.models.protocols import Tokenizer


@dataclass(frozen=True)
class GuidedModel:
    """The base and its ARMs, in groups that share weights.

    Attributes:
        groups: the base's first.
        arms: names of the ARMs, in the order of the weights.
        tokenizer: the base's.
        ends: ids that end a turn.
        lock: held during a step: the groups' layers know the rows of one forward at a time.
    """

    groups: Sequence[Group]
    arms: Sequence[str]
    tokenizer: Tokenizer
    ends: frozenset[int]
    lock: threading.RLock = field(default_factory=threading.RLock)
