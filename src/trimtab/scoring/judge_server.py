"""What judges have in common: a place in a spec, a key, many questions at once, texts to show."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from urllib.parse import SplitResult, urlsplit

import httpx

from trimtab.errors import ConfigError
from trimtab.models.messages import Prompt
from trimtab.scoring.chat_replies import Usage
from trimtab.scoring.chat_server import SPEC, ChatServer, Refused, Stumbled, Unreachable

_CONCURRENT = 8

Reply = str | Refused | Stumbled
"""What comes of one question, unless it concerns all of them."""

Heard = Callable[[str, Reply], None]
"""Told of each question and its reply as it comes, one at a time."""


class JudgeServer:
    """A judge behind an OpenAI-compatible server. Its key is what OPENAI_API_KEY holds now.

    Args:
        spec: `judge:MODEL@URL`, with the URL that ends before `/chat/completions`.
        name: what an error calls it.
        pause: seconds before the second attempt; twice as long before each one after it.

    Attributes:
        model: its name there.
        url: of the server.
        usage: the tokens that it says it has read and written.

    Raises:
        ConfigError: a spec that cannot be read, one with a password or a query in its URL, or a
            key that no header can hold.
    """

    def __init__(self, spec: str, name: str, *, pause: float = 1.0) -> None:
        model, at, url = spec.removeprefix("judge:").rpartition("@http")
        self.model, self.url = model, ("http" + url).rstrip("/")
        self._pause, self._key = pause, _api_key()
        self._server: ChatServer | None = None
        self._hearing = threading.Lock()
        self.usage = Usage()
        parts = _url_parts(self.url)
        if not at or not model or not parts:
            raise ConfigError(f"cannot read {name}", SPEC)
        if "@" in parts.netloc or parts.query or parts.fragment or "@http" in model:
            raise ConfigError(
                f"the URL of {name} holds more than a place",
                "put a key into the environment variable OPENAI_API_KEY",
            )

    def replies(
        self, questions: Sequence[str], *, control: str | None = None, heard: Heard | None = None
    ) -> list[Reply]:
        """Ask several questions at once. The connections stay open until `close`, or an error.

        Args:
            questions: texts.
            control: a harmless question, which is asked where the server fails on all the others:
                if it fails on this one, too, it is not the questions' fault.
            heard: is told of each reply as it comes, also of those that come before an error.

        Returns:
            A reply for each question, in their order.

        Raises:
            ModelLoadError: the server answers nobody: wrong key, model or place, or it is down.
        """
        server = self._server = self._server or ChatServer(
            self.url, self.model, self._key, pause=self._pause, usage=self.usage
        )
        try:
            replies = self._at_once(server, questions, heard)
            stumbled = [reply for reply in replies if isinstance(reply, Stumbled)]
            if control and replies and len(stumbled) == len(replies):
                [other] = self._at_once(server, [control], None)
                if isinstance(other, Stumbled):
                    raise stumbled[0]
        except BaseException:
            self.close()
            raise
        return replies

    def close(self) -> None:
        """Close the connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _at_once(
        self, server: ChatServer, questions: Sequence[str], heard: Heard | None
    ) -> list[Reply]:
        with ThreadPoolExecutor(_CONCURRENT) as pool:
            asked = [pool.submit(self._reply, server, question, heard) for question in questions]
            try:
                wait(asked, return_when=FIRST_EXCEPTION)
                for failed in (one for one in asked if one.done() and one.exception()):
                    failed.result()  # raises
                return [one.result() for one in asked]
            except BaseException:
                server.give_up()
                pool.shutdown(cancel_futures=True)
                raise

    def _reply(self, server: ChatServer, question: str, heard: Heard | None) -> Reply:
        reply: Reply
        try:
            reply = server.ask(question)
        except Unreachable:
            raise
        except (Refused, Stumbled) as trouble:
            reply = trouble
        if heard is not None:
            with self._hearing:
                heard(question, reply)
        return reply


def said(reply: Reply) -> str:
    """A reply as people are shown it, in one line and shortened: a verdict ends a reply."""
    text = repr(reply) if isinstance(reply, str) else str(reply.args[0])
    return text if len(text) <= 300 else f"{text[:200]} … {text[-90:]}"


def without_thoughts(reply: str) -> str:
    """What a judge says after its thoughts, which do not count."""
    return reply.rpartition("</think>")[2]


def as_text(prompt: Prompt) -> str:
    """A prompt as a judge reads it: `role: content`, a turn a line."""
    if isinstance(prompt, str):
        return f"user: {prompt}"
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _api_key() -> str:
    """The key of the environment, without the line end that `$(cat key)` may leave on it."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            "OPENAI_API_KEY holds something that is no visible ASCII character",
            "set it to the key alone",
        )
    return key


def _url_parts(url: str) -> SplitResult | None:
    """The parts of a URL that a request can be sent to; None for any other text."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        httpx.URL(url)  # it has rules of its own
    except (ValueError, httpx.InvalidURL):
        return None
    return parts if good else None
