"""Requests checked against an engine, and tokenised for the streams that they use."""

from __future__ import annotations

import bisect
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from trimtab.engines.forms import Forms
from trimtab.engines.guides import Instruction, own_instructions, require_distinct
from trimtab.engines.local.packed_rows import row_bytes
from trimtab.engines.local.rows import RowPlan, Watch
from trimtab.engines.local.speculating import Speculation
from trimtab.engines.local.streams import Group, Stream, require_ids
from trimtab.engines.policies import require_share
from trimtab.engines.restraints import Restraint
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ConfigError


class Planner:
    """Makes plans of requests, or refuses them.

    Args:
        base: the frozen model.
        arms: in the order of the weights; the engine's own list, in which they may be replaced.
        drafter: runs for requests that speculate.
        groups: of all of them.
        speculation: of the engine.
        max_length: tokens that a request may have; None for the models' own limit.
        cache_memory: bytes for keys and values; None for no limit known beforehand.
        forms: what a response may have to be like.
    """

    def __init__(
        self,
        base: Stream,
        arms: Sequence[Stream],
        drafter: Stream | None,
        groups: Sequence[Group],
        speculation: Speculation,
        *,
        max_length: int | None,
        cache_memory: int | None,
        forms: Forms,
    ) -> None:
        self._forms = forms
        self._base, self._arms, self._drafter = base, arms, drafter
        self._groups, self._speculation = groups, speculation
        self._max_length, self._cache_memory = max_length, cache_memory
        self._contexts = {name: group.context for group in groups for name in group.index}
        self._objectives = [objective for arm in arms for objective in arm.objectives]

    def plan(
        self, request: Request, given: Sequence[int] = (), *, rewards: bool = False
    ) -> RowPlan:
        """One answer, checked and tokenised.

        Args:
            request: what is asked.
            given: the answer, where nothing is drawn (`RowPlan.given`).
            rewards: of a given answer, what every guide says of it, also one without a weight.

        Raises:
            PreferenceError, ConfigError: the request cannot be answered.
        """
        steering = request.steering(self._objectives)
        places = [arm.name for arm in self._arms if arm.policy or arm.amateur]
        require_share(steering.strength, places)
        arms = under_own_instructions(self._arms, request)
        shares = [steering.share(arm.objectives, arm.scale) for arm in arms]
        sampling = seeded(request.sampling)
        restraint = self._restraint(sampling)
        drafts = None if restraint else self._speculation.of_row(request.speculate)
        every = request.report or rewards
        used = [arm for arm, (weight, _) in zip(arms, shares, strict=True) if weight or every]
        drafting = [self._drafter] if self._drafter and drafts is not None else []
        references = [reference for arm in used if (reference := arm.named_reference())]
        streams = [self._base, *used, *references, *drafting]
        prompts = {stream.name: stream.prompt_ids(request.prompt) for stream in streams}
        for name, ids in prompts.items():
            if given:
                self._require_given_room(name, len(ids), len(given))
            else:
                self._require_room(name, len(ids), sampling.max_new_tokens)
        conditions = {arm.name: inner for arm, (_, inner) in zip(arms, shares, strict=True)}
        weights = [weight for weight, _ in shares]
        plan = RowPlan(
            request, steering, sampling, weights, prompts, conditions, restraint=restraint
        )
        self._require_memory(plan)
        return replace(plan, given=given, watch=Watch(rewards=rewards)) if given else plan

    def plans(self, request: Request) -> list[RowPlan]:
        """All answers of a request: they differ in their seeds alone.

        Raises:
            PreferenceError, ConfigError: the request cannot be answered.
        """
        first, *others = request.samples()
        plan = self.plan(first)
        return [plan, *(replace(plan, request=o, sampling=seeded(o.sampling)) for o in others)]

    def room(self, request: Request) -> int:
        """Tokens that an answer may have at most, 1 or more: by the models' limits, `max_length`
        and the cache's budget.

        Raises:
            PreferenceError, ConfigError: the request cannot be answered, however short.
        """
        short = replace(request, sampling=request.sampling.but(max_new_tokens=1), n=1)
        prompts = self.plan(short).prompts
        limits = [
            limit - len(ids)
            for name, ids in prompts.items()
            for limit in (self._contexts[name], self._max_length)
            if limit is not None
        ]
        most = min(limits, default=2**31 - 1)
        if self._cache_memory is None:
            return most
        size = partial(self._cache_bytes, prompts)
        return bisect.bisect_right(range(1, most + 1), self._cache_memory, key=size)

    def plan_given(
        self, request: Request, response: str | Sequence[int], *, end: bool, rewards: bool
    ) -> RowPlan:
        """A response that is there already, checked and tokenised; `end`: with its end of turn.

        How tokens are drawn has no say, nor have `n`, `report` and `speculate`.

        Raises:
            PreferenceError, ConfigError: it cannot be read.
        """
        if isinstance(response, str):
            ids = self._base.response_ids(request.prompt, response, end_of_turn=end)
        elif end:
            raise ConfigError(
                "a response of token ids is as it stands", "put the end of turn there"
            )
        else:
            ids = list(response)
        require_ids(ids, self._base.vocabulary.size)
        sampling = Sampling(max_new_tokens=max(len(ids), 1), temperature=0, ignore_eos=True)
        plain = replace(request, sampling=sampling, n=1, report=False, speculate="off")
        return self.plan(plain, ids, rewards=rewards)

    def _restraint(self, sampling: Sampling) -> Restraint | None:
        if not sampling.restrained:
            return None
        require_ids([*sampling.logit_bias], self._base.vocabulary.size)
        return Restraint(sampling, self._forms.of(sampling.response_format))

    def _require_memory(self, plan: RowPlan) -> None:
        """Refuse a request whose keys and values alone are more than the cache's budget."""
        size = self._cache_bytes(plan.prompts, plan.sampling.max_new_tokens)
        if self._cache_memory is not None and size > self._cache_memory:
            raise ConfigError(
                f"the request can come to {plan.length} tokens, whose keys and values take "
                f"{size / 1e6:.1f} MB, but the cache has {self._cache_memory / 1e6:.1f} MB",
                "lower --max-new-tokens, or raise --cache-memory",
            )

    def _cache_bytes(self, prompts: Mapping[str, Sequence[int]], response: int) -> int:
        """What the keys and values of a request take that comes to so many tokens of response."""
        return sum(
            row_bytes(group, len(prompts[name]) + response)
            for group in self._groups
            for name in _first_names(group, prompts)
        )

    def _require_room(self, name: str, prompt: int, response: int) -> None:
        limits = {"the model reads": self._contexts[name], "max_length is": self._max_length}
        for what, limit in limits.items():
            if limit is None or prompt + response <= limit:
                continue
            raise ConfigError(
                f"the prompt has {prompt} tokens for {name} and max_new_tokens is "
                f"{response}, but {what} {limit}",
                "shorten the prompt or lower --max-new-tokens; nothing is cut in silence",
            )

    def _require_given_room(self, name: str, prompt: int, response: int) -> None:
        """The last token of a given response is not read: nothing is asked after it."""
        limits = {"the model reads": self._contexts[name], "max_length is": self._max_length}
        for what, limit in limits.items():
            if limit is not None and prompt + response - 1 > limit:
                raise ConfigError(
                    f"for {name} the prompt has {prompt} tokens and the response {response}, "
                    f"but {what} {limit}",
                    "shorten either; nothing is cut in silence",
                )


