"""What goes wrong at a bad moment: the others go on, nobody waits for ever, nothing is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracle import specified, stream, with_lora
from test_scheduler import NO_MEMORY, SIZE, Reads, guided, run_all, words

from trimtab.engines.local import batch
from trimtab.engines.local.answers import Answer
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.local.rows import Row
from trimtab.engines.local.scheduler import Scheduler
from trimtab.engines.types import Request
from trimtab.errors import ConfigError

WAIT = 60.0


@pytest.fixture(scope="module")
def pair() -> LocalEngine:
    """A base with one LoRA: two streams in one group."""
    base = stream("base", 1, SIZE)
    return LocalEngine(base, [with_lora(base, "a", 3)])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def small(engine: LocalEngine, slots: int, length: int = 64) -> LocalEngine:
    """The same with room for so many streams of one length."""
    engine.scheduler()  # measures what a token takes
    memory = slots * length * engine.groups[0].position_size * 4
    return LocalEngine(engine.base, engine.arms, cache_memory=memory)


def of_base(i: int, prompt: str, tokens: int) -> Request:
    """One that runs the base alone."""
    return replace(guided(i, prompt, tokens), strength=0.0)


def added(run: Scheduler, engine: LocalEngine, requests: Sequence[Request]) -> list[Row]:
    return [run.add(i, engine.plan(request)) for i, request in enumerate(requests)]


def outcomes(rows: Sequence[Row]) -> list[tuple[list[int], str]]:
    return [(row.ids, row.error) for row in rows]


def specified_outcomes(
    engine: LocalEngine, requests: Sequence[Request]
) -> list[tuple[list[int], str]]:
    return [(specified(engine, request), "") for request in requests]


class TestCacheIsFull:
    def test_no_room_to_copy_a_beginning(self, pair: LocalEngine) -> None:
        """The second request begins as the first, which runs and has all the room."""
        requests = [guided(i, f"{words(3, 16)} w{i}", 6) for i in range(2)]
        engine = small(pair, 2)
        run = engine.scheduler()
        rows = [run.add(0, engine.plan(requests[0]))]
        run.step()
        rows.append(run.add(1, engine.plan(requests[1])))
        run_all(run)
        assert outcomes(rows) == specified_outcomes(pair, requests)

    def test_what_has_lost_its_slot_cannot_be_found(self, pair: LocalEngine) -> None:
        """Of three slots two are held and one is given up, and still there is no room for the
        70 words of the third request, which take two."""
        engine = small(pair, 3)
        run = engine.scheduler()
        run.add(0, engine.plan(guided(0, words(0, 20), 8)))
        run.add(1, engine.plan(of_base(1, words(1, 20), 1)))
        run.step()
        run.add(2, engine.plan(of_base(2, words(2, 70), 1)))
        run.step()
        [cache] = run._caches
        assert isinstance(cache, PackedRows)
        found = cache._beginnings._holders.values()
        assert found and all(row.place for row in found)

    def test_one_that_just_fits_is_read_in_pieces(
        self, pair: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two streams of 128 tokens fill the cache: none may need a shorter slot besides."""
        monkeypatch.setattr(batch, "CHUNK", 16)
        requests = [guided(0, words(0, 100), 4)]
        engine = small(pair, 2, length=128)
        run = engine.scheduler()
        rows = added(run, engine, requests)
        run_all(run)
        assert outcomes(rows) == specified_outcomes(pair, requests)

    def test_one_that_just_fits_outgrows_its_slots(self, pair: LocalEngine) -> None:
        requests = [guided(0, words(0, 60), 20)]
        engine = small(pair, 2, length=128)
        run = engine.scheduler()
        rows = added(run, engine, requests)
        run_all(run)
        assert outcomes(rows) == specified_outcomes(pair, requests)

    def test_what_other_groups_keep_is_given_up_first(self) -> None:
        """Six requests of the base fill the cache and end. Then two that need an ARM, too, run
        together: nobody has to wait."""
        base = stream("base", 1, SIZE)
        whole = LocalEngine(base, [stream("b", 2, SIZE)])
        engine = small(whole, 6)
        run = engine.scheduler()
        added(run, engine, [of_base(i, words(i, 10), 3) for i in range(6)])
        run_all(run)
        requests = [guided(i, words(i + 6, 10), 5) for i in range(2)]
        rows = [run.add(6 + i, engine.plan(request)) for i, request in enumerate(requests)]
        run.step()
        assert [len(row.ids) for row in rows] == [1, 1]
        run_all(run)
        assert outcomes(rows) == specified_outcomes(whole, requests)


