"""`LocalEngine`: requests in, completions out."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from trimtab.engines.forms import Forms
from trimtab.engines.guides import InstructionLike
from trimtab.engines.local.clients import (
    AsyncEventStream,
    EventStream,
    at_once,
    draw_all,
    drawn_by,
    in_order,
    read_events,
)
from trimtab.engines.local.drawing import Drawn
from trimtab.engines.local.guided_model import GuidedModel, open_caches
from trimtab.engines.local.likelihoods import given_responses, likelihoods
from trimtab.engines.local.planning import Planner, require_names
from trimtab.engines.local.rows import RowPlan
from trimtab.engines.local.scheduler import Scheduler
from trimtab.engines.local.shelves import CacheMemory
from trimtab.engines.local.speculating import Speculation, own_drafter
from trimtab.engines.local.streams import Stream, group_streams
from trimtab.engines.local.worker import Worker
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Completion, Event, Likelihood, Request, Speculate
from trimtab.errors import ConfigError
from trimtab.models.memory import free_bytes
from trimtab.models.messages import Prompt
from trimtab.models.shared import share_weights
from trimtab.models.token_texts import TokenTexts
from trimtab.steering import PreferenceLike

Prompts = Iterable[Prompt | Request | Sequence[int]]
MOST_RUNNING, MOST_WAITING = 64, 1024
"""Requests that run together, and that may wait."""


class LocalEngine:
    """A frozen base steered by guides, in this process.

    One thread of its own runs the models. Any number of threads (and event loops) may ask at once:
    their requests run together, in the order of arrival, each with its own prompt, preference,
    strength, sampling and seed. A request pays for the guides that it uses.

    Args:
        base: the frozen model.
        arms: the guides: ARMs, each for one objective or conditioned on several, and streams that
            have a reference.
        draft: a small model with the base's vocabulary that proposes tokens, called `draft`; or
            `ngram`. None lets a small ARM and its backbone propose them, or else the text so far.
        max_length: tokens that a request may have, prompt and response; None for the models' own
            limit.
        cache_memory: bytes for the keys and values of all requests; by default half of what is
            free when the first request comes.
        max_running: requests that run together.
        max_waiting: requests that may wait for their turn; one more is refused.
        forward_kl: the guides are policies that the forward KL's mean joins.
        pack: take the models over and rearrange their weights for this machine.
    """

    def __init__(
        self,
        base: Stream,
        arms: Sequence[Stream] = (),
        *,
        draft: Stream | Literal["ngram"] | None = None,
        max_length: int | None = None,
        cache_memory: int | None = None,
        max_running: int = MOST_RUNNING,
        max_waiting: int = MOST_WAITING,
        forward_kl: bool = False,
        pack: bool = False,
    ) -> None:
        if max_length is not None and max_length < 2:
            raise ConfigError(f"max_length is {max_length}", "it must be 2 tokens or more")
        require_names(arms)
        self.base = base
        self._arms = list(arms)
        self.ends = base.ends
        self.max_length, self.forward_kl = max_length, forward_kl
        drafter = draft if isinstance(draft, Stream) else None
        if drafter is None and draft != "ngram":
            drafter = own_drafter(base, arms)
        if drafter and drafter.model is base.model:  # it drafts before the base verifies
            drafter = replace(drafter, model=share_weights(base.model))
        references = {arm.name: ref for arm in arms if (ref := arm.named_reference())}
        self.streams = [base, *arms, *references.values(), *([drafter] if drafter else [])]
        self.groups = group_streams(self.streams, pack=pack)
        names = [arm.name for arm in arms]
        against = {name: reference.name for name, reference in references.items()}
        amateurs = {arm.name: arm.amateur for arm in arms if arm.amateur}
        self._model = GuidedModel(
            self.groups, names, against, base.tokenizer, self.ends, amateurs, forward_kl
        )
        self._speculation = Speculation(self._model, ngram=draft == "ngram")
        self.cache_memory = cache_memory
        if cache_memory is not None:
            open_caches(self.groups, CacheMemory())  # measures what a token takes
        self._planner = Planner(
            base,
            self._arms,
            drafter,
            self.groups,
            self._speculation,
            max_length=max_length,
            cache_memory=cache_memory,
            forms=Forms(base.tokenizer, base.vocabulary.size, self.ends),
        )
        new_scheduler = partial(
            _new_scheduler, self._model, self._speculation, cache_memory, max_running
        )
        self.worker = Worker(self._model, new_scheduler, max_waiting)
        self._closing = weakref.finalize(self, self.worker.close)

    def close(self) -> None:
        """End all requests; the memory of the models is free once the engine is dropped."""
        self._closing()

    @property
    def arms(self) -> list[Stream]:
        """The ARMs, in the order of the weights; what is put in their places holds from then on."""
        return self._arms

    @property
    def token_texts(self) -> TokenTexts:
        """Texts of the base's tokens by their ids."""
        return self._model.token_texts

    @property
    def limit(self) -> int | None:
        """Tokens that a request may have, prompt and response, by the models that are always run;
        None without a limit."""
        limits = [self.max_length, *(arm.context for arm in (self.base, *self.arms))]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def objectives(self) -> list[str]:
        """What can be steered to."""
        return [objective for arm in self.arms for objective in arm.objectives]

    def generate(
        self,
        prompts: Prompts,
        *,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        kl_budget: float | None = None,
        gate: float | None = None,
        batch_size: int = 8,
        report: bool = False,
        speculate: Speculate = "off",
        n: int = 1,
        instructions: Mapping[str, InstructionLike] | None = None,
        **sampling: Any,
    ) -> list[Completion]:
        """Answer all prompts.

        Args:
            prompts: texts, chats or `Request`s; a `Request` carries its own settings.
            preference: weight per objective for prompts that carry none; None weighs all alike.
            strength: how hard the guide pulls; 0 is the base exactly.
            kl_budget: nats per token that the steered distribution may be from the base.
            gate: leave the ARMs out where the base gives one token more than this probability.
            batch_size: requests decoded together; the next one starts as soon as one is done.
            report: keep base log-prob, rewards and fused log-prob of every token.
            speculate: `on` drafts tokens with a small model and verifies them in one pass, with
                the same tokens; `auto` only while that saves time; `off` never.
            n: answers per prompt, one after the other in the list.
            instructions: other texts, or weights, for instructions that the engine was loaded
                with; see `Request`.
            **sampling: fields of `Sampling`. Prompt number i gets the seed `seed + i`.

        Returns:
            One completion per answer, in order. One that went wrong has the `finish_reason`
            `error`; the others are whole.

        Raises:
            PreferenceError, ConfigError: before anything is decoded, or because every answer went
                wrong.
        """
        requests = self.requests(
            prompts,
            preference=preference,
            strength=strength,
            kl_budget=kl_budget,
            gate=gate,
            report=report,
            speculate=speculate,
            n=n,
            instructions=instructions,
            **sampling,
        )
        plans = [plan for request in requests for plan in self.plans(request)]
        completions = list(in_order(self, self.worker, plans, at_once(batch_size)))
        if completions and all(answer.error for answer in completions):
            raise ConfigError(completions[0].error, "nothing could be answered")
        return completions

    def log_likelihoods(
        self,
        prompts: Prompts,
        responses: Iterable[str | Sequence[int]],
        *,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        kl_budget: float | None = None,
        gate: float | None = None,
        batch_size: int = 8,
        instructions: Mapping[str, InstructionLike] | None = None,
        end_of_turn: bool = False,
        rewards: bool = False,
    ) -> list[Likelihood]:
        """How likely given responses are, steered and not: nothing is drawn.

        What is asked of each token is the fused distribution in its place, before temperature and
        filters; at strength 0 that is the base's.

        Args:
            prompts: texts, chats, token ids of the base (read as they are, without a template), or
                `Request`s; a `Request` carries its own preference, strength, budget, gate and
                instructions.
            responses: one per prompt: text, which is tokenised behind its prompt, or token ids of
                the base (such as `Completion.token_ids`).
            preference: weight per objective for prompts that carry none; None weighs all alike.
            strength: how hard the guide pulls; 0 is the base exactly.
            kl_budget: nats per token that the steered distribution may be from the base.
            gate: leave the ARMs out where the base gives one token more than this probability.
            batch_size: responses read together.
            instructions: as in `generate`.
            end_of_turn: texts end with the token that ends the turn, as they are trained on; ids
                are as they stand.
            rewards: keep what every guide says of every token, also one that has no weight.

        Returns:
            One per response, in order. One without tokens has a total of 0 and means that are NaN.

        Raises:
            PreferenceError, ConfigError: before anything is read, or because one went wrong.
        """
        requests = self.requests(
            prompts,
            preference=preference,
            strength=strength,
            kl_budget=kl_budget,
            gate=gate,
            instructions=instructions,
        )
        plans = self.given_plans(requests, responses, end_of_turn=end_of_turn, rewards=rewards)
        drawn = draw_all(self.worker, [p for p in plans if p.given], at_once(batch_size))
        return likelihoods(plans, drawn, self._model.arms)

    def given_plans(
        self,
        requests: Sequence[Request],
        responses: Iterable[str | Sequence[int]],
        *,
        end_of_turn: bool = False,
        rewards: bool = False,
    ) -> list[RowPlan]:
        """Given responses, checked and tokenised; the arguments are those of `log_likelihoods`.

        Raises:
            PreferenceError, ConfigError: one cannot be read.
        """
        given = given_responses(responses, len(requests))
        return [
            self._planner.plan_given(request, response, end=end_of_turn, rewards=rewards)
            for request, response in zip(requests, given, strict=True)
        ]

    async def likelihoods(self, plans: Sequence[RowPlan]) -> list[Likelihood]:
        """How likely planned responses are, in an event loop; cancelled when it is left.

        Raises:
            BusyError, ClosedError: before anything is read.
            ConfigError, AnswerError: one went wrong.
        """
        drawn = await drawn_by(self.worker, [plan for plan in plans if plan.given])
        return likelihoods(plans, drawn, self._model.arms)

    def stream(
        self,
        prompt: Prompt | Request,
        *,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        kl_budget: float | None = None,
        gate: float | None = None,
        report: bool = False,
        speculate: Speculate = "off",
        n: int = 1,
        instructions: Mapping[str, InstructionLike] | None = None,
        **sampling: Any,
    ) -> EventStream:
        """Answer one prompt piece by piece; the last event carries the completion.

        The arguments are those of `generate`, for one prompt or `Request`. `cancel` ends it; so
        does whoever drops it.

        Raises:
            PreferenceError, ConfigError, BusyError: before anything is decoded.
        """
        [request] = self.requests(
            [prompt],
            preference=preference,
            strength=strength,
            kl_budget=kl_budget,
            gate=gate,
            report=report,
            speculate=speculate,
            n=n,
            instructions=instructions,
            **sampling,
        )
        return EventStream(self, self.worker, self.plans(request))

    def astream(self, prompt: Prompt | Request, **options: Any) -> AsyncIterator[Event]:
        """As `stream`, in an event loop: `async for event in engine.astream(...)`.

        Raises:
            PreferenceError, ConfigError: at once; BusyError: at the first step.
        """
        [request] = self.requests([prompt], **options)
        return read_events(self, self.worker, self.plans(request))

    def events(self, plans: Sequence[RowPlan]) -> AsyncEventStream:
        """The events of planned answers, in an event loop; `Event.index` counts the plans.

        Raises:
            BusyError: too many wait already.
        """
        return AsyncEventStream(self, self.worker, plans)

    def requests(
        self,
        prompts: Prompts,
        *,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        kl_budget: float | None = None,
        gate: float | None = None,
        report: bool = False,
        speculate: Speculate = "off",
        n: int = 1,
        instructions: Mapping[str, InstructionLike] | None = None,
        **sampling: Any,
    ) -> list[Request]:
        """Prompts with the settings they share, as requests.

        `Request`s keep their own; only `report` and `speculate` hold for those, too, that do not
        ask for it themselves.
        """
        if isinstance(prompts, str):
            raise ConfigError("prompts is one text", "give a list: generate([prompt])")
        common = Sampling().but(**sampling)
        how: dict[str, Any] = {"report": report, "speculate": speculate, "n": n}
        how["instructions"] = instructions
        shared = Request("", preference, strength, common, kl_budget, gate, **how)
        return [
            _asked_too(p, report, speculate)
            if isinstance(p, Request)
            else replace(shared, prompt=p, sampling=common.further(i))
            for i, p in enumerate(prompts)
        ]

    def answers(self, plans: Iterable[RowPlan], *, batch_size: int = 8) -> Iterator[Completion]:
        """Answer requests that `plans` has checked, in their order.

        Args:
            plans: of any number of requests.
            batch_size: those that run at once.

        Raises:
            ConfigError: one went wrong.
        """
        for completion in in_order(self, self.worker, list(plans), at_once(batch_size)):
            if completion.error:
                raise ConfigError(completion.error, "the answers before this one are whole")
            yield completion

    def plans(self, request: Request) -> list[RowPlan]:
        """A request's answers, each checked against this engine and tokenised for its streams.

        Raises:
            PreferenceError, ConfigError: the request cannot be answered.
        """
        return self._planner.plans(request)

    def plan(self, request: Request) -> RowPlan:
        """One answer of a request, checked and tokenised."""
        return self._planner.plan(request)

    def room(self, request: Request) -> int:
        """Tokens that an answer may have at most, 1 or more: by the models' limits, `max_length`
        and `cache_memory`.

        Raises:
            PreferenceError, ConfigError: the request cannot be answered, however short.
        """
        return self._planner.room(request)

    def draw(self, plans: Sequence[RowPlan]) -> list[Drawn]:
        """Continuations for a search, all of them; each plan says what is watched.

        Raises:
            ConfigError: one went wrong.
        """
        return draw_all(self.worker, plans, MOST_RUNNING)

    def scheduler(self, *, most: int = MOST_RUNNING) -> Scheduler:
        """A scheduler of its own, to be stepped by hand: for measurements and tests."""
        return _new_scheduler(self._model, self._speculation, self.cache_memory, most)


def _new_scheduler(
    model: GuidedModel, speculation: Speculation, cache_memory: int | None, most: int
) -> Scheduler:
    budget = cache_memory
    if budget is None:
        budget = free_bytes(str(model.groups[0].device)) // 2
    return Scheduler(model, speculation, CacheMemory(budget), most)


def _asked_too(request: Request, report: bool, speculate: Speculate) -> Request:
    """A request, where the whole call asks for reports or speculation."""
    how = speculate if request.speculate == "off" else request.speculate
    return replace(request, report=request.report or report, speculate=how)