def seeded(sampling: Sampling) -> Sampling:
    """With a seed, which is drawn where it has none; one that JavaScript can hold."""
    return sampling if sampling.seed is not None else sampling.but(seed=secrets.randbits(53))


def _first_names(group: Group, names: Collection[str]) -> list[str]:
    """Of the names that run in a group, one for each of its streams."""
    return list({i: name for name, i in group.index.items() if name in names}.values())


def under_own_instructions(arms: Sequence[Stream], request: Request) -> list[Stream]:
    """An engine's guides as one request has them.

    An instruction is no more than another beginning of the prompt, and so a request's own affair.

    Raises:
        ConfigError: the request has one that is none of the engine's, or that cannot be read.
    """
    known = {arm.name: Instruction(arm.instruction, arm.scale) for arm in arms if arm.instruction}
    own = own_instructions(known, request.instructions)
    return [arm.under(own[arm.name]) if arm.name in own else arm for arm in arms]


def require_names(arms: Sequence[Stream]) -> None:
    """Refuse guides that could not be told apart."""
    require_distinct(arm.name for arm in arms)
    objectives = [objective for arm in arms for objective in arm.objectives]
    if len(set(objectives)) < len(objectives):
        raise ConfigError(
            f"two guides share an objective (all: {', '.join(objectives)})",
            "steer each objective by one guide",
        )
