"""`LocalEngine`: requests in, completions out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from trimtab.data.pairs import Prompt
from trimtab.engines.local.batch import BASE, Batch, RowPlan
from trimtab.engines.local.streams import Stream, group_streams
from trimtab.engines.types import Chunk, Completion, Request, Sampling
from trimtab.errors import ConfigError
from trimtab.steering import PreferenceLike, Steering

Prompts = Iterable[Prompt | Request]


class LocalEngine:
    """A frozen base steered by ARMs, in this process.

    Rows of one batch may have prompts of any length and each its own preference, strength,
    sampling and seed.

    Args:
        base: the frozen model.
        arms: one per objective, in the order of the objectives.
    """

    def __init__(self, base: Stream, arms: Sequence[Stream] = ()) -> None:
        names = [arm.name for arm in arms]
        if len(set(names)) < len(names):
            raise ConfigError(f"two ARMs share a name ({', '.join(names)})", "name each once")
        if BASE in names:
            raise ConfigError(f"an ARM is called {BASE!r}", "that is the frozen model's name")
        self.base = base
        self.arms = list(arms)
        self.ends = end_ids(base)
        self._groups = group_streams([base, *arms])

    @property
    def objectives(self) -> list[str]:
        """What can be steered to."""
        return [arm.name for arm in self.arms]

    def generate(
        self,
        prompts: Prompts,
        *,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        batch_size: int = 8,
        report: bool = False,
        **sampling: Any,
    ) -> list[Completion]:
        """Answer all prompts.

        Args:
            prompts: texts, chats or `Request`s; a `Request` carries its own settings.
            preference: weight per objective for prompts that carry none; None weighs all alike.
            strength: how hard the guide pulls; 0 is the base exactly.
            batch_size: rows decoded together.
            report: keep base log-prob, rewards and fused log-prob of every token.
            **sampling: fields of `Sampling`. Prompt number i gets the seed `seed + i`.

        Returns:
            One completion per prompt, in order.

        Raises:
            PreferenceError, ConfigError: before anything is decoded.
        """
        requests = self.requests(prompts, preference=preference, strength=strength, **sampling)
        return list(self.completions(requests, batch_size=batch_size, report=report))

    def stream(
        self,
        prompt: Prompt | Request,
        *,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        report: bool = False,
        **sampling: Any,
    ) -> Iterator[Chunk]:
        """Answer one prompt piece by piece; the last chunk carries the completion."""
        [request] = self.requests([prompt], preference=preference, strength=strength, **sampling)
        plan = self.plan(request)
        return (chunk for _, chunk in self._batch([plan], report).run())

    def requests(
        self,
        prompts: Prompts,
        *,
        preference: PreferenceLike | None = None,
        strength: float = 1.0,
        **sampling: Any,
    ) -> list[Request]:
        """Prompts with the settings they share, as requests; `Request`s pass as they are."""
        if isinstance(prompts, str):
            raise ConfigError("prompts is one text", "give a list: generate([prompt])")
        common = Sampling().but(**sampling)
        return [
            p
            if isinstance(p, Request)
            else Request(p, preference, strength, common.but(seed=common.seed + i))
            for i, p in enumerate(prompts)
        ]

    def completions(
        self, requests: Iterable[Request], *, batch_size: int = 8, report: bool = False
    ) -> Iterator[Completion]:
        """Answer requests in order, yielding each batch when it is done.

        All requests are checked before the first is answered.
        """
        plans = [self.plan(request) for request in requests]
        return self.answers(plans, batch_size=batch_size, report=report)

    def answers(
        self, plans: Iterable[RowPlan], *, batch_size: int = 8, report: bool = False
    ) -> Iterator[Completion]:
        """Answer requests that `plan` has checked, as `completions` does."""
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}", "it must be 1 or more")
        waiting = iter(plans)
        while group := list(islice(waiting, batch_size)):
            done: dict[int, Completion] = {}
            for index, chunk in self._batch(group, report).run():
                if chunk.completion is not None:
                    done[index] = chunk.completion
            yield from (done[i] for i in range(len(group)))

    def plan(self, request: Request) -> RowPlan:
        """Check one request against this engine and tokenise it for every stream."""
        steering = Steering.of(self.objectives, request.preference, request.strength)
        weights = steering.weights({arm.name: arm.scale for arm in self.arms})
        room = request.sampling.max_new_tokens
        return RowPlan(
            request,
            steering,
            weights,
            {v.name: v.prompt_ids(request.prompt, room) for v in (self.base, *self.arms)},
        )

    def _batch(self, plans: Sequence[RowPlan], report: bool) -> Batch:
        tokenizer = self.base.tokenizer
        return Batch(self._groups, self.objectives, tokenizer, plans, self.ends, report)


def end_ids(base: Stream) -> frozenset[int]:
    """Ids at which the base ends a turn: its generation config's and its tokenizer's."""
    generation = getattr(base.model, "generation_config", None)
    configured = getattr(generation, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, base.tokenizer.eos_token_id) if i is not None)