class TestNoMemory:
    def test_first_beside_others_and_then_alone(self, pair: LocalEngine, reads: Reads) -> None:
        """Only who runs alone, twice in a row, has tried all that there is."""
        requests = [guided(i, words(i, 4), 3) for i in range(2)]
        run = pair.scheduler()
        rows = added(run, pair, requests)
        alone: list[int] = []

        def fails(_: Any) -> bool:
            if rows[0].finish_reason:
                alone.append(len(run.running))
            # what can be given up is given up first, before a request has to wait
            return reads.calls <= 2 or len(alone) == 1

        reads.fails = fails
        run_all(run)
        assert alone[0] == 1
        assert outcomes(rows) == specified_outcomes(pair, requests)

    @pytest.mark.parametrize("first", range(1, 6))
    def test_while_slots_are_given_up(
        self, pair: LocalEngine, reads: Reads, monkeypatch: pytest.MonkeyPatch, first: int
    ) -> None:
        """One of four requests has ended when memory runs out, and then there is none to copy
        the slots of the others to: keys and values stay who they are of."""
        requests = [guided(i, words(i, 10), 8) for i in range(4)]
        run = pair.scheduler()
        rows = added(run, pair, requests)
        run.step()
        run.end(0)
        calls: list[str] = []

        def short(name: str) -> Callable[..., Any]:
            plain = getattr(torch.Tensor, name)

            def allocate(self: Any, *args: Any, **more: Any) -> Any:
                calls.append(name)
                if first <= len(calls) < first + 3:
                    raise RuntimeError(NO_MEMORY)
                return plain(self, *args, **more)

            return allocate

        for name in ("new_zeros", "clone"):
            monkeypatch.setattr(torch.Tensor, name, short(name))
        reads.fails = lambda _: reads.calls == 2
        run_all(run)
        monkeypatch.undo()
        assert outcomes(rows[1:]) == specified_outcomes(pair, requests[1:])


