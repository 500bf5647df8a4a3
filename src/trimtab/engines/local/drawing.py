"""Continuations that a search draws: their tokens, and what was watched of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from trimtab.engines.local.rows import Pushed
from trimtab.errors import AnswerError, ClosedError, ConfigError, TrimtabError


@dataclass
class Drawn:
    """One continuation.

    Attributes:
        ids: its tokens, an end-of-turn token included.
        ended: whether the turn is over with them.
        rewards_TK: of each token under each guide, nats, where they are wanted.
        logp_V: fused log-probs of the token before which it paused; None if it did not.
        rewards_KV: what the guides give that token.
        likelihoods_T4: of each token that was given (`Seen`).
        base_tokens: that the base computed for it.
        other_tokens: that all other streams computed for it.
        passes: of the base's weights that it had a part in.
        error: what went wrong with it.
        kind: of error that this is, by whose fault it is.
    """

    ids: list[int] = field(default_factory=list)
    ended: bool = False
    rewards_TK: list[Sequence[float]] = field(default_factory=list)
    logp_V: Tensor | None = None
    rewards_KV: Tensor | None = None
    likelihoods_T4: list[Sequence[float]] = field(default_factory=list)
    base_tokens: int = 0
    other_tokens: int = 0
    passes: int = 0
    error: str = ""
    kind: type[TrimtabError] = AnswerError

    def require_right(self) -> None:
        """Refuse it, if it went wrong.

        Raises:
            ConfigError: by the request's own fault.
            AnswerError, ClosedError: by ours.
        """
        if self.error:
            raise self.kind(self.error)


class Drawing:
    """A continuation while it comes in: of no interest before its end, and never text.

    Args:
        deliver: takes it, once.
    """

    def __init__(self, deliver: Callable[[Drawn], None]) -> None:
        self._deliver, self._drawn = deliver, Drawn()

    def take(self, pushed: Pushed) -> bool:
        """Take new tokens; whether these are the last."""
        drawn, row = self._drawn, pushed.row
        drawn.ids += pushed.ids
        if pushed.seen:
            drawn.rewards_TK += pushed.seen.rewards_NK
            drawn.likelihoods_T4 += pushed.seen.likelihoods_N4
            drawn.logp_V, drawn.rewards_KV = pushed.seen.logp_V, pushed.seen.rewards_KV
        if pushed.finish_reason is None:
            return False
        drawn.base_tokens, drawn.other_tokens = row.read
        drawn.passes, drawn.ended = row.passes, pushed.finish_reason == "stop"
        drawn.error, drawn.kind = row.error, ConfigError if row.refused else AnswerError
        self._deliver(drawn)
        return True

    def cancel(self) -> None:
        """The engine is closed."""
        self._drawn.kind = ClosedError
        self.fail("the engine was closed")

    def fail(self, error: str) -> None:
        """It cannot go on."""
        self._drawn.error = error
        self._deliver(self._drawn)
