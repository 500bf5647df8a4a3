"""Options of a judge that is shown two answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.scoring.pairwise import PairwiseJudge


@dataclass(kw_only=True)
class JudgeOptions:
    """A judge that is shown two answers, and says which one is better."""

    judge: str | None = None
    """`MODEL@http://host:port/v1`, an OpenAI-compatible server (its key is read from
    OPENAI_API_KEY) that is shown both answers to a prompt, in both orders, and says which one is
    better. Before it starts, it says how many questions that takes."""

    judge_rubric: str | None = None
    """What counts, for the judge; by default that an answer does what the user asked."""

    judge_template: str | None = None
    """A text file of what the judge is asked, with the fields {prompt}, {answer_1}, {answer_2} and,
    where wanted, {rubric}. It has to demand that the reply end with a line `Better: N`, N being 1,
    2 or tie."""

    judge_cache: str | None = None
    """Folder of the judge's replies: no question is asked twice. `judge` in Trimtab's cache
    (TRIMTAB_CACHE, or ~/.cache/trimtab) by default."""

    judge_price: str | None = None
    """IN,OUT: what a million tokens of questions and of replies cost, such as 2.5,10."""

    judge_max_cost: float | None = None
    """Refuse to ask what would cost more, by the estimate; 0 shows the estimate alone."""

    def judges(self) -> dict[str, PairwiseJudge]:
        """The judge by its model's name; none if there is none.

        Raises:
            TrimtabError: options that cannot work, or that stand without a judge.
        """
        if self.judge is None:
            given = [
                name
                for name, value in vars(self).items()
                if name.startswith("judge_") and value is not None
            ]
            if given:
                option = f"--{given[0].replace('_', '-')}"
                raise ConfigError(f"{option} without --judge", "name the judge, or leave it out")
            return {}
        from trimtab.scoring.judge_costs import parse_price
        from trimtab.scoring.pairwise import PairwiseJudge

        judge = PairwiseJudge(
            self.judge,
            rubric=self.judge_rubric,
            template=Path(self.judge_template) if self.judge_template is not None else None,
            cache=Path(self.judge_cache) if self.judge_cache is not None else None,
            price=None if self.judge_price is None else parse_price(self.judge_price),
            max_cost=self.judge_max_cost,
        )
        return {str(judge.identity["model"]): judge}
