"""What a search wants to know of the requests that it makes, beside their tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab import fusion
from trimtab.engines.local.choosing import Fused
from trimtab.engines.local.rows import Row, Seen


def pauses(row: Row, fused: Fused, place: int) -> bool:
    """Whether a request ends before its next token, because so much is open there.

    Args:
        row: the request.
        fused: of all rows of the step.
        place: of the request's next token among them.
    """
    watch = row.plan.watch
    if watch is None or watch.entropy == math.inf or len(row.ids) < watch.after:
        return False
    return watch.entropy <= 0 or fusion.entropy(fused.logp_BV[place]) >= watch.entropy


def watched(row: Row, new: Sequence[int], fused: Fused, place: int) -> Seen | None:
    """What is wanted of a request, after a step that gave it at most one token.

    Args:
        row: the request, with what the step gave it.
        new: that.
        fused: of all rows of the step.
        place: of the request's token among them.
    """
    watch = row.plan.watch
    if watch is None:
        return None
    if row.finish_reason and not new and not row.error:
        return Seen((), fused.logp_BV[place].clone(), fused.logp_arms_KBV[:, place].clone())
    if not watch.rewards:
        return Seen()
    return Seen([fused.logp_arms_KBV[:, place, token].tolist() for token in new])
