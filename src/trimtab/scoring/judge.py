"""A judge: a chat model behind an OpenAI-compatible server that rates responses from 1 to 10."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from trimtab.errors import ModelLoadError
from trimtab.models.messages import Prompt
from trimtab.scoring.chat_server import Refused, Stumbled
from trimtab.scoring.judge_server import JudgeServer, Reply, as_text, said, without_thoughts
from trimtab.scoring.scorer import PROBE, Scorer
from trimtab.scoring.template import packaged_template

logger = logging.getLogger(__name__)

LOWEST, HIGHEST = 1, 10
_FIELDS = ("objective", "rubric", "prompt", "response", "lowest", "highest")

_MARKS = r"[*_\[\s]*"  # Markdown that judges put around their numbers
_RATED = re.compile(rf"\brating{_MARKS}[:=]{_MARKS}([^\s*_\]]+(?:\s*/\s*\d+)?)", re.IGNORECASE)
_NUMBER = re.compile(r"(\d{1,2})(?:\s*/\s*10)?[.,;]?")


class Judge(Scorer):
    """An LLM that rates. Its key is what OPENAI_API_KEY holds when it is made.

    Args:
        spec: `judge:MODEL@URL`, with the URL that ends before `/chat/completions`.
        objective: what is rated.
        rubric: what the objective means, a sentence or more.
        pause: seconds before the second attempt; twice as long before each one after it.

    Raises:
        ConfigError: a spec that cannot be read, one with a password or a query in its URL, or a
            key that no header can hold.
    """

    chunk = 16  # replies cost money: few are lost to an error
    wanted = f"a reply has to end with a line `Rating: N`, N from {LOWEST} to {HIGHEST}"

    def __init__(
        self, spec: str, objective: str, rubric: str | None = None, *, pause: float = 1.0
    ) -> None:
        self._server = JudgeServer(spec, f"the judge of {objective!r}", pause=pause)
        self._objective, self._rubric = objective, rubric
        self._template = packaged_template("rating", _FIELDS)
        self.identity = {
            "judge": self._server.model,
            "url": self._server.url,
            "objective": objective,
            "rubric": rubric,
            "question_sha256": self._template.sha256,
        }

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        places: Sequence[str] = (),
        verbatim: Sequence[bool] = (),
    ) -> list[float | None]:
        """Ratings from 1 to 10; None where a reply holds none, or a question is refused.

        Raises:
            ModelLoadError: the server answers nobody: wrong key, model or place, or it is down.
        """
        questions = [self.question(p, r) for p, r in zip(prompts, responses, strict=True)]
        replies = self._server.replies(questions, control=self.question(PROBE, PROBE))
        return [self._rating(reply) for reply in replies]

    def probe(self, prompt: Prompt) -> None:
        """Ask once; any reply will do, but one without a rating is shown.

        Raises:
            ModelLoadError: the server answers nobody, or refuses the question for no fault of its.
        """
        try:
            [reply] = self._server.replies([self.question(prompt, PROBE)])
        finally:
            self.close()
        if isinstance(reply, Stumbled):
            raise reply
        model = self._server.model
        if isinstance(reply, Refused) and not reply.is_about_the_text:
            raise ModelLoadError(
                f"the judge {model} at {self._server.url} refuses a question ({reply})",
                "see that it takes chats of this model",
            )
        if self._rating(reply) is None:
            logger.warning("the judge %s gives no rating at first: %s", model, self.trouble)

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    def question(self, prompt: Prompt, response: str) -> str:
        """What the judge is asked about one response."""
        told = f'What "{self._objective}" means here: {self._rubric}\n' if self._rubric else ""
        return self._template.fill(
            objective=self._objective,
            rubric=told,
            prompt=as_text(prompt),
            response=response,
            lowest=LOWEST,
            highest=HIGHEST,
        )

    def _rating(self, reply: Reply) -> float | None:
        rating = parse_rating(reply) if isinstance(reply, str) else None
        if rating is None:
            self.trouble = said(reply)
        return rating


def parse_rating(reply: str) -> float | None:
    """The rating in a judge's reply: the last `Rating: N`, or a reply that is a number alone.

    None where there is none, or none that is an integer from 1 to 10. Thoughts before the reply do
    not count.
    """
    reply = without_thoughts(reply)
    ratings = _RATED.findall(reply)
    text = ratings[-1] if ratings else reply.strip().strip("*_[] \n")
    number = _NUMBER.fullmatch(text.strip())
    if number is None:
        return None
    rating = int(number[1])
    return float(rating) if LOWEST <= rating <= HIGHEST else None
