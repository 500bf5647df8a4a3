"""Questions to an OpenAI-compatible server: what is asked again, and whose fault a refusal is."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx

from trimtab.errors import ConfigError, ModelLoadError
from trimtab.scoring.chat_replies import (
    FILTERED,
    TOO_LONG,
    Usage,
    concerns_all,
    outcome,
    retry_after,
)

logger = logging.getLogger(__name__)

SPEC = "write it like judge:MODEL@http://127.0.0.1:8000/v1"
LONGEST_WAIT = 600.0  # seconds that a server may ask for at once: more is a spent quota, no limit
PATIENCE = 1200.0  # seconds that one question waits in all: others may be let in before it
_TIMEOUT = 300.0  # seconds
_TRIES = 3  # on failures that name no time
_BUSY_TRIES = 7  # on limits that name no time: one per minute is over after 1 + 2 + … + 32 seconds
_THINKING_TOKENS = 8192  # who wants `max_completion_tokens` counts thoughts, too
OPTIONS: Mapping[str, Any] = {"temperature": 0, "max_tokens": 1024}  # until a server refuses one
_BUSY, _AGAIN = (429, 503), (408, 409)
_NOT_TAKEN = re.compile(r"unsupported|not support|deprecated|not allowed|only the default", re.I)


class Refused(Exception):
    """The server works, but gives no reply to this one question; the text says why."""

    @property
    def is_about_the_text(self) -> bool:
        """Whether the question is at fault (filtered, too long), as far as words can tell."""
        return bool(FILTERED.search(str(self)) or TOO_LONG.search(str(self)))


class Stumbled(ModelLoadError):
    """The server failed on this question each time it was asked."""


class Unreachable(Stumbled):
    """There was no server to ask."""


class _Busy(Exception):
    """The server asks to come again; `seconds` is None where it does not say when."""

    def __init__(self, said: str, seconds: float | None) -> None:
        super().__init__(said)
        self.seconds = seconds


class _Given(Exception):
    """Another question was in vain, and all are given up."""


class ChatServer:
    """A model behind an OpenAI-compatible server. Several threads may ask at once.

    What the server does not take is learnt once: `max_tokens` becomes `max_completion_tokens`, and
    `temperature` is left out.

    Args:
        url: what stands before `/chat/completions`.
        model: its name there.
        key: sent as the bearer token; none if empty.
        pause: seconds before the second attempt; twice as long before each one after it.
        usage: where tokens are counted.

    Raises:
        ConfigError: the environment names a proxy that cannot be used.
    """

    def __init__(
        self, url: str, model: str, key: str, *, pause: float = 1.0, usage: Usage | None = None
    ) -> None:
        self._url, self._model, self._key, self._pause = url, model, key, pause
        self._client = _client()
        self._options: dict[str, Any] = {**OPTIONS}
        self._usage = usage or Usage()
        self._lock, self._given_up = threading.Lock(), threading.Event()
        self._open_at = 0.0  # of time.monotonic(): earlier, any question would be turned away
        self._told_of_waiting = False

    def ask(self, question: str) -> str:
        """The reply to one question.

        Raises:
            Refused: this question gets none.
            Stumbled: it failed three times; `Unreachable`: nobody was there.
            ModelLoadError: no question gets a reply here: key, model or place are wrong, or the
                server wants longer waits than anybody would sit through.
        """
        until, tries, turned_away = time.monotonic() + PATIENCE, 0, 0
        while True:
            self._sleep(self._open_at - time.monotonic())
            try:
                return self._attempt(question)
            except _Busy as busy:
                turned_away += 1
                self._wait_as_told(busy, turned_away, until)
            except Stumbled:
                tries += 1
                if tries == _TRIES:
                    raise
                self._sleep(self._pause * 2 ** (tries - 1))

    def give_up(self) -> None:
        """Wake the threads that wait for their next attempt; what they ask is in vain."""
        self._given_up.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _attempt(self, question: str) -> str:
        """Ask once, or again at once where an option was at fault."""
        while True:
            sent = self._options
            reply = self._post({**self._body(question), **sent})
            status, text = outcome(reply)
            if status == 200:
                return self._content(reply)
            if status not in (400, 422) or not self._learns(text, sent):
                break
        said = f"HTTP {status}: {' '.join(self._masked(text).split())[:200]}"
        if concerns_all(status, text):
            raise ModelLoadError(*self._gone(said))
        seconds = retry_after(reply.headers)
        again = status in _AGAIN or status >= 500
        if status in _BUSY or (again and seconds is not None):
            raise _Busy(said, seconds)
        if again:
            raise Stumbled(*self._gone(said))
        raise Refused(said)

    def _body(self, question: str) -> dict[str, Any]:
        return {"model": self._model, "messages": [{"role": "user", "content": question}]}

    def _post(self, body: Mapping[str, Any]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            return self._client.post(f"{self._url}/chat/completions", json=body, headers=headers)
        except httpx.RequestError as error:
            said = self._masked(str(error)) or type(error).__name__
            nobody = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            raise (Unreachable if nobody else Stumbled)(*self._gone(said)) from None

    def _learns(self, text: str, sent: Mapping[str, Any]) -> bool:
        """Whether an option is at fault that can be sent otherwise; from now on it is."""
        with self._lock:
            now = dict(self._options)
            if "max_tokens" in sent and "max_completion_tokens" in text:
                now.pop("max_tokens", None)
                now["max_completion_tokens"] = _THINKING_TOKENS
            elif "temperature" in sent and "temperature" in text and _NOT_TAKEN.search(text):
                if now.pop("temperature", None) is not None:
                    logger.warning("the judge %s takes no temperature: its own holds", self._model)
            else:
                return False
            self._options = now
            return True

    def _content(self, reply: httpx.Response) -> str:
        """The text of a reply that is whole; what is filtered or cut off may end in any number."""
        try:
            choices = reply.json()["choices"]
            choice = choices[0] if choices else {"message": None}
            message, finish = choice["message"] or {}, choice.get("finish_reason")
            text = message.get("content")
            self._count(reply)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ModelLoadError(
                f"what is at {self._url} does not answer as an OpenAI-compatible server", SPEC
            ) from None
        if isinstance(text, list):
            text = "".join(str(p.get("text") or "") for p in text if isinstance(p, dict))
        if finish in ("content_filter", "length"):
            raise Refused(f"finish_reason {finish}: {_start(text)}")
        if not isinstance(text, str) or not text.strip():
            why = message.get("refusal") or f"finish_reason {finish}"
            raise Refused(f"an empty reply ({_start(why)})")
        return text

    def _count(self, reply: httpx.Response) -> None:
        with self._lock:
            self._usage.add(reply.json().get("usage"))

    def _wait_as_told(self, busy: _Busy, turned_away: int, until: float) -> None:
        """Let no question go before the server's time has come.

        Raises:
            ModelLoadError: that is too late, or it has been busy for too long.
        """
        seconds = busy.seconds
        if seconds is None:
            if turned_away == _BUSY_TRIES:
                raise ModelLoadError(*self._gone(str(busy)))
            seconds = self._pause * 2 ** (turned_away - 1)
        elif seconds > LONGEST_WAIT or time.monotonic() + seconds > until:
            raise ModelLoadError(
                f"the judge {self._model} at {self._url} asks to wait {seconds:.0f} s ({busy})",
                f"nobody waits longer than {LONGEST_WAIT:.0f} s at once or {PATIENCE:.0f} s for "
                "one answer: run the same command again when its limit has passed",
            )
        with self._lock:
            self._open_at = max(self._open_at, time.monotonic() + seconds)
            if seconds >= 5 and not self._told_of_waiting:
                self._told_of_waiting = True
                logger.warning("the judge %s asks to wait %.0f s: waiting", self._model, seconds)

    def _sleep(self, seconds: float) -> None:
        if self._given_up.wait(max(seconds, 0.0)):
            raise _Given

    def _gone(self, said: str) -> tuple[str, str]:
        return (
            f"the judge {self._model} at {self._url} does not answer ({said})",
            "see that it runs (a key goes into OPENAI_API_KEY) and run the same command again",
        )

    def _masked(self, text: str) -> str:
        """The same without the key, written plainly or as JSON and Python write it."""
        for secret in {self._key, json.dumps(self._key)[1:-1], repr(self._key)[1:-1]} - {""}:
            text = text.replace(secret, "***")
        return text


def _start(text: object) -> str:
    return " ".join(str(text or "").split())[:200]


def _client() -> httpx.Client:
    try:
        return httpx.Client(timeout=_TIMEOUT)
    except (ValueError, ImportError, httpx.InvalidURL):  # not named: it may hold a password
        raise ConfigError(
            "the proxy that the environment names cannot be used",
            "look at HTTP_PROXY, HTTPS_PROXY and ALL_PROXY",
        ) from None