def in_time(job: Callable[[], Any]) -> Any:
    """What a job returns or raises, in a thread that is not waited for for ever."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(job())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(WAIT)
    assert found, "it waits for ever"
    return found[0]


def comes_to_rest(engine: LocalEngine) -> bool:
    """Whether soon nobody waits or runs, and no word is left."""
    worker, deadline = engine.worker, time.monotonic() + 10
    while time.monotonic() < deadline:
        with worker._ready:  # what was put back is there again
            if not (worker.busy or worker._inbox):
                return True
        time.sleep(0.01)
    return False


class TestWorker:
    def test_at_rest(self, pair: LocalEngine) -> None:
        """Also after an answer that ended by itself."""
        pair.generate(["w1"], max_new_tokens=2, ignore_eos=True)
        assert comes_to_rest(pair)

    def test_a_scheduler_that_fails(
        self, pair: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All that run or wait end, those, too, that wait beside the queue; the next ones run."""
        admit, calls = Scheduler._admit, []

        def fails(scheduler: Scheduler) -> None:
            calls.append(1)
            if len(calls) == 1:
                scheduler.waiting.pop(0)  # in the middle of its work
                raise ValueError("it is broken")
            admit(scheduler)

        monkeypatch.setattr(Scheduler, "_admit", fails)
        options: Any = {"batch_size": 2, "max_new_tokens": 3, "temperature": 0}
        answer = in_time(lambda: pair.generate(["w1"] * 6, **options))
        assert isinstance(answer, ConfigError) and "it is broken" in str(answer)
        assert comes_to_rest(pair)
        assert len(in_time(lambda: pair.generate(["w1"] * 6, **options))) == 6

    def test_a_scheduler_that_cannot_be_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model that raises at the one token by which the cache is measured."""
        engine = LocalEngine(stream("base", 1, SIZE))

        def fails(_: PackedRows) -> int:
            raise ValueError("it cannot be run")

        with monkeypatch.context() as patch:
            patch.setattr(PackedRows, "_measured", fails)
            for _ in range(2):
                answer = in_time(lambda: engine.generate(["w1"], max_new_tokens=2))
                assert isinstance(answer, ConfigError) and "it cannot be run" in str(answer)
        assert len(in_time(lambda: engine.generate(["w1"], max_new_tokens=2))) == 1

    def test_a_tokenizer_that_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base = stream("base", 1, SIZE)
        engine = LocalEngine(base)

        def fails(*_: Any, **__: Any) -> str:
            raise ValueError("no such text")

        with monkeypatch.context() as patch:
            patch.setattr(base.tokenizer, "decode", fails)
            answer = in_time(lambda: engine.generate(["w1"], max_new_tokens=2))
            assert isinstance(answer, ConfigError) and "no such text" in str(answer)
        assert len(in_time(lambda: engine.generate(["w1"], max_new_tokens=2))) == 1

    def test_cancelled_while_its_stop_text_is_found(
        self, pair: LocalEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Token t, which is the stop text, is chosen before t − 1 is text. Then the caller goes
        away, so that no step follows; what is still to be said of the request must not wait."""
        options: Any = {"max_new_tokens": 8, "temperature": 0}
        ids = list(pair.generate(["w1"], **options)[0].token_ids)
        t = next(t for t in range(1, 8) if ids[t] not in ids[:t] and ids[t] > 1)
        assert comes_to_rest(pair)
        arrived, go_on, take = threading.Event(), threading.Event(), Answer.take
        last = pair.worker._steps + t + 1

        def slow(answer: Answer, pushed: Any) -> bool:
            if len(answer._ids) == t - 1:
                arrived.set()
                go_on.wait(WAIT)
            return take(answer, pushed)

        monkeypatch.setattr(Answer, "take", slow)
        events = pair.stream("w1", stop=(f"w{ids[t]}",), **options)
        assert arrived.wait(WAIT)
        deadline = time.monotonic() + WAIT
        while pair.worker._steps < last:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        events.cancel()
        go_on.set()
        assert comes_to_rest(pair)

    def test_closed_by_its_own_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the garbage is collected that an engine was part of, say."""
        engine = LocalEngine(stream("base", 1, SIZE))
        forward = PackedRows.forward

        def closes(*args: Any) -> Any:
            engine.close()
            return forward(*args)

        monkeypatch.setattr(PackedRows, "forward", closes)
        events = engine.stream("w1", max_new_tokens=50)
        for thread in engine.worker.threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        assert [event.completion is not None for event in events][-1]

    def test_closed_while_another_thread_waits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """That one gets the last event, and no error."""
        engine = LocalEngine(stream("base", 1, SIZE))
        running, go_on, forward = threading.Event(), threading.Event(), PackedRows.forward

        def slow(*args: Any) -> Any:
            running.set()
            go_on.wait(WAIT)
            return forward(*args)

        monkeypatch.setattr(PackedRows, "forward", slow)
        events = engine.stream("w1", max_new_tokens=3)

        def close() -> None:
            running.wait(WAIT)
            time.sleep(0.05)  # the reader waits by now
            events.close()
            go_on.set()

        threading.Thread(target=close, daemon=True).start()
        [event] = in_time(lambda: list(events))
        assert event.completion.finish_reason == "cancelled"
