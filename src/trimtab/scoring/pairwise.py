"""A judge that is shown two answers to a prompt, in both orders, and says which one is better.

In both orders because judges prefer a place: Zheng et al. 2023 (arXiv 2306.05685), section 3.3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, ModelLoadError
from trimtab.jobs import Progress, Say, going_on, unseen
from trimtab.models.messages import Prompt
from trimtab.scoring.chat_server import OPTIONS
from trimtab.scoring.duels import WANTED, Duel, Verdict, parse_choice
from trimtab.scoring.judge_costs import (
    CHARACTERS,
    REPLY,
    Meter,
    Plan,
    Price,
    Tokens,
    require_affordable,
)
from trimtab.scoring.judge_server import JudgeServer, Reply, as_text
from trimtab.scoring.judging import Judging, Run
from trimtab.scoring.reply_cache import ReplyCache
from trimtab.scoring.scorer import PROBE
from trimtab.scoring.template import Template, packaged_template, read_template

logger = logging.getLogger(__name__)

RUBRIC = "how well an answer does what the user asked: that it is helpful, right, clear and decent"
NEEDED, OPTIONAL = ("prompt", "answer_1", "answer_2"), ("rubric",)
Orders = Sequence[tuple[str, str]]
"""The two questions of each duel: A's answer first, B's first."""

_FIRST, _GROUP = 16, 64  # questions at once: the first few show what the others will take


class PairwiseJudge:
    """An LLM that compares. Its key is what OPENAI_API_KEY holds when it is made.

    Args:
        spec: `MODEL@URL` or `judge:MODEL@URL`, with the URL that ends before `/chat/completions`.
        rubric: what counts; `RUBRIC` by default.
        template: a text file of what is asked, with the fields `NEEDED` and, where wanted,
            `OPTIONAL`, that demands a last line `Better: N`; Trimtab's own by default.
        cache: folder of replies; `judge` in Trimtab's cache by default.
        price: of a million tokens.
        max_cost: refuse to ask what costs more, by the estimate, in the price's currency.
        pause: seconds before the second attempt; twice as long before each one after it.

    Attributes:
        identity: what its verdicts depend on; it holds no secret.

    Raises:
        ConfigError: a spec that cannot be read, a template without its fields, a limit without a
            price.
        MissingFileError: no such template.
        OutputError: the cache is a file.
    """

    def __init__(
        self,
        spec: str,
        *,
        rubric: str | None = None,
        template: Path | None = None,
        cache: Path | None = None,
        price: Price | None = None,
        max_cost: float | None = None,
        pause: float = 1.0,
    ) -> None:
        self._server = JudgeServer(spec, "the judge of pairs", pause=pause)
        self._template = _template(template)
        if rubric and "rubric" not in self._template.fields:
            raise ConfigError(
                f"a rubric, and the template {template} has no place for it",
                "put {rubric} into it, or leave the rubric out",
            )
        _require_limit(max_cost, price)
        self._rubric, self._price, self._max_cost = rubric or RUBRIC, price, max_cost
        asked = {"model": self._server.model, "url": self._server.url}
        self._cache = ReplyCache(cache, {**asked, "options": OPTIONS})
        self.identity: Mapping[str, Any] = {
            **asked,
            "rubric": self._rubric,
            "template_sha256": self._template.sha256,
        }

    def question(self, prompt: Prompt, first: str, second: str) -> str:
        """What the judge is asked about two answers, in this order."""
        return self._template.fill(
            prompt=as_text(prompt), answer_1=first, answer_2=second, rubric=self._rubric
        )

    def plan(self, duels: Sequence[Duel]) -> Plan:
        """What is to be asked; nothing is asked.

        Raises:
            ConfigError: it would cost more than it may.
        """
        return self._plan(self._orders(duels))[0]

    def verdicts(
        self, duels: Sequence[Duel], *, progress: Progress = unseen, say: Say = logger.warning
    ) -> Judging:
        """Who wins each duel. Replies are kept as they come: the same call goes on after an error.

        Args:
            duels: what is judged. Questions that are the same are asked once.
            progress: is told (what, done, total).
            say: is told what will be asked, how long it takes, and what did not come.

        Raises:
            ConfigError: it costs more than it may.
            ModelLoadError: the server answers nobody: wrong key, model or place, or it is down.
            DataError: no reply that names an answer.
        """
        orders = self._orders(duels)
        plan, choices = self._plan(orders)
        say(f"the judge {self._server.model}: {plan.line(self._price)}")
        run = Run(plan, choices, Meter(), progress, say)
        left = [question for question in _different(orders) if question not in choices]
        if left:
            with going_on():
                self._ask(left, run)
            say(f"asked {run.meter.asked:,} questions: {run.meter.tokens().told(self._price)}")
        judging = run.judging([_verdict(choices, *both) for both in orders], self._price)
        for line in judging.lines():
            say(line)
        return judging

    def _orders(self, duels: Sequence[Duel]) -> Orders:
        return [
            (self.question(duel.prompt, duel.a, duel.b), self.question(duel.prompt, duel.b, duel.a))
            for duel in duels
        ]

    def _plan(self, orders: Orders) -> tuple[Plan, dict[str, float]]:
        """What is to be asked, and the choices that are known."""
        questions, choices, written = _different(orders), dict[str, float](), 0
        for question in questions:
            reply = self._cache.get(question)
            choice = parse_choice(reply) if reply else None
            if reply and choice is not None:
                choices[question] = choice
                written += len(reply)
        reply_tokens = written / CHARACTERS / len(choices) if choices else REPLY
        left = [question for question in questions if question not in choices]
        read = sum(map(len, left)) / CHARACTERS
        tokens = Tokens(read, reply_tokens * len(left))
        require_affordable(tokens, self._price, self._max_cost)
        return Plan(len(orders), len(questions), len(choices), tokens, reply_tokens), choices

    def _ask(self, left: Sequence[str], run: Run) -> None:
        """Ask the questions and keep what can be read, reply by reply."""

        def heard(question: str, reply: Reply) -> None:
            if run.hear(question, reply):
                self._cache.put(question, str(reply))

        self._cache.open()
        self._server.usage, begun = run.meter.usage, time.monotonic()
        control = self.question(PROBE, PROBE, PROBE)
        try:
            for start in (0, *range(_FIRST, len(left), _GROUP)):
                group = left[start : start + (_GROUP if start else _FIRST)]
                self._server.replies(group, control=control, heard=heard)
                run.require_hope()
                if run.meter.asked == len(left):
                    break
                ahead = run.meter.ahead(len(left) - run.meter.asked)
                if not start:
                    run.tell_ahead(ahead, time.monotonic() - begun, self._price)
                require_affordable(run.meter.tokens() + ahead, self._price, self._max_cost)
        except ModelLoadError:
            run.say(run.kept_line())
            raise
        finally:
            self._server.close()


def _require_limit(max_cost: float | None, price: Price | None) -> None:
    if max_cost is not None and not max_cost >= 0:
        raise ConfigError(f"--judge-max-cost is {max_cost}", "it must be 0 or more")
    if max_cost is not None and price is None:
        raise ConfigError("--judge-max-cost without --judge-price", "give both")


def _template(path: Path | None) -> Template:
    if path is None:
        return packaged_template("pairwise", NEEDED, OPTIONAL)
    template = read_template(path, NEEDED, OPTIONAL)
    if "better:" not in template.text.lower():
        raise ConfigError(f"the template {path} demands no line `Better: N`", WANTED)
    return template


def _different(orders: Orders) -> list[str]:
    return list(dict.fromkeys(question for both in orders for question in both))


def _verdict(choices: Mapping[str, float], a_first: str, b_first: str) -> Verdict | None:
    if a_first not in choices or b_first not in choices:
        return None
    return Verdict(choices[a_first], 1 - choices[b_first])
