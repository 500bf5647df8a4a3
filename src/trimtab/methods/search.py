"""Runs searches: what many prompts ask is answered together, by the engine and reward models."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from trimtab.arms.reward_model import RewardModel
from trimtab.engines.guides import InstructionLike
from trimtab.engines.local.clients import at_once
from trimtab.engines.local.drawing import Drawn
from trimtab.engines.local.engine import LocalEngine, Prompts
from trimtab.engines.local.growing_rewards import GrowingRewards
from trimtab.engines.types import Completion, Request
from trimtab.methods.judges import JUDGES, JudgeLoading, judges_of
from trimtab.methods.protocol import Ask, Draw, Found, Judge, Method, Next, Rate, Search
from trimtab.methods.registry import Chosen, choose
from trimtab.methods.task import EngineTask, Planned
from trimtab.models.messages import text_of
from trimtab.models.origins import Origins
from trimtab.models.types import DType
from trimtab.steering import PreferenceLike


def search(
    engine: LocalEngine,
    method: str | Method,
    *,
    reward_model: str | None = None,
    baseline_reward_model: str | None = None,
    options: Mapping[str, Any] | Sequence[str] = (),
    as_released: bool = False,
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: Collection[str] = (),
    revisions: Mapping[str, str] | None = None,
) -> Searcher:
    """Make an engine answer by a search method.

    Args:
        engine: of `trimtab.load`; its guides steer what is drawn. Where there is no reward model
            they score instead, and the base alone is drawn from (best-of-n, cbs, mcts).
        method: `best-of-n`, `rejection`, `args`, `transfer-q`, `cards`, `vas`,
            `controlled-decoding`, `blockwise-decoding`, `cbs` or `mcts`; or one of these made with
            its options.
        reward_model: folder or hub id of a trajectory or value model, or of any sequence classifier
            with one output. Where its vocabulary is not the base's it reads the answers' text.
        baseline_reward_model: likewise, what the aligned policy was trained for (transfer-q).
        options: the method's, by name.
        as_released: take the authors' code for the defaults where it differs from the paper.
        dtype, device: of reward models.
        trust_remote_code: `reward-model`, `baseline-reward-model`: whose own code may run.
        revisions: of hub ids, by the same names: a branch, tag or commit.

    Raises:
        ConfigError: no such method or option, nothing that scores, or a reward model with several
            outputs.
        MissingFileError, ModelLoadError: a folder that cannot be loaded.
    """
    chosen = choose(method, options, as_released=as_released)
    guides = [arm.name for arm in engine.arms]
    Origins.of([*JUDGES.values()], trust_remote_code, revisions or {})
    judges = judges_of(chosen.method, guides, reward_model, baseline_reward_model, revisions)
    loading = JudgeLoading(judges, dtype, device, trust_remote_code)
    return loaded(engine, chosen, loading)


def loaded(engine: LocalEngine, chosen: Chosen, loading: JudgeLoading) -> Searcher:
    """A method on an engine, with its reward models loaded."""
    judges: dict[Judge, GrowingRewards] = {}
    for name, place in loading.places.items():
        load = partial(
            RewardModel,
            place,
            dtype=loading.dtype,
            device=loading.device,
            trust_remote_code=JUDGES[name] in loading.trusted,
        )
        judges[name] = GrowingRewards(load, engine.base.tokenizer, [*engine.ends])
    return Searcher(engine, chosen, judges)


class Searcher:
    """Answers prompts by a search on an engine.

    Args:
        engine: draws and proposes; its guides steer it, or score where there is no reward model.
        chosen: the method.
        judges: reward models: `reward`, and perhaps `baseline`; none where the guides score.
    """

    def __init__(
        self, engine: LocalEngine, chosen: Chosen, judges: Mapping[Judge, GrowingRewards]
    ) -> None:
        self._engine, self._chosen, self._judges = engine, chosen, judges
        self._by_guides = "reward" not in judges

    def generate(
        self,
        prompts: Prompts,
        *,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        kl_budget: float | None = None,
        gate: float | None = None,
        instructions: Mapping[str, InstructionLike] | None = None,
        batch_size: int = 8,
        **sampling: Any,
    ) -> list[Completion]:
        """Answer all prompts; the arguments are those of `LocalEngine.generate`.

        Sampling options that are not given are the method's own. A completion has the `reward` of
        the search, its `cost`, and its `details`.

        Raises:
            PreferenceError, ConfigError: before anything is decoded.
        """
        requests = self._engine.requests(
            prompts,
            preference=preference,
            strength=strength,
            kl_budget=kl_budget,
            gate=gate,
            instructions=instructions,
            **{**self._chosen.sampling, **sampling},
        )
        return list(self.answers([self.plan(r) for r in requests], batch_size=batch_size))

    def plan(self, request: Request) -> Planned:
        """A request, checked against engine and reward models.

        Raises:
            PreferenceError, ConfigError: it cannot be answered.
        """
        self._chosen.require(request, by_guides=self._by_guides, forward_kl=self._engine.forward_kl)
        under_way = {
            name: judge.open(text_of(request.prompt), request.sampling.max_new_tokens)
            for name, judge in self._judges.items()
        }
        if not self._by_guides:
            steered = self._engine.plan(request)
            return Planned(steered, steered.of_the_base(), under_way)
        plan = self._engine.plan(replace(request, strength=1.0, report=True))  # all guides run
        alone = replace(plan, request=request).of_the_base(guides_run=True)
        return Planned(alone, alone, under_way, plan.weights)

    def answers(self, plans: Sequence[Planned], *, batch_size: int = 8) -> Iterator[Completion]:
        """Answer requests in their order, so many at a time.

        Raises:
            ConfigError: one went wrong.
        """
        waiting, running, most = deque(enumerate(plans)), list[_Running](), at_once(batch_size)
        done: dict[int, Completion] = {}
        try:
            for number in range(len(plans)):
                while number not in done:
                    while waiting and len(running) < most:
                        running.append(self._begun(*waiting.popleft()))
                    self._round(running)
                    for one in [one for one in running if one.found]:
                        running.remove(one)
                        done[one.number] = self._completion(one)
                yield done.pop(number)
        finally:  # an error, or nobody wants the others
            for one in running:
                self._let_go(one)

    def _begun(self, number: int, planned: Planned) -> _Running:
        task = EngineTask(self._engine, planned, by_guides=self._by_guides)
        return _Running(number, task, self._chosen.method.answer(task))

    def _round(self, running: Sequence[_Running]) -> None:
        """Answer what all ask: first the base's part, then the reward models'."""
        drawing = [(one, i, ask) for one in running for i, ask in one.drawing()]
        drawn = self._engine.draw([one.task.plan(ask) for one, _, ask in drawing])
        for (one, i, ask), got in zip(drawing, drawn, strict=True):
            one.take(i, ask, got)
        for name, judge in self._judges.items():
            rating = [(one, i, ask) for one in running for i, ask in one.rating(name)]
            asked = [one.task.asked(name, ask.responses) for one, _, ask in rating]
            for (one, i, _), rewards in zip(rating, judge.rate(asked), strict=True):
                one.replies[i] = rewards
        for one in running:
            one.go_on()

    def _let_go(self, one: _Running) -> None:
        """Forget what reward models have read for a prompt."""
        for name, under_way in one.task.planned.under_way.items():
            self._judges[name].close(under_way)

    def _completion(self, one: _Running) -> Completion:
        assert one.found is not None
        self._let_go(one)
        task, found = one.task, one.found
        plan, ids = task.planned.steered, found.response.ids
        return Completion(
            task.text(ids),
            list(ids),
            "stop" if task.is_over(ids) else "length",
            plan.steering.preference,
            plan.steering.strength,
            seed=plan.sampling.seed or 0,
            reward=found.reward,
            cost=task.cost(),
            details=found.details,
        )


@dataclass
class _Running:
    """A search under way: what it asks, and the replies so far."""

    number: int
    task: EngineTask
    steps: Search
    asks: Sequence[Ask] = ()
    replies: dict[int, Any] = field(default_factory=dict)
    drawn: list[Drawn] = field(default_factory=list)
    found: Found | None = None

    def __post_init__(self) -> None:
        self._send(None)

    def drawing(self) -> list[tuple[int, Draw | Next]]:
        """What it asks of the engine, and the places of that among its asks."""
        return [(i, ask) for i, ask in enumerate(self.asks) if not isinstance(ask, Rate)]

    def rating(self, judge: Judge) -> list[tuple[int, Rate]]:
        """What it asks of a reward model, likewise."""
        asks = enumerate(self.asks)
        return [(i, ask) for i, ask in asks if isinstance(ask, Rate) and ask.judge == judge]

    def take(self, i: int, ask: Draw | Next, drawn: Drawn) -> None:
        """Take what the engine did for an ask."""
        self.replies[i] = self.task.reply(ask, drawn)
        self.drawn.append(drawn)

    def go_on(self) -> None:
        """Send the replies, and take what is asked next."""
        self.task.count(self.drawn)
        self._send([self.replies[i] for i in range(len(self.asks))])

    def _send(self, replies: list[Any] | None) -> None:
        self.replies, self.drawn = {}, []
        try:
            self.asks = self.steps.send(replies)  # type: ignore[arg-type]  # None starts it
        except StopIteration as end:
            self.found, self.asks = end.value, ()
