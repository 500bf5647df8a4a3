"""Tokens to text, away from the thread that runs the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trimtab.engines.local.rows import Pushed, Row, RowPlan
from trimtab.engines.local.streams import BASE
from trimtab.engines.text import TextStream
from trimtab.engines.types import Completion, Event, FinishReason, TokenReport
from trimtab.models.messages import is_ids
from trimtab.models.protocols import Tokenizer

New = tuple[list[int], list[TokenReport]]
"""Tokens that have just come, and a report of each where the request asked for them."""
BEHIND = 8
"""Tokens of a text that its continuation is decoded behind: whole characters, and more."""
Deliver = Callable[[Event], None]
"""Takes the events of one request; called from another thread."""


class Answer:
    """One response while it comes in.

    Args:
        plan: what was asked.
        tokenizer: the base's.
        deliver: takes its events.
    """

    def __init__(self, plan: RowPlan, tokenizer: Tokenizer, deliver: Deliver) -> None:
        self._plan, self._deliver = plan, deliver
        before = plan.prompts[BASE][-BEHIND:] if is_ids(plan.request.prompt) else ()
        self._text = TextStream(tokenizer, plan.sampling.stop, before)
        self._ids: list[int] = []
        self._reports: list[TokenReport] = []
        self._counts: Mapping[str, int] = {}
        self._kl = 0.0

    def take(self, pushed: Pushed) -> bool:
        """Take new tokens and send an event; whether the response is at its end."""
        text, reason, before = "", pushed.finish_reason, len(self._ids)
        self._counts = pushed.counts
        for i, token in enumerate(pushed.ids):
            self._ids.append(token)
            self._reports += pushed.reports[i : i + 1]
            self._kl += pushed.kl[i]
            ended = reason == "stop" and i == len(pushed.ids) - 1  # the end-of-turn token
            text += self._text.finish() if ended else self._text.push(token)
            if self._text.stopped:
                reason = "stop"
                break
        new = self._ids[before:], self._reports[before:]
        if reason is None:
            self._deliver(Event(text, *new))
            return False
        self._end(reason, text, new, pushed.row)
        return True

    def cancel(self) -> None:
        """The caller has gone away, or wants no more."""
        self._end("cancelled", "", ([], []))

    def fail(self, error: str) -> None:
        """It cannot go on; perhaps because the tokenizer cannot make text of it."""
        try:
            text = self._text.finish()
        except Exception:
            text = ""
        self._deliver_last("error", text, ([], []), error)

    def _end(self, reason: FinishReason, text: str, new: New, row: Row | None = None) -> None:
        if not self._text.stopped:
            text += self._text.finish()
            if self._text.stopped:
                reason = "stop"
        error, refused = (row.error, row.refused) if row else ("", False)
        self._deliver_last(reason, text, new, error, refused)

    def _deliver_last(
        self, reason: FinishReason, text: str, new: New, error: str, refused: bool = False
    ) -> None:
        steering = self._plan.steering
        completion = Completion(
            self._text.text,
            self._ids,
            reason,
            steering.preference,
            steering.strength,
            self._reports,
            gated=self._counts.get("gated", 0),
            drafted=self._counts.get("drafted", 0),
            accepted=self._counts.get("accepted", 0),
            kl=self._kl / max(len(self._ids), 1),
            seed=self._plan.sampling.seed or 0,
            error=error,
            refused=refused,
        )
        self._deliver(Event(text, *new, completion))
