"""One prompt that a method answers: what it asks as work for the engine, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.drawing import Drawn
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.growing_rewards import Response, UnderWay
from trimtab.engines.local.rows import RowPlan, Watch
from trimtab.engines.sampling import nth_seed
from trimtab.engines.text import first_stop
from trimtab.engines.types import Cost
from trimtab.methods.protocol import Draw, Judge, Next, Partial, Successors, Task

CHANCES = 2**40
"""A sample that nobody draws: its random numbers are for other choices."""


@dataclass(frozen=True)
class Planned:
    """A request, checked and tokenised.

    Attributes:
        steered: continued by the guides; by the base alone where these score.
        plain: continued by the base alone.
        under_way: what each reward model has read of it.
        gains: what a nat of each guide's reward counts, where the guides score.
    """

    steered: RowPlan
    plain: RowPlan
    under_way: Mapping[Judge, UnderWay]
    gains: Sequence[float] = ()


class EngineTask(Task):
    """One prompt, on an engine with reward models.

    Args:
        engine: draws and proposes.
        planned: the request.
        by_guides: whether the engine's guides score.

    Attributes:
        planned: as given.
    """

    def __init__(
        self,
        engine: LocalEngine,
        planned: Planned,
        *,
        by_guides: bool,
    ) -> None:
        self.planned, self._sampling = planned, planned.steered.sampling
        self._engine = engine
        self.most, self.by_guides = self._sampling.max_new_tokens, by_guides
        self.baseline = "baseline" in planned.under_way
        self._base_tokens = self._guide_tokens = self._passes = 0

    # --- what a method may do --------------------------------------------------------------------

    def then(self, partial: Partial, token: int, reward: float = 0.0) -> Partial:
        """As `Task.then`."""
        ids = (*partial.ids, token)
        over = len(ids) >= self.most or self.is_over(ids)
        return Partial(ids, over, partial.reward + reward)

    def pick(self, scores: Tensor | Sequence[float], partial: Partial) -> int:
        """As `Task.pick`."""
        s = self._sampling
        logp = torch.as_tensor(scores, dtype=torch.float32)[None].log_softmax(-1)
        temperature, top_p, min_p = (
            torch.tensor([float(x)], device=logp.device) for x in (s.temperature, s.top_p, s.min_p)
        )
        top_k = torch.tensor([s.top_k], device=logp.device)
        shaped = fusion.shape(logp, temperature, top_k, top_p, min_p)
        uniform = torch.tensor([fusion.uniform(s.seed or 0, len(partial.ids))], dtype=torch.float64)
        return int(fusion.choose(shaped, temperature, uniform.to(logp.device)))

    def chance(self, number: int) -> float:
        """As `Task.chance`."""
        return fusion.uniform(nth_seed(self._sampling.seed or 0, CHANCES), number)

    # --- what is asked and answered --------------------------------------------------------------

    def plan(self, ask: Draw | Next) -> RowPlan:
        """What the engine does for an ask."""
        plan = self.planned.steered if ask.steered else self.planned.plain
        ids, sampling = ask.after.ids, self._sampling
        if isinstance(ask, Next):
            watch = Watch(entropy=0.0)
            return replace(plan, begun=ids, sampling=sampling.but(max_new_tokens=1), watch=watch)
        left = self.most - len(ids)
        sampling = sampling.but(
            max_new_tokens=min(ask.tokens or left, left),
            seed=nth_seed(sampling.seed or 0, ask.number),
            temperature=0.0 if ask.greedy else sampling.temperature,
        )
        watch = Watch(self.by_guides, ask.entropy, ask.least)
        return replace(plan, begun=ids, sampling=sampling, watch=watch)

    def reply(self, ask: Draw | Next, drawn: Drawn) -> Partial | Successors:
        """What a method gets for what was drawn."""
        if isinstance(ask, Next):
            assert drawn.logp_V is not None
            gains_V = self._gains(drawn.rewards_KV) if self.by_guides else None
            return Successors(drawn.logp_V, gains_V)
        before, ids = len(ask.after.ids), (*ask.after.ids, *drawn.ids)
        over, rewards_TK = drawn.ended or len(ids) >= self.most, drawn.rewards_TK
        if self._sampling.stop:
            for end in range(before + 1, len(ids) + 1):
                if self._stop_at(ids[:end]) >= 0:
                    ids, over, rewards_TK = ids[:end], True, rewards_TK[: end - before]
                    break
        reward = sum(
            w * r for each in rewards_TK for w, r in zip(self.planned.gains, each, strict=True) if w
        )
        return Partial(ids, over, ask.after.reward + reward)

    def _gains(self, rewards_KV: Tensor | None) -> Tensor | None:
        terms = zip(self.planned.gains, rewards_KV if rewards_KV is not None else (), strict=True)
        return sum((w * reward_V for w, reward_V in terms if w), start=torch.zeros(()))

    def asked(self, name: Judge, responses: Sequence[Partial]) -> tuple[UnderWay, list[Response]]:
        """Responses, as a reward model takes them."""
        return self.planned.under_way[name], [
            Response(one.ids, one.ended, self._text_of(one.ids)) for one in responses
        ]

    def _text_of(self, ids: Sequence[int]) -> Callable[[], str]:
        return lambda: self.text(ids)

    # --- text and cost ---------------------------------------------------------------------------

    def is_over(self, ids: Sequence[int]) -> bool:
        """Whether the turn ends with these tokens, or a stop text does."""
        if ids and ids[-1] in self._engine.ends and not self._sampling.ignore_eos:
            return True
        return bool(self._sampling.stop) and self._stop_at(ids) >= 0

    def text(self, ids: Sequence[int]) -> str:
        """Of a response, without the end of its turn and without a stop text."""
        text, stop = self._decoded(ids), self._stop_at(ids)
        return text if stop < 0 else text[:stop]

    def _decoded(self, ids: Sequence[int]) -> str:
        over = ids and ids[-1] in self._engine.ends and not self._sampling.ignore_eos
        kept = ids[:-1] if over else ids
        text: str = self._engine.base.tokenizer.decode(list(kept), skip_special_tokens=True)
        return text

    def _stop_at(self, ids: Sequence[int]) -> int:
        if not self._sampling.stop:
            return -1
        return first_stop(self._decoded(ids), self._sampling.stop)

    def count(self, drawn: Sequence[Drawn]) -> None:
        """Note what a round took: its passes are those of the longest of what ran together."""
        self._base_tokens += sum(one.base_tokens for one in drawn)
        self._guide_tokens += sum(one.other_tokens for one in drawn)
        self._passes += max((one.passes for one in drawn), default=0)

    def cost(self) -> Cost:
        """Of the search."""
        rated = self.planned.under_way.values()
        return Cost(
            self._base_tokens,
            self._guide_tokens,
            sum(one.tokens for one in rated),
            self._passes,
            sum(one.passes for one in rated),
        )
