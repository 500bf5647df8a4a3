"""`LocalEngine`: requests in, completions out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from trimtab.engines.local.guided_model import GuidedModel
from trimtab.engines.local.rows import RowPlan
from trimtab.engines.local.scheduler import Scheduler
from trimtab.engines.local.speculating import (
    SPECULATE,
    own_drafter,
    running,
    speculation,
)
from trimtab.engines.local.streams import BASE, DRAFT, Stream, group_streams
from trimtab.engines.types import Chunk, Completion, Request, Sampling, Speculate
from trimtab.errors import ConfigError
from trimtab.models.limits import configured_ends
from trimtab.models.messages import Prompt
from trimtab.models.shared import share_weights
from trimtab.models.templates import turn_end_id
from trimtab.steering import PreferenceLike

Prompts = Iterable[Prompt | Request]


class LocalEngine:
    """A frozen base steered by ARMs, in this process.

    Rows of one batch may have prompts of any length and each its own preference, strength,
    sampling and seed. Threads may share an engine: their requests take turns, step by step, and a
    stream that nobody reads any more holds nobody up.

    Args:
        base: the frozen model.
        arms: each for one objective, or conditioned on several.
        draft: a small model with the base's vocabulary that proposes tokens, called `draft`; or
            `ngram`. None lets a small ARM and its backbone propose them, or else the text so far.
        max_length: tokens that a request may have, prompt and response; None for the models' own
            limit.
        pack: take the models over and rearrange their weights for this machine.
    """

    def __init__(
        self,
        base: Stream,
        arms: Sequence[Stream] = (),
        *,
        draft: Stream | Literal["ngram"] | None = None,
        max_length: int | None = None,
        pack: bool = False,
    ) -> None:
        if max_length is not None and max_length < 2:
            raise ConfigError(f"max_length is {max_length}", "it must be 2 tokens or more")
        names = [arm.name for arm in arms]
        if len(set(names)) < len(names):
            raise ConfigError(f"two ARMs share a name ({', '.join(names)})", "name each once")
        objectives = [objective for arm in arms for objective in arm.objectives]
        if len(set(objectives)) < len(objectives):
            raise ConfigError(
                f"two ARMs share an objective (all: {', '.join(objectives)})",
                "steer each objective by one ARM",
            )
        for taken, owner in ((BASE, "frozen model"), (DRAFT, "drafter")):
            if taken in names:
                raise ConfigError(f"an ARM is called {taken!r}", f"that is the {owner}'s name")
        self.base = base
        self.arms = list(arms)
        self.ends = end_ids(base)
        self.max_length = max_length
        self._ngram = draft == "ngram"
        drafter = draft if isinstance(draft, Stream) else None
        if drafter is None and not self._ngram:
            drafter = own_drafter(base, self.arms)
        if drafter and drafter.model is base.model:  # it drafts before the base verifies
            drafter = replace(drafter, model=share_weights(base.model))
        self.streams = [base, *arms, *([drafter] if drafter else [])]
        self.groups = group_streams(self.streams, pack=pack)
        self._contexts = {name: group.context for group in self.groups for name in group.index}
        self._lock = threading.RLock()

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
                exactly the same distribution; `auto` only while that saves time; `off` never.
            **sampling: fields of `Sampling`. Prompt number i gets the seed `seed + i`.

        Returns:
            One completion per prompt, in order.

        Raises:
            PreferenceError, ConfigError: before anything is decoded.
        """
        requests = self.requests(
            prompts,
            preference=preference,
            strength=strength,
            kl_budget=kl_budget,
            gate=gate,
            **sampling,
        )
        plans = [self.plan(request) for request in requests]
        return list(self.answers(plans, batch_size=batch_size, report=report, speculate=speculate))

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
        **sampling: Any,
    ) -> Iterator[Chunk]:
        """Answer one prompt piece by piece; the last chunk carries the completion.

        The arguments are those of `generate`, for one prompt or `Request`.

        Raises:
            PreferenceError, ConfigError: before anything is decoded.
        """
        [request] = self.requests(
            [prompt],
            preference=preference,
            strength=strength,
            kl_budget=kl_budget,
            gate=gate,
            **sampling,
        )
        plan = self.plan(request)
        scheduler = self.scheduler(1, plan.length, report=report, speculate=speculate)
        scheduler.add(plan)
        return (chunk for _, chunk in _run(scheduler))

    def requests(
        self,
        prompts: Prompts,
        *,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        kl_budget: float | None = None,
        gate: float | None = None,
        **sampling: Any,
    ) -> list[Request]:
        """Prompts with the settings they share, as requests; `Request`s pass as they are."""
        if isinstance(prompts, str):
            raise ConfigError("prompts is one text", "give a list: generate([prompt])")
        common = Sampling().but(**sampling)
        return [
            p
            if isinstance(p, Request)
            else Request(p, preference, strength, common.but(seed=common.seed + i), kl_budget, gate)
            for i, p in enumerate(prompts)
        ]

    def answers(
        self,
        plans: Iterable[RowPlan],
        *,
        batch_size: int = 8,
        report: bool = False,
        speculate: Speculate = "off",
    ) -> Iterator[Completion]:
        """Answer requests that `plan` has checked, in their order."""
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", "it must be 1 or more")
        plans = list(plans)
        if not plans:
            return
        length = max(plan.length for plan in plans)
        slots = min(batch_size, len(plans))
        scheduler = self.scheduler(slots, length, report=report, speculate=speculate)
        keys = [scheduler.add(plan) for plan in plans]
        done: dict[int, Completion] = {}
        for key, chunk in _run(scheduler):
            if chunk.completion is not None:
                done[key] = chunk.completion
            while keys and keys[0] in done:
                yield done.pop(keys.pop(0))

    def scheduler(
        self, slots: int, length: int, *, report: bool = False, speculate: Speculate = "off"
    ) -> Scheduler:
        """SlotCaches that requests can be added to, and cancelled in, while they run.

        Args:
            slots: requests decoded together.
            length: tokens a request may have, prompt and response.
            report: keep a report of every token.
            speculate: as for `generate`.
        """
        if speculate not in SPECULATE:
            raise ConfigError(f"speculate is {speculate!r}", f"it is one of {', '.join(SPECULATE)}")
        groups = running(speculate, self.groups, self._ngram)
        names = [arm.name for arm in self.arms]
        model = GuidedModel(groups, names, self.base.tokenizer, self.ends, self._lock)
        how = speculation(speculate, groups, names, self._ngram)
        return Scheduler(model, slots=slots, length=length, report=report, speculation=how)

    def plan(self, request: Request) -> RowPlan:
        """Check one request against this engine and tokenise it for every stream."""
        steering = request.steering(self.objectives)
        shares = [steering.share(arm.objectives, arm.scale) for arm in self.arms]
        prompts = {v.name: v.prompt_ids(request.prompt) for v in self.streams}
        for stream in self.streams:
            self._require_room(stream, len(prompts[stream.name]), request.sampling.max_new_tokens)
        conditions = {arm.name: inner for arm, (_, inner) in zip(self.arms, shares, strict=True)}
        return RowPlan(request, steering, [weight for weight, _ in shares], prompts, conditions)

    def _require_room(self, stream: Stream, prompt: int, response: int) -> None:
        limits = {
            "the model reads": self._contexts[stream.name],
            "max_length is": self.max_length,
        }
        for what, limit in limits.items():
            if limit is None or prompt + response <= limit:
                continue
            raise ConfigError(
                f"the prompt has {prompt} tokens for {stream.name} and max_new_tokens is "
                f"{response}, but {what} {limit}",
                "shorten the prompt or lower --max-new-tokens; nothing is cut in silence",
            )


def _run(scheduler: Scheduler) -> Iterator[tuple[int, Chunk]]:
    while scheduler.busy:
        yield from scheduler.step()


def end_ids(base: Stream) -> frozenset[int]:
    """Ids at which the base ends a turn: its generation config's, tokenizer's and template's."""
    configured = configured_ends(getattr(base.model, "generation_config", None))
    of_tokenizer = base.tokenizer.eos_token_id, turn_end_id(base.tokenizer)
    return frozenset(i for i in (*configured, *of_tokenizer) if i is not None)
