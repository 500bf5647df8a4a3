"""`trimtab chat`."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimtab.cli.options import EngineOptions, SamplingOptions
from trimtab.cli.parse import parse
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, TrimtabError
from trimtab.models.messages import Message
from trimtab.models.templates import require_template
from trimtab.steering import PreferenceLike, Steering, parse_strength

if TYPE_CHECKING:
    from trimtab.engines.local import LocalEngine

DESCRIPTION = "Chat with a frozen base steered by ARMs; preference and strength change live."

HELP = """\
/preference helpful=0.7,harmless=0.3   change the preference
/strength 1.5                          change the strength (0: the base alone)
/reset                                 forget the conversation
/help  /quit"""

COMMANDS = ("/preference", "/strength", "/reset", "/help", "/quit", "/exit")


@dataclass(kw_only=True)
class ChatOptions(EngineOptions, SamplingOptions):
    """Chat with a frozen base steered by ARMs."""


class Session:
    """One conversation: its messages, its preference and strength, which change live."""

    def __init__(self, engine: LocalEngine, options: ChatOptions) -> None:
        self._engine = engine
        self._sampling = options.sampling()
        self.preference: PreferenceLike | None = options.preference
        self.strength = options.strength
        self._options = options
        self.messages: list[Message] = []

    def say(self, text: str) -> None:
        """Send one user turn and stream the answer; an error leaves the conversation as it was."""
        turns = [*self.messages, Message(role="user", content=text)]
        limits = self._options.kl_budget, self._options.gate
        request = Request(turns, self.preference, self.strength, self._sampling, *limits)
        for event in self._engine.stream(request, speculate=self._options.speculate):
            print(event.text, end="", flush=True)
            if event.completion is not None:
                if event.completion.error:
                    raise ConfigError(event.completion.error, "the conversation is as it was")
                answer = Message(role="assistant", content=event.completion.text)
                self.messages = [*turns, answer]
        print()
        self._sampling = self._sampling.further(1)

    def command(self, line: str) -> bool:
        """Run a /command; False ends the chat."""
        name, _, value = line.partition(" ")
        value = value.strip()
        if name in ("/quit", "/exit"):
            return False
        if name == "/preference" and value:
            Steering.of(self._engine.objectives, value, self.strength)
            self.preference = value
        elif name == "/strength" and value:
            self.strength = parse_strength(value)
        elif name == "/reset":
            self.messages = []
        elif name in COMMANDS:
            print(HELP)
        else:
            raise _unknown(name)
        self.show()
        return True

    def show(self) -> None:
        """Print the preference and the strength in force."""
        steering = Steering.of(self._engine.objectives, self.preference, self.strength)
        weights = ", ".join(f"{k}={v:.2g}" for k, v in steering.preference.items()) or "no guide"
        print(f"[preference {weights}; strength {steering.strength:g}]")


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else "/help lists the commands"
    return ConfigError(f"no command {name!r}", hint)


def main(argv: Sequence[str]) -> int:
    """Read lines until /quit or the end of the input."""
    options = parse(ChatOptions, argv, "chat", DESCRIPTION)
    options.steering()
    Request("", None, options.strength, options.sampling(), options.kl_budget, options.gate)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history in input()
    engine = options.load()
    for stream in (engine.base, *engine.arms):
        require_template(stream.tokenizer)
    session = Session(engine, options)
    print(HELP)
    session.show()
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        try:
            if line.startswith("/"):
                if not session.command(line):
                    return 0
            elif line:
                session.say(line)
        except TrimtabError as error:
            print(f"trimtab: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\n[stopped]")
