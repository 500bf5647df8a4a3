"""Two answers to a prompt, and what a judge that was shown both, in both orders, says of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trimtab.models.messages import Prompt
from trimtab.scoring.judge_server import without_thoughts

WANTED = "a reply has to end with a line `Better: N`, N being 1, 2 or tie"
_MARKS = r"*_`#>\[\]\s"  # Markdown that judges put around their verdicts
_BETTER = re.compile(rf"^[-{_MARKS}]*better[*_`\s]*[:=]([^\n]*)", re.IGNORECASE | re.MULTILINE)
_CHOICE = re.compile(
    rf"[{_MARKS}]*(?:(?:answer|response)\s+)?(1|2|tie)[{_MARKS}.,;!]*", re.IGNORECASE
)
_CHOICES = {"1": 1.0, "tie": 0.5, "2": 0.0}


@dataclass(frozen=True)
class Duel:
    """Two answers to one prompt, A's and B's."""

    prompt: Prompt
    a: str
    b: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a duel: 1 where A's answer is better, 0 where B's is, ½ for a tie.

    Attributes:
        a_first: when A's answer was shown first.
        b_first: when B's was.
    """

    a_first: float
    b_first: float

    @property
    def score(self) -> float:
        """The mean of both orders: 1, ¾, ½, ¼ or 0. A wins above ½ and loses below."""
        return (self.a_first + self.b_first) / 2

    @property
    def agree(self) -> bool:
        """Whether both orders say the same."""
        return self.a_first == self.b_first

    @property
    def first_shown(self) -> float:
        """How often, of the two times, the answer shown first was preferred; a tie is a half."""
        return (self.a_first + 1 - self.b_first) / 2


def parse_choice(reply: str) -> float | None:
    """Which answer a judge's reply prefers: 1 for the first shown, 0 for the second, ½ for a tie.

    The last line `Better: N` counts, or a reply that is N alone; N is 1, 2 or tie. None where there
    is none, or more is said on that line. Thoughts before the reply do not count.
    """
    reply = without_thoughts(reply)
    lines = _BETTER.findall(reply)
    choice = _CHOICE.fullmatch(lines[-1] if lines else reply)
    return _CHOICES[choice[1].lower()] if choice else None
