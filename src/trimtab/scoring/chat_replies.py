"""What a reply of an OpenAI-compatible server says: outcome, whose fault, when again, tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

_EVERYONE = (401, 402, 403, 404, 405, 406, 407, 410, 415)  # key, money, model, place: not the text
FILTERED = re.compile(r"content.{0,3}(filter|policy|management)|moderation|flagged|safety", re.I)
TOO_LONG = re.compile(r"context.{0,3}(length|window)|too (long|large)|maximum", re.I)


@dataclass
class Usage:
    """Tokens as servers count them, thoughts included.

    Attributes:
        replies: how many came with a count.
        read: tokens of their questions.
        written: tokens of theirs.
    """

    replies: int = 0
    read: int = 0
    written: int = 0

    def add(self, counts: Any) -> None:
        """Count what a reply says of itself, where it says so."""
        counts = counts if isinstance(counts, dict) else {}
        read, written = counts.get("prompt_tokens"), counts.get("completion_tokens")
        if isinstance(read, int) and isinstance(written, int):
            self.replies += 1
            self.read += read
            self.written += written


def outcome(reply: httpx.Response) -> tuple[int, str]:
    """Status (200 for any success) and text; an error that comes as a success is an error."""
    if not reply.is_success:
        return reply.status_code, reply.text
    try:
        answer = reply.json()
    except ValueError:
        return 200, reply.text
    if not isinstance(answer, dict) or not answer.get("error") or answer.get("choices"):
        return 200, reply.text
    code = answer["error"].get("code") if isinstance(answer["error"], dict) else None
    return (code if isinstance(code, int) and 400 <= code < 600 else 400), reply.text


def concerns_all(status: int, text: str) -> bool:
    """Whether the next question would meet the same: some servers forbid (403) a single text."""
    if status == 403 and FILTERED.search(text):
        return False
    return status in _EVERYONE or status < 400 or (status == 429 and "insufficient_quota" in text)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until a server wants to be asked again; None where it does not say.

    A date is taken by the server's own clock, where it tells the time.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d*)?", text):
        return float(text)
    then = _date(text)
    if then is None:
        return None
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    return max((then - now).total_seconds(), 0.0)


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
