"""The one thread that runs the models, and the one that makes text of their tokens."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trimtab.engines.local.answers import Answer
from trimtab.engines.local.drawing import Drawing
from trimtab.engines.local.guided_model import GuidedModel
from trimtab.engines.local.rows import Crowd, Pushed, RowPlan
from trimtab.engines.local.scheduler import Scheduler
from trimtab.errors import BusyError, ClosedError, first_line

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ended:
    """Word that a request is at its end, and how.

    Attributes:
        key: of the request.
        error: what went wrong.
        step: that had its stop text; −1 if it is to end at once.
    """

    key: int
    error: str = ""
    step: int = -1


@dataclass(frozen=True)
class _Added:
    """Word to the runner of new requests."""

    keys: Sequence[int]
    plans: Sequence[RowPlan]
    crowd: Crowd | None


class Worker:
    """Takes requests from any thread and delivers their events.

    Args:
        model: the base and its ARMs.
        new_scheduler: makes the scheduler, in the worker's thread.
        most_waiting: requests that may wait for their turn.

    Attributes:
        threads: once the first request has come.
    """

    def __init__(
        self, model: GuidedModel, new_scheduler: Callable[[], Scheduler], most_waiting: int
    ) -> None:
        self._model, self._new_scheduler, self._most_waiting = model, new_scheduler, most_waiting
        self._keys = itertools.count()
        self._ready = threading.Condition()
        self._inbox: deque[_Added | _Ended] = deque()
        self._answers: dict[int, Answer | Drawing] = {}
        self._tokens: queue.SimpleQueue[Sequence[Pushed] | _Ended | None] = queue.SimpleQueue()
        self.threads: list[threading.Thread] = []
        self._waiting = self._steps = self._written = self._batch = 0
        self._closed = self._running = False

    def add(
        self,
        plans: Sequence[RowPlan],
        deliver: Callable[[int, Any], None],
        most: int | None = None,
    ) -> list[int]:
        """Queue some answers together; returns their keys.

        Args:
            plans: checked and tokenised.
            deliver: takes an answer's number and its events, or what was drawn where it is watched,
                in another thread; it must not wait.
            most: answers of these that run at once; then they do not count as waiting.

        Raises:
            BusyError: too many wait already.
            ClosedError: no more are taken.
        """
        with self._ready:
            if self._closed:
                raise ClosedError("the engine is closed", "load it again")
            if most is None and self._waiting + len(plans) > self._most_waiting:
                raise BusyError(
                    f"{self._waiting} requests wait already", "try again a little later"
                )
            self._start()
            keys = [next(self._keys) for _ in plans]
            for number, (key, plan) in enumerate(zip(keys, plans, strict=True)):
                self._answers[key] = self._new_answer(plan, partial(deliver, number))
            self._waiting += 0 if most else len(plans)
            self._inbox.append(_Added(keys, plans, Crowd(most) if most else None))
            self._ready.notify_all()
        return keys

    def _new_answer(self, plan: RowPlan, deliver: Callable[[Any], None]) -> Answer | Drawing:
        return Drawing(deliver) if plan.watch else Answer(plan, self._model.tokenizer, deliver)

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._waiting

    @property
    def batch(self) -> int:
        """Requests that run together now."""
        return self._batch

    @property
    def closed(self) -> bool:
        """Whether no request is taken any more."""
        return self._closed

    @property
    def busy(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self._answers or self._inbox or self._running)

    def cancel(self, key: int) -> None:
        """End a request; its last event comes at once. One that has ended is left alone."""
        self._tokens.put(_Ended(key))
        self._end(key)

    def close(self) -> None:
        """End all requests and both threads."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        if threading.current_thread() not in self.threads:  # they wait for each other
            for thread in self.threads:
                thread.join()

    def _start(self) -> None:
        if not self.threads:
            for run, name in ((self._run, "trimtab-engine"), (self._write, "trimtab-text")):
                self.threads.append(threading.Thread(target=run, name=name, daemon=True))
                self.threads[-1].start()

    def _end(self, key: int, step: int = -1) -> None:
        with self._ready:
            self._inbox.append(_Ended(key, step=step))
            self._ready.notify_all()

    # --- the thread that runs the models --------------------------------------------------------

    def _run(self) -> None:
        scheduler: Scheduler | None = None
        while not self._closed:
            try:
                scheduler = scheduler or self._new_scheduler()
                self._take_in(scheduler)
                self._running = scheduler.busy
                self._batch = len(scheduler.running)
                if self._running:
                    self._tokens.put(scheduler.step())
                    self._steps += 1
                    self._count(scheduler)
                    self._running, self._batch = scheduler.busy, len(scheduler.running)
            except Exception as error:  # of the scheduler itself: nobody can go on
                logger.exception("all requests failed")
                scheduler = None
                self._fail_all(first_line(error))
        self._tokens.put(None)

    def _fail_all(self, error: str) -> None:
        """End all requests that there are; waits for another one."""
        with self._ready:
            self._inbox.clear()
            for key in [*self._answers]:
                self._tokens.put(_Ended(key, error))
            self._waiting, self._running, self._batch = 0, False, 0
            while not (self._inbox or self._closed):
                self._ready.wait()

    def _take_in(self, scheduler: Scheduler) -> None:
        """New requests, and word of those that have ended; waits while there is nothing to do.

        Stop texts are looked for while the next step runs. Which step their requests leave at must
        not depend on who is faster: always the second after theirs.
        """
        with self._ready:
            while not (self._inbox or scheduler.busy or self._closed):
                self._ready.wait()
            while self._written < self._steps - 1 and not self._closed:
                self._ready.wait()
            taken = [*self._inbox]
            self._inbox.clear()
            for item in taken:
                if isinstance(item, _Added):
                    for key, plan in zip(item.keys, item.plans, strict=True):
                        if item.crowd:
                            scheduler.add_to(item.crowd, key, plan)
                        else:
                            scheduler.add(key, plan)
                elif item.step > self._steps - 2 and scheduler.busy:
                    self._inbox.append(item)
                else:
                    scheduler.end(item.key)
            self._count(scheduler)

    def _count(self, scheduler: Scheduler) -> None:
        """Those who wait by themselves; also after a step has admitted some, which may be the last
        for long."""
        with self._ready:
            added = [one for one in self._inbox if isinstance(one, _Added) and not one.crowd]
            queued = sum(row.crowd is None for row in scheduler.waiting)
            self._waiting = queued + sum(len(one.plans) for one in added)

    # --- the thread that makes text -------------------------------------------------------------

    def _write(self) -> None:
        while (item := self._tokens.get()) is not None:
            if isinstance(item, _Ended):
                if answer := self._answers.pop(item.key, None):
                    answer.fail(item.error) if item.error else answer.cancel()
                continue
            for pushed in item:
                self._write_one(pushed)
            with self._ready:
                self._written += 1
                self._ready.notify_all()
        for answer in self._answers.values():
            answer.cancel()
        self._answers.clear()

    def _write_one(self, pushed: Pushed) -> None:
        key = pushed.row.key
        answer = self._answers.get(key)
        if answer is None:  # it has ended: a stop text was found, or the caller went away
            return
        try:
            ended = answer.take(pushed)
        except Exception as error:  # a tokenizer raises anything
            answer.fail(first_line(error))
            ended = True
        if ended:
            del self._answers[key]
            if pushed.finish_reason is None:
                self._end(key, self._written)
