"""What asking a judge takes: questions, tokens, money, time; estimates until it was asked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from trimtab.errors import ConfigError
from trimtab.scoring.chat_replies import Usage

CHARACTERS = 4  # of a token, about, in English
REPLY = 150  # tokens of a reply, a guess until there are some


@dataclass(frozen=True)
class Price:
    """Of a million tokens, in any currency.

    Attributes:
        read: tokens of questions.
        written: tokens of replies, thoughts included.
    """

    read: float
    written: float


def parse_price(text: str) -> Price:
    """`IN,OUT` of a million tokens, such as `2.5,10`.

    Raises:
        ConfigError: it is not two numbers of 0 or more.
    """
    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError:
        read = written = math.nan
    if not (0 <= read < math.inf and 0 <= written < math.inf):
        raise ConfigError(
            f"cannot read the price {text!r}", "write IN,OUT of a million tokens, such as 2.5,10"
        )
    return Price(read, written)


@dataclass(frozen=True)
class Tokens:
    """Of questions and of replies."""

    read: float
    written: float

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.read + other.read, self.written + other.written)

    def cost(self, price: Price | None) -> float | None:
        """In the price's currency; None without one."""
        if price is None:
            return None
        return (self.read * price.read + self.written * price.written) / 1e6

    def told(self, price: Price | None) -> str:
        """For people."""
        cost = self.cost(price)
        money = "" if cost is None else f", which cost about {cost:.4g}"
        return f"about {self.read:,.0f} tokens in and {self.written:,.0f} out{money}"


@dataclass
class Meter:
    """What has been asked, and so what the rest will take.

    Attributes:
        usage: what the server counts; where it does not, characters count.
        asked: questions.
        read: characters of questions.
        written: characters of replies.
    """

    usage: Usage = field(default_factory=Usage)
    asked: int = 0
    read: int = 0
    written: int = 0

    def add(self, question: str, reply: object) -> None:
        """Count a question and its reply, which is no text where there was none."""
        self.asked += 1
        self.read += len(question)
        self.written += len(reply) if isinstance(reply, str) else 0

    def tokens(self) -> Tokens:
        """So far: counted by the server, or estimated."""
        if self.usage.replies:
            return Tokens(self.usage.read, self.usage.written)
        return Tokens(self.read / CHARACTERS, self.written / CHARACTERS)

    def ahead(self, questions: int) -> Tokens:
        """Of so many more questions like those asked."""
        so_far, times = self.tokens(), questions / (self.usage.replies or max(self.asked, 1))
        return Tokens(so_far.read * times, so_far.written * times)


@dataclass(frozen=True)
class Plan:
    """What is to be asked.

    Attributes:
        pairs: of answers, each in both orders.
        questions: different ones.
        kept: those of them whose replies are there already.
        tokens: of the others, estimated.
        reply: tokens of a reply, estimated.
    """

    pairs: int
    questions: int
    kept: int
    tokens: Tokens
    reply: float

    @property
    def left(self) -> int:
        """Questions still to be asked."""
        return self.questions - self.kept

    def line(self, price: Price | None) -> str:
        """For people, before anything is asked."""
        first = f"{self.pairs:,} pairs in both orders are {self.questions:,} different questions"
        if not self.left:
            return f"{first}, all of them answered before"
        before = f", {self.kept:,} of them answered before" if self.kept else ""
        return (
            f"{first}{before}; the {self.left:,} to be asked take {self.tokens.told(price)} "
            f"(estimated: {CHARACTERS} characters a token, {self.reply:.0f} tokens a reply)"
        )


def require_affordable(expected: Tokens, price: Price | None, most: float | None) -> None:
    """Refuse what costs more than it may.

    Raises:
        ConfigError: it names the estimate.
    """
    cost = expected.cost(price)
    if cost is not None and most is not None and cost > most:
        raise ConfigError(
            f"the judge's questions take {expected.told(price)}, more than {most:g}",
            "allow more (--judge-max-cost) or compare fewer answers; replies that came are kept",
        )


def spelt(seconds: float) -> str:
    """A time for people: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
