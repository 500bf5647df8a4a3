"""What a scheduler runs, and how it speculates."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.engines.local.streams import Group
from trimtab.engines.speculation import DraftLength


@dataclass(frozen=True)
class Fleet:
    """What a scheduler runs.

    Attributes:
        groups: the base's first.
        arms: names of the ARMs, in the order of the weights.
        tokenizer: the base's.
        ends: ids that end a turn.
        lock: held during a step: the groups' layers know the rows of one forward at a time.
    """

    groups: Sequence[Group]
    arms: Sequence[str]
    tokenizer: Any
    ends: frozenset[int]
    lock: threading.RLock = field(default_factory=threading.RLock)


@dataclass(frozen=True)
class Speculation:
    """How to speculate.

    Attributes:
        drafter: who proposes tokens.
        length: makes the controller of one row's draft length.
    """

    drafter: Any
    length: Callable[[], DraftLength]
