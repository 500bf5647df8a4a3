"""A run of a judge of pairs: what it has heard, what is still to come, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trimtab.errors import DataError
from trimtab.jobs import Progress, Say
from trimtab.scoring.duels import WANTED, Verdict, parse_choice
from trimtab.scoring.judge_costs import Meter, Plan, Price, Tokens, spelt
from trimtab.scoring.judge_server import Reply, said
from trimtab.scoring.score_files import HOPELESS


@dataclass(frozen=True)
class Judging:
    """What came of asking; the reply, or the reason for none, that is shown is the last one.

    Attributes:
        verdicts: one for each duel, in their order; None where a reply of one order is missing.
        questions: different ones.
        asked: those of them that were asked now; the others' replies were there.
        unread: replies that name neither answer nor a tie.
        unanswered: questions that got no reply: refused, or the server failed on them each time.
        unread_such_as: such a reply; "" where there is none.
        unanswered_such_as: such a reason; "" where there is none.
        tokens: of what was asked now.
        counted: by the server; otherwise from characters.
        cost: of that; None without a price.
    """

    verdicts: list[Verdict | None]
    questions: int
    asked: int
    unread: int
    unanswered: int
    unread_such_as: str
    unanswered_such_as: str
    tokens: Tokens
    counted: bool
    cost: float | None

    def facts(self) -> dict[str, Any]:
        """All but the verdicts, for JSON."""
        return {
            "questions": self.questions,
            "unread": self.unread,
            "unread_such_as": self.unread_such_as,
            "unanswered": self.unanswered,
            "unanswered_such_as": self.unanswered_such_as,
            "this_run": {
                "asked": self.asked,
                "tokens_read": round(self.tokens.read),
                "tokens_written": round(self.tokens.written),
                "counted_by_the_server": self.counted,
                "cost": self.cost,
            },
        }

    def lines(self) -> list[str]:
        """What people should know of replies that are missing; nothing where none is."""
        whys = []
        if self.unread:
            whys.append(f"{self.unread} got a reply without a verdict ({self.unread_such_as})")
        if self.unanswered:
            whys.append(f"{self.unanswered} got no reply ({self.unanswered_such_as})")
        if not whys:
            return []
        lost = self.verdicts.count(None)
        return [
            f"of the judge's {self.questions} questions {' and '.join(whys)}: {lost} of "
            f"{len(self.verdicts)} pairs have no verdict; the same command asks for them again"
        ]


@dataclass
class Run:
    """Questions that are being asked.

    Attributes:
        plan: of all of them.
        choices: question -> what its reply prefers, as far as it is known.
        meter: of those asked now.
        progress, say: are told how far it is.
        unread, unanswered: replies that hold no choice, reasons why there is no reply.
    """

    plan: Plan
    choices: dict[str, float]
    meter: Meter
    progress: Progress
    say: Say
    unread: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)

    def hear(self, question: str, reply: Reply) -> bool:
        """Take a reply in; returns whether it holds a choice."""
        self.meter.add(question, reply)
        self.progress("judging", self.plan.kept + self.meter.asked, self.plan.questions)
        choice = parse_choice(reply) if isinstance(reply, str) else None
        if choice is None:
            (self.unread if isinstance(reply, str) else self.unanswered).append(said(reply))
            return False
        self.choices[question] = choice
        return True

    def require_hope(self) -> None:
        """Refuse to go on, or to end, without one choice.

        Raises:
            DataError: it shows what came instead.
        """
        if self.choices or self.meter.asked < min(self.plan.questions, HOPELESS):
            return
        such = (self.unread or self.unanswered)[-1]
        raise DataError(
            f"none of {self.meter.asked} questions got a verdict (instead came {such})",
            f"{WANTED}; the same command asks for them again",
        )

    def tell_ahead(self, ahead: Tokens, seconds: float, price: Price | None) -> None:
        """Say what the questions after the first few will take."""
        left = self.plan.left - self.meter.asked
        time_left = spelt(seconds * left / self.meter.asked)
        self.say(f"the other {left:,} questions take about {time_left}, {ahead.told(price)}")

    def kept_line(self) -> str:
        """What an error does not lose."""
        known, all_of_them = len(self.choices), self.plan.questions
        return (
            f"{known:,} of {all_of_them:,} replies are kept: the same command asks for the other "
            f"{all_of_them - known:,}"
        )

    def judging(self, verdicts: list[Verdict | None], price: Price | None) -> Judging:
        """The result."""
        tokens = self.meter.tokens()
        return Judging(
            verdicts=verdicts,
            questions=self.plan.questions,
            asked=self.meter.asked,
            unread=len(self.unread),
            unanswered=len(self.unanswered),
            unread_such_as=self.unread[-1] if self.unread else "",
            unanswered_such_as=self.unanswered[-1] if self.unanswered else "",
            tokens=tokens,
            counted=bool(self.meter.usage.replies),
            cost=tokens.cost(price),
        )
