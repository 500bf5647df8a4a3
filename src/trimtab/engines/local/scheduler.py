"""Continuous batching: requests wait in a queue, run together, and leave when they are done."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable, Hashable

import torch

from trimtab.engines.local.batch import Batch
from trimtab.engines.local.forwards import with_caches
from trimtab.engines.local.guided_model import GuidedModel, open_caches
from trimtab.engines.local.prefixes import PrefixIndex, block_keys
from trimtab.engines.local.rows import Crowd, Pushed, Row, RowPlan
from trimtab.engines.local.shelves import CacheFullError, CacheMemory
from trimtab.engines.local.speculating import Speculation
from trimtab.engines.local.stream_rows import common_prefix
from trimtab.errors import ConfigError, first_line, is_out_of_memory

logger = logging.getLogger(__name__)

WORTH_WAITING = 32
"""Shared prompt tokens for which a request lets another one read first."""
GROWS_AFTER = 32
"""Steps after which one more request may run again, once memory had run out."""


class Scheduler:
    """Runs requests together, in the order of their arrival.

    Args:
        model: what runs.
        speculation: drafts for the requests that want it.
        memory: for keys and values.
        most: requests that run together.

    Attributes:
        memory: as given.
        waiting: requests that do not run yet, the oldest first.
        running: the others, the oldest first.
    """

    def __init__(
        self, model: GuidedModel, speculation: Speculation, memory: CacheMemory, most: int
    ) -> None:
        self._model, self._speculation, self._most = model, speculation, most
        self.memory = memory
        self._caches = open_caches(model.groups, memory)
        self._batch = Batch(model, self._caches, speculation)
        self._limit, self._steps = most, 0
        self.waiting: list[Row] = []
        self.running: list[Row] = []
        self._readers: PrefixIndex[Row] = PrefixIndex()
        self._keys_of: dict[int, list[int]] = {}
        self._later: set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether any request is running or waiting."""
        return bool(self.waiting or self.running)

    def add(self, key: int, plan: RowPlan) -> Row:
        """Queue a request; a larger key is a later arrival."""
        return self._queue(key, plan, None)

    def add_to(self, crowd: Crowd, key: int, plan: RowPlan) -> None:
        """Queue a request once its crowd has not enough in the queue."""
        if crowd.queued >= crowd.most:
            crowd.later.append((key, plan))
            self._later.add(key)
        else:
            crowd.queued += 1
            self._queue(key, plan, crowd)

    def _queue(self, key: int, plan: RowPlan, crowd: Crowd | None) -> Row:
        drafts = None if plan.restraint else self._speculation.of_row(plan.request.speculate)
        row = Row(key, plan, self._model.groups, drafts, crowd)
        bisect.insort(self.waiting, row, key=_key)
        return row

    def end(self, key: int) -> None:
        """Forget a request, running or waiting."""
        self._later.discard(key)
        for row in [row for row in self.waiting if row.key == key]:
            self.waiting.remove(row)
            self._next_of(row.crowd)
        for row in [row for row in self.running if row.key == key]:
            self._leave(row)

    def _next_of(self, crowd: Crowd | None) -> None:
        """One of a crowd has left: another one may be queued."""
        if crowd is None:
            return
        crowd.queued -= 1
        while crowd.later and crowd.queued < crowd.most:
            key, plan = crowd.later.popleft()
            if key in self._later:
                self._later.remove(key)
                self.add_to(crowd, key, plan)

    def step(self) -> list[Pushed]:
        """Admit, read some of the prompts, and give every other request its next tokens."""
        with torch.inference_mode(not self._model.quantized), torch.no_grad():
            self._admit()
            self._stop_waiting()
            pushed = self._run([row for row in self.running if row.prefix_of is None])
        for row in [p.row for p in pushed if p.finish_reason]:
            self._leave(row)
        for row in [row for row in self.running if not row.prefilling]:
            self._forget_reader(row)
        self._grow_back()
        return pushed

    # --- who runs ------------------------------------------------------------------------------

    def _admit(self) -> None:
        for row in self.waiting[: max(self._limit - len(self.running), 0)]:
            for cache, mine in with_caches(self._caches, row):
                cache.expect(mine)
        while self.waiting and len(self.running) < self._limit:
            row = self.waiting.pop(0)
            for cache, mine in with_caches(self._caches, row):
                cache.outgrown(mine)
            row.prefix_of = self._leader(row)
            if row.prefix_of is None:
                self._reuse_prefix(row)
            bisect.insort(self.running, row, key=_key)

    def _leave(self, row: Row) -> None:
        """A request ends; what was computed of it can still be reused, unless it went wrong."""
        self._stop(row)
        for cache, mine in with_caches(self._caches, row):
            (cache.drop if row.finish_reason == "error" else cache.release)(mine)
        self._next_of(row.crowd)

    def _stop(self, row: Row) -> None:
        """A request does not run any more."""
        self.running.remove(row)
        self._forget_reader(row)

    # --- shared beginnings ---------------------------------------------------------------------

    def _leader(self, new: Row) -> tuple[Row, int] | None:
        """A request that is about to read the same beginning; else this one is one."""
        prompt, seed = new.base.sequence[:-1], _seed(new)
        leader = self._readers.find(seed, prompt)
        if leader is not None:
            length = common_prefix(leader.base.sequence, prompt)
            if length >= WORTH_WAITING and leader.base.computed < length:
                return leader, length
        if self._batch.can_rewind:
            seeds = {seed, seed[:1]}  # those who run the base alone can share it, too
            self._keys_of[new.key] = [key for s in seeds for key in block_keys(s, prompt)]
            self._readers.add(self._keys_of[new.key], new)
        return None

    def _forget_reader(self, row: Row) -> None:
        self._readers.remove(self._keys_of.pop(row.key, []), row)

    def _stop_waiting(self) -> None:
        for row in self.running:
            if row.prefix_of and self._has_computed(*row.prefix_of):
                row.prefix_of = None
                self._reuse_prefix(row)

    def _has_computed(self, leader: Row, length: int) -> bool:
        if leader not in self.running or not leader.prefilling:
            return True
        return all(mine.computed >= length for _, mine in with_caches(self._caches, leader))

    def _reuse_prefix(self, row: Row) -> None:
        """A beginning that there is no room to copy is read instead, when there is."""
        for cache, mine in with_caches(self._caches, row):
            try:
                cache.reuse_prefix(mine)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise

    # --- what goes wrong -----------------------------------------------------------------------

    def _run(self, rows: list[Row]) -> list[Pushed]:
        """A step; if it fails, the request to blame is found, and the others go on."""
        if not rows:
            return []
        try:
            return self._batch.step(rows)
        except Exception as error:  # third-party model code raises anything
            self._batch.undo(rows)
            if is_out_of_memory(error):
                return self._preempt(rows, error)
            if len(rows) == 1:
                return [self._fail(rows[0], error)]
        pushed: list[Pushed] = []
        for row in rows:
            pushed += self._run([row]) if row in self.running else []
        return pushed

    def _fail(self, row: Row, error: BaseException) -> Pushed:
        logger.warning("request %d failed: %s", row.key, first_line(error))
        row.finish_reason, row.error = "error", first_line(error)
        row.refused = isinstance(error, ConfigError)
        return Pushed.of(row)

    def _preempt(self, rows: list[Row], error: BaseException) -> list[Pushed]:
        """Out of memory: the youngest waits, and is read anew later; it loses no token.

        First what no running request needs is given up, of all groups.
        """
        used = self.memory.used
        for cache in self._caches:
            cache.shrink()
        if self.memory.used < used:
            return self._run(rows)
        count, youngest = len(self.running), self.running[-1]
        if count == 1 and youngest.starved == len(youngest.ids):
            return [self._fail(youngest, _too_long(youngest, error))]
        youngest.starved = len(youngest.ids) if count == 1 else -1
        level = logging.INFO if isinstance(error, CacheFullError) else logging.WARNING
        logger.log(level, "out of memory with %d requests: one of them waits", count)
        self._stop(youngest)
        for cache, mine in with_caches(self._caches, youngest):
            cache.drop(mine)
        youngest.prefilling, youngest.prefix_of = True, None
        bisect.insort(self.waiting, youngest, key=_key)
        self._limit, self._steps = max(count - 1, 1), 0
        return []

    def _grow_back(self) -> None:
        self._steps += 1
        if self._limit < self._most and self._steps >= GROWS_AFTER:
            self._limit, self._steps = self._limit + 1, 0


_key: Callable[[Row], int] = lambda row: row.key  # noqa: E731


def _seed(row: Row) -> tuple[Hashable, ...]:
    """What two requests compute of one beginning is the same only under equal ones."""
    return tuple((mine.stream, mine.coefficients) for streams in row.streams for mine in streams)


def _too_long(row: Row, error: BaseException) -> BaseException:
    return MemoryError(
        f"out of memory on a single request of up to {row.plan.length} tokens ({first_line(error)})"
        ": use shorter requests, a smaller dtype or a smaller model"
    )
