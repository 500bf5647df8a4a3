"""Token ids as text while they arrive: whole characters only, stop texts found and held back."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.models.protocols import Tokenizer

_BROKEN = "\ufffd"


class TextStream:
    """Decodes one row incrementally.

    The new tokens are decoded behind the last ones that gave text, because some tokenizers drop
    the space before the first token. Text is released once it cannot change any more: not while a
    character is incomplete, and not while it may be the beginning of a stop text.

    Args:
        tokenizer: of the tokens.
        stops: texts that end it.
        behind: tokens of the text that it goes on with, where it is no turn of its own.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str] = (), behind: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._ids = [*behind]
        self._start, self._read = 0, len(behind)
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take the next token; returns the text that is released by it. Sets `stopped`."""
        self._ids.append(token)
        new = self._new()
        if new.endswith(_BROKEN):
            return ""
        if new:  # else what begins here would lose its space, as the first token does
            self._start = self._read
        self._read = len(self._ids)
        return self._release(new)

    def finish(self) -> str:
        """The text still held back when the row ends."""
        if self.stopped:
            return ""
        rest, self._held = self._held + self._new(), ""
        self._read = len(self._ids)
        stop_at = first_stop(rest, self._stops)
        if stop_at >= 0:
            rest, self.stopped = rest[:stop_at], True
        self.text += rest
        return rest

    def _new(self) -> str:
        """What the tokens that have not been read add to the text."""
        before = self._decode(self._start, self._read)
        after = self._decode(self._start, len(self._ids))
        if after.startswith(before):
            return after[len(before) :]
        # byte fallback drops whole characters with the broken one behind them
        return self._decode(self._read, len(self._ids))

    def _decode(self, start: int, end: int) -> str:
        text: str = self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True)
        return text

    def _release(self, delta: str) -> str:
        pending = self._held + delta
        stop_at = first_stop(pending, self._stops)
        if stop_at >= 0:
            self.stopped, self._held = True, ""
            released = pending[:stop_at]
        else:
            keep = max((self._overlap(pending, stop) for stop in self._stops), default=0)
            released, self._held = pending[: len(pending) - keep], pending[len(pending) - keep :]
        self.text += released
        return released

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` that begins `stop`."""
        longest = min(len(text), len(stop) - 1)
        return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def first_stop(text: str, stops: Sequence[str]) -> int:
    """Where the first of some stop texts begins; −1 where there is none."""
    places = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return min(places, default=-1)
