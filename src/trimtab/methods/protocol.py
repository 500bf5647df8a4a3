"""What a search method is: a generator that asks for tokens and rewards, and ends with an answer.

A method's `answer` yields lists of asks and is sent their replies, in order. It knows nothing of
models: whoever runs it (`search.py`) answers the asks of many prompts together. V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from trimtab.bounds import Bound

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Partial:
    """A response so far.

    Attributes:
        ids: its tokens, in the base's ids.
        ended: nothing follows: its turn is over, or it is as long as it may be.
        reward: nats; the sum of the guides' rewards of its tokens, weighted by the preference.
    """

    ids: tuple[int, ...] = ()
    ended: bool = False
    reward: float = 0.0


EMPTY = Partial()


@dataclass(frozen=True)
class Draw:
    """Ask for a continuation; the reply is a longer `Partial`.

    Attributes:
        after: what it continues.
        tokens: it has at most; None for as many as the response may.
        number: of the sample: other numbers have other random numbers, and the same number the same
            ones for the same place.
        entropy: nats; it ends before a token whose distribution has so much or more.
        least: tokens that it has before it may end so.
        greedy: take the likeliest token instead of drawing.
        steered: by the engine's guides; else the base alone goes on.
    """

    after: Partial = EMPTY
    tokens: int | None = None
    number: int = 0
    entropy: float = float("inf")
    least: int = 1
    greedy: bool = False
    steered: bool = True


@dataclass(frozen=True)
class Next:
    """Ask what may come next; the reply is `Successors`.

    Attributes:
        after: which response.
        steered: by the engine's guides; else the base alone says.
    """

    after: Partial = EMPTY
    steered: bool = True


@dataclass(frozen=True)
class Successors:
    """What may come next.

    Attributes:
        logp_V: its log-probs, before temperature and filters.
        reward_V: what the guides give each token, weighted by the preference; None without guides
            that score.
    """

    logp_V: Tensor
    reward_V: Tensor | None = None

    def best(self, count: int) -> list[tuple[int, float]]:
        """The likeliest tokens and their log-probs, best first; none that cannot come."""
        top = self.logp_V.topk(min(count, len(self.logp_V)))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [(token, logp) for token, logp in pairs if logp > float("-inf")]


Judge = Literal["reward", "baseline"]


@dataclass(frozen=True)
class Rate:
    """Ask a reward model for the rewards of responses; the reply is a list of them.

    Attributes:
        responses: to the prompt; one that has not ended is read as far as it goes.
        judge: `reward`, or `baseline`, a second one.
    """

    responses: Sequence[Partial]
    judge: Judge = "reward"


Ask = Draw | Next | Rate
T = TypeVar("T")
Steps = Generator[Sequence[Ask], list[Any], T]
"""What asks, is sent replies, and ends with something."""
Search = Steps["Found"]


@dataclass(frozen=True)
class Found:
    """The answer of a search.

    Attributes:
        response: the answer.
        reward: what the search thinks of it; None where it does not ask.
        details: what else a reader of the answer may want to know, as JSON can hold it.
    """

    response: Partial
    reward: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """One prompt to be answered.

    Attributes:
        most: tokens that the answer may have.
        by_guides: whether the engine's guides score responses, rather than a reward model.
        baseline: whether there is a second reward model.
    """

    most: int
    by_guides: bool
    baseline: bool

    @abstractmethod
    def then(self, partial: Partial, token: int, reward: float = 0.0) -> Partial:
        """A response with one token more, whose reward under the guides is given."""

    @abstractmethod
    def pick(self, scores: Tensor | Sequence[float], partial: Partial) -> int:
        """Which of some things comes after a response, by their log-weights: with the request's
        temperature (0 takes the best), filters and random number of that place."""

    @abstractmethod
    def chance(self, number: int) -> float:
        """A random number in [0, 1), the same for the same request and number; no token of a
        `Draw` or a `pick` depends on it."""


COUNT = Bound(Integral, 1, 2**20, "a whole number, 1 to 1048576")
NUMBER = Bound(Real, -1e6, 1e6, "a number from -1000000 to 1000000")
WIDTH = Bound(Real, 0, 1e6, "from 0 to 1000000")
POSITIVE = Bound(Real, 1e-6, 1e6, "0.000001 to 1000000")
NATURAL = Bound(Integral, 0, 2**20, "a whole number, 0 to 1048576")
SHARE = Bound(Real, 0, 1, "in [0, 1]")


def option(default: Any, bound: Bound) -> Any:
    """A method's option."""
    return field(default=default, metadata={"bound": bound})


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A search method; its fields are its options.

    Raises:
        ConfigError: an option out of bounds.

    Attributes:
        name: as users write it.
        defaults: sampling options as the paper has them, where a request says nothing.
        released: options as the authors' code has them, where that differs from the paper; also
            those of `Sampling`.
        guides_score: whether an engine's guides can take the place of the reward model.
        takes_baseline: whether a second reward model has a part in it.
    """

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {}
    released: ClassVar[Mapping[str, Any]] = {}
    guides_score: ClassVar[bool] = False
    takes_baseline: ClassVar[bool] = False

    @abstractmethod
    def answer(self, task: Task) -> Search:
        """Search for an answer."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is not None:
                option.metadata["bound"].require(f"{self.name}'s {option.name}", value)

    @classmethod
    def option_names(cls) -> list[str]:
        """Its options."""
        return [option.name for option in fields(cls)]


def rated(task: Task, responses: Sequence[Partial], judge: Judge = "reward") -> Steps[list[float]]:
    """The rewards of responses, from whoever scores."""
    if not responses:
        return []
    if task.by_guides:
        return [response.reward for response in responses]
    [rewards] = yield [Rate(responses, judge)]
    return list(rewards)


def children(
    task: Task, partial: Partial, successors: Successors, count: int
) -> list[tuple[Partial, float]]:
    """A response with each of the likeliest next tokens, and their log-probs."""
    gains = successors.reward_V
    return [
        (task.then(partial, token, 0.0 if gains is None else float(gains[token])), logp)
        for token, logp in successors.best(count)
    ]
