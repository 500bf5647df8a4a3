"""What a server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trimtab.engines.local.worker import Worker
from trimtab.engines.types import Completion, Event

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_NATS = (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 4, 8)


class Metrics:
    """Of one server.

    Args:
        worker: the engine's.
    """

    def __init__(self, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        self._drafts = 0, 0
        r = self._registry
        self.requests = Counter("trimtab_requests", "HTTP requests", ["path", "status"], registry=r)
        self.prompt_tokens = Counter(
            "trimtab_prompt_tokens", "Tokens of prompts, in the base's vocabulary", registry=r
        )
        self.tokens = Counter("trimtab_generation_tokens", "Tokens of answers", registry=r)
        self.scored = Counter("trimtab_scored_tokens", "Tokens of given answers", registry=r)
        self.first = Histogram(
            "trimtab_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=_SECONDS,
            registry=r,
        )
        self.per_token = Histogram(
            "trimtab_time_per_output_token_seconds",
            "Between the tokens of an answer, its mean",
            buckets=_PER_TOKEN,
            registry=r,
        )
        self.seconds = Histogram(
            "trimtab_request_seconds", "Of a whole answer", buckets=_SECONDS, registry=r
        )
        self.kl = Histogram(
            "trimtab_kl_per_token_nats",
            "KL per token of steered answers from the base",
            buckets=_NATS,
            registry=r,
        )
        self._drafted = Counter("trimtab_drafted_tokens", "Tokens that were drafted", registry=r)
        self._accepted = Counter(
            "trimtab_accepted_tokens", "Drafted tokens that were kept", registry=r
        )
        self._gauge("trimtab_requests_waiting", "Answers that wait", lambda: worker.waiting)
        self._gauge("trimtab_batch_size", "Answers that run together", lambda: worker.batch)
        self._gauge("trimtab_draft_acceptance", "Share of drafted tokens kept", self._kept)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, registry=self._registry).set_function(read)

    def drafts(self, drafted: int, accepted: int) -> None:
        """Take in what speculation proposed for an answer, and what was kept of it."""
        self._drafts = self._drafts[0] + drafted, self._drafts[1] + accepted
        self._drafted.inc(drafted)
        self._accepted.inc(accepted)

    def _kept(self) -> float:
        drafted, accepted = self._drafts
        return accepted / drafted if drafted else 0.0

    def page(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)


class Timing:
    """Of one request's answers.

    Args:
        metrics: take it in.
        arrived: `time.monotonic()` when it came.
    """

    def __init__(self, metrics: Metrics, arrived: float) -> None:
        self._metrics, self._start = metrics, arrived
        self._first: dict[int, float] = {}

    def take(self, event: Event) -> None:
        """An event of one of the answers."""
        now = time.monotonic()
        self._metrics.tokens.inc(len(event.token_ids))
        if event.token_ids and event.index not in self._first:
            self._first[event.index] = now
            self._metrics.first.observe(now - self._start)
        if event.completion:
            self._end(event.completion, now, self._first.get(event.index, now))

    def _end(self, answer: Completion, now: float, first: float) -> None:
        metrics, tokens = self._metrics, len(answer.token_ids)
        metrics.seconds.observe(now - self._start)
        if tokens > 1:
            metrics.per_token.observe((now - first) / (tokens - 1))
        if answer.strength:
            metrics.kl.observe(answer.kl)
        metrics.drafts(answer.drafted, answer.accepted)
