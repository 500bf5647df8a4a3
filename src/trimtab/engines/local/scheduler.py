"""Continuous batching: requests wait in a queue, run in slots, and leave when they are done.

Each step reads one chunk of some prompts, then decodes one round for every request that is ready.
What a stream has still to read is its sequence beyond what its slot has read: a prompt, the last
token, tokens that a gate passed over, or drafts to be verified are all the same to a group.
"""

from __future__ import annotations

import logging
from collections import deque

import torch

from trimtab.engines.local.batch import Batch, Chunks
from trimtab.engines.local.drafting import Speculation
from trimtab.engines.local.guided_model import GuidedModel
from trimtab.engines.local.rows import Row, RowPlan
from trimtab.engines.local.slots import common_prefix
from trimtab.engines.speculation import DraftLength
from trimtab.errors import ConfigError, is_out_of_memory

logger = logging.getLogger(__name__)

WORTH_WAITING = 32
"""Shared prompt tokens for which a request lets another one read first."""


class Scheduler:
    """Runs requests in slots.

    Args:
        model: what runs.
        slots: requests decoded together.
        length: tokens a request may have, prompt and response.
        report: keep a report of every token.
        speculation: draft and verify; None decodes token by token.

    Attributes:
        waiting: requests that have no slot yet.
    """

    def __init__(
        self,
        model: GuidedModel,
        *,
        slots: int,
        length: int,
        report: bool = False,
        speculation: Speculation | None = None,
    ) -> None:
        self._model, self._length = model, length
        self._report, self._speculation = report, speculation
        self.waiting: deque[Row] = deque()
        self._keys = 0
        self._batch = self._new_batch(slots)

    def _new_batch(self, slots: int) -> Batch:
        return Batch(
            self._model,
            slots,
            self._length,
            report=self._report,
            speculation=self._speculation,
        )

    @property
    def busy(self) -> bool:
        """Whether any request is running or waiting."""
        return bool(self.waiting) or any(self._batch.rows)

    def add(self, plan: RowPlan) -> int:
        """Queue a request; returns the key that its chunks will carry.

        Raises:
            ConfigError: it can come to more tokens than a slot holds.
        """
        if plan.length > self._length:
            raise ConfigError(
                f"the request can come to {plan.length} tokens, but a slot holds {self._length}",
                "shorten the prompt, or lower max_new_tokens",
            )
        drafts = self._speculation.length() if self._speculation else DraftLength(0, 0, 0, 0)
        model = self._model
        with model.lock:
            self.waiting.append(Row(self._keys, plan, model.groups, model.tokenizer, drafts))
            self._keys += 1
            return self._keys - 1

    def cancel(self, key: int) -> None:
        """Forget a request, running or waiting; its slot is free at once."""
        with self._model.lock:
            self.waiting = deque(row for row in self.waiting if row.key != key)
            for slot, row in enumerate(self._batch.rows):
                if row and row.key == key:
                    self._batch.free(slot)

    def step(self) -> Chunks:
        """Read a chunk of prompts and decode one round: (key, text that was released)."""
        plain = not any(group.quantized for group in self._model.groups)
        with self._model.lock, torch.inference_mode(plain), torch.no_grad():
            return self._step()  # some kernels bear no inference mode

    def _step(self) -> Chunks:
        chunks: Chunks = []
        try:
            self._admit()
            if span := self._prefilling():
                chunks += self._batch.prefill(span)
            chunks += self._batch.decode()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._preempt()
        self._compact()
        return chunks

    def _admit(self) -> None:
        for slot, row in enumerate(self._batch.rows):
            if row is None and self.waiting:
                new = self.waiting.popleft()
                new.prefix_of = self._leader(new)
                self._batch.admit(slot, new)
                if new.prefix_of is None:
                    self._batch.reuse_prefix(slot)

    def _leader(self, new: Row) -> tuple[Row, int] | None:
        """A request that is about to read the same beginning."""
        prompt = new.sequences[0][0][:-1]
        reading = [
            row
            for row in self._batch.rows
            if row and row.prefilling and row.plan.conditions == new.plan.conditions
        ]
        shared = [(common_prefix(row.sequences[0][0], prompt), row) for row in reading]
        length, leader = max(shared, key=lambda pair: pair[0], default=(0, None))
        worth = length >= WORTH_WAITING and self._batch.can_rewind
        return (leader, length) if leader and worth else None

    def _prefilling(self) -> range:
        """The first slots in a row that have a prompt to read."""
        rows = self._batch.rows
        for slot, row in enumerate(rows):
            if row and row.prefix_of and self._has_computed(*row.prefix_of):
                row.prefix_of = None
                self._batch.reuse_prefix(slot)
        reads = [bool(row and row.prefilling and not row.prefix_of) for row in rows]
        if True not in reads:
            return range(0)
        first = reads.index(True)
        last = reads.index(False, first) if False in reads[first:] else len(reads)
        return range(first, last)

    def _has_computed(self, leader: Row, length: int) -> bool:
        slot = next((i for i, row in enumerate(self._batch.rows) if row is leader), None)
        if slot is None or not leader.prefilling:
            return True
        return all(min(cache.computed[slot]) >= length for cache in self._batch.caches)

    def _compact(self) -> None:
        """Once nothing waits, keep the running requests in the first slots."""
        batch = self._batch
        while not self.waiting and None in batch.rows[: batch.used]:
            batch.move(batch.used - 1, batch.rows.index(None))

    def _preempt(self) -> None:
        """Out of memory: go on with half the slots; the requests lose no token."""
        rows = self._batch.rows
        slots = len(rows) // 2
        if slots == 0:
            raise ConfigError(
                f"out of memory on a single request of up to {self._length} tokens",
                "use shorter requests, a smaller dtype or a smaller model",
            )
        logger.warning("out of memory with %d slots: going on with %d", len(rows), slots)
        self.waiting.extendleft(reversed([row for row in rows if row]))
        self._batch.caches.clear()  # let the old caches go before new ones are made
        self._batch = self._new_batch(slots)
