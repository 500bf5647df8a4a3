"""One batch of requests, decoded together: prefill, then one fused token per row and step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.streams import Group, GroupState
from trimtab.engines.text import TextStream
from trimtab.engines.types import Chunk, Completion, Request, Sampling, TokenReport
from trimtab.steering import Steering

BASE = "base"


@dataclass(frozen=True)
class RowPlan:
    """One request, checked and tokenised.

    Attributes:
        request: as it was given.
        steering: its validated preference and strength.
        weights: fusion weight per ARM, [K].
        prompts: stream name -> the prompt's ids in its own template.
    """

    request: Request
    steering: Steering
    weights: list[float]
    prompts: dict[str, list[int]]


class _Row:
    """A row that is being generated."""

    def __init__(self, index: int, plan: RowPlan, tokenizer: object) -> None:
        self.index = index
        self.plan = plan
        self.sampling: Sampling = plan.request.sampling
        self.text = TextStream(tokenizer, self.sampling.stop)
        self.ids: list[int] = []
        self.reports: list[TokenReport] = []
        self.finish_reason: Literal["stop", "length"] | None = None

    def push(self, token: int, ends: frozenset[int]) -> str:
        """Take one token; returns the text it releases and sets `finish_reason` at the end."""
        self.ids.append(token)
        if token in ends and not self.sampling.ignore_eos:
            released = self.text.finish()
            self.finish_reason = "stop"
            return released
        released = self.text.push(token)
        if not self.text.stopped and len(self.ids) >= self.sampling.max_new_tokens:
            released += self.text.finish()
            self.finish_reason = "length"
        if self.text.stopped:
            self.finish_reason = "stop"
        return released

    def completion(self) -> Completion:
        """The finished response."""
        assert self.finish_reason is not None
        steering = self.plan.steering
        return Completion(
            self.text.text,
            self.ids,
            self.finish_reason,
            steering.preference,
            steering.strength,
            self.reports,
        )


class Batch:
    """Decodes some requests together, each by its own preference, strength, sampling and seed."""

    def __init__(
        self,
        groups: Sequence[Group],
        arms: Sequence[str],
        tokenizer: Any,
        plans: Sequence[RowPlan],
        ends: frozenset[int],
        report: bool,
    ) -> None:
        self._states = [GroupState(group) for group in groups]
        self._names = list(arms)
        self._tokenizer = tokenizer
        self._rows = [_Row(i, plan, self._tokenizer) for i, plan in enumerate(plans)]
        self._ends = ends
        self._report = report
        self._device = self._states[0].device
        self._gather_settings()

    def _gather_settings(self) -> None:
        """Per-row settings as tensors, in the order of the rows still running."""
        samplings = [row.sampling for row in self._rows]

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=self._device)

        weights = [row.plan.weights for row in self._rows]
        self._weights_BK = torch.tensor(weights, dtype=torch.float32, device=self._device)
        self._temperature_B = column([s.temperature for s in samplings])
        self._top_k_B = torch.tensor([s.top_k for s in samplings], device=self._device)
        self._top_p_B = column([s.top_p for s in samplings])
        self._min_p_B = column([s.min_p for s in samplings])

    @torch.inference_mode()
    def run(self) -> Iterator[tuple[int, Chunk]]:
        """Yield `(index of the request, chunk)` until every row is finished."""
        names = [BASE, *self._names]
        prompts = {name: [row.plan.prompts[name] for row in self._rows] for name in names}
        logps = [state.prefill(prompts) for state in self._states]
        while True:
            tokens_B = self._choose(logps)
            yield from self._push(tokens_B)
            alive = [i for i, row in enumerate(self._rows) if row.finish_reason is None]
            if not alive:
                return
            if len(alive) < len(self._rows):
                tokens_B = self._keep(alive, tokens_B)
            logps = [state.step(tokens_B) for state in self._states]

    def _choose(self, logps: list[dict[str, Tensor]]) -> Tensor:
        named = {name: logp for group in logps for name, logp in group.items()}
        logp_base_BV = named[BASE].to(self._device)
        arms = [named[name].to(self._device) for name in self._names]
        logp_arms_KBV = (
            torch.stack(arms) if arms else logp_base_BV.new_zeros(0, *logp_base_BV.shape)
        )
        logp_BV = fusion.fuse(logp_base_BV, logp_arms_KBV, self._weights_BK)
        uniform = [fusion.uniform(row.sampling.seed, len(row.ids)) for row in self._rows]
        shaped_BV = fusion.shape(
            logp_BV, self._temperature_B, self._top_k_B, self._top_p_B, self._min_p_B
        )
        uniform_B = torch.tensor(uniform, dtype=torch.float64, device=self._device)
        tokens_B = fusion.choose(shaped_BV, self._temperature_B, uniform_B)
        if self._report:
            self._record(tokens_B, [logp_base_BV, *arms, logp_BV])
        return tokens_B

    def _record(self, tokens_B: Tensor, logps: list[Tensor]) -> None:
        columns = [logp.gather(-1, tokens_B[:, None]).squeeze(-1).tolist() for logp in logps]
        for row, token, base, *rewards, fused in zip(
            self._rows, tokens_B.tolist(), *columns, strict=True
        ):
            text = self._tokenizer.decode([token])
            named = dict(zip(self._names, rewards, strict=True))
            row.reports.append(TokenReport(token, text, base, named, fused))

    def _push(self, tokens_B: Tensor) -> Iterator[tuple[int, Chunk]]:
        for row, token in zip(self._rows, tokens_B.tolist(), strict=True):
            released = row.push(token, self._ends)
            done = row.completion() if row.finish_reason else None
            if released or done:
                yield row.index, Chunk(released, done)

    def _keep(self, alive: list[int], tokens_B: Tensor) -> Tensor:
        """Go on with the unfinished rows alone."""
        rows = torch.tensor(alive, device=self._device)
        self._rows = [self._rows[i] for i in alive]
        for state in self._states:
            state.keep(rows)
        self._gather_settings()
        return tokens_B[rows]
