"""What a scorer is: something that rates responses on one objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.models.messages import Prompt

SPECS = "a scorer is a folder, module:function, or judge:MODEL@http://host:port/v1"
PROBE = "Hello there."  # a response that any rule and any judge can rate


class Scorer(ABC):
    """Rates responses on one objective.

    Attributes:
        identity: what the scores depend on, for a job's settings; it holds no secret.
        chunk: responses whose scores are kept together: an error loses fewer than so many.
        trouble: what came in place of the last score that is missing, for people.
        wanted: what should have come.
    """

    identity: Mapping[str, Any]
    chunk = 128
    trouble = ""
    wanted = ""

    @abstractmethod
    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        places: Sequence[str] = (),
        verbatim: Sequence[bool] = (),
    ) -> list[float | None]:
        """Score each response to its prompt, in the scorer's own units and direction.

        Args:
            prompts: one per response.
            responses: texts.
            places: what an error calls each row; `row 1`, `row 2`, … by default.
            verbatim: whether a prompt is raw text cut anywhere; no by default.

        Returns:
            A score per response; None where the scorer gave none that could be read.
        """

    def check(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        places: Sequence[str] = (),
        verbatim: Sequence[bool] = (),
    ) -> None:
        """Refuse what it cannot read, as far as that is known without weights and for nothing."""
        return

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """`check` prompts that are not answered yet, each with a short response."""
        places = [f"prompt {i}" for i in range(1, len(prompts) + 1)]
        self.check(prompts, [PROBE] * len(prompts), places=places)

    def probe(self, prompt: Prompt) -> None:
        """Find out before anything expensive whether it works, where that costs little.

        Args:
            prompt: one of those that will be scored.
        """
        return

    def close(self) -> None:
        """Let go of weights and connections; scoring again takes them up again."""
        return

    def _try_out(self, prompt: Prompt) -> None:
        try:
            self.score([prompt], [PROBE], places=[f"the first prompt, answered {PROBE!r}"])
        finally:
            self.close()
