"""Forwards that are captured once and replayed with other numbers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from oracle import GREEDY, Captures, is_specified, stream, with_lora
from test_scheduler import SIZE, words
from torch import Tensor

from trimtab.engines.local import packed_rows
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.graphs import Captured, Function, Graphs
from trimtab.engines.types import Request

LONG = GREEDY.but(max_new_tokens=40, ignore_eos=True)


def plus_one(x: Tensor) -> Tensor:
    return x + 1


def test_a_layout_that_stays_is_captured() -> None:
    captures = Captures()
    graphs = Graphs(captures)
    for n in range(10):
        assert graphs.run("a", plus_one, [torch.tensor([n])]).tolist() == [n + 1]
    assert (captures.made, captures.replayed) == (1, 8)
    graphs.run("b", plus_one, [torch.zeros(1)])
    graphs.run("a", plus_one, [torch.zeros(1)])
    assert (captures.made, captures.replayed) == (1, 9)


def test_layouts_that_change_are_not() -> None:
    captures = Captures()
    graphs = Graphs(captures)
    for n in range(20):
        graphs.run(n % 2, plus_one, [torch.zeros(1)])
    assert captures.made == 0


def test_what_cannot_be_captured_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def refuse(function: Function, inputs: Sequence[Tensor]) -> Captured:
        tries.append(function)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = Graphs(refuse)
    with caplog.at_level("INFO"):
        for n in range(20):
            assert graphs.run("a", plus_one, [torch.tensor([n])]).tolist() == [n + 1]
    assert len(tries) == 1
    assert "not permitted" in caplog.text


def test_replayed_decoding_is_as_specified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of unequal length that grow out of their shelf, a LoRA, an ARM of its own; slots that
    were used before, under other preferences."""
    captures = Captures()
    monkeypatch.setattr(packed_rows, "graphs_of", lambda model: Graphs(captures))
    base = stream("base", 1, SIZE)
    engine = LocalEngine(base, [with_lora(base, "a", 3), stream("b", 2, SIZE)])
    for time in range(3):
        requests = [
            Request(words(i, 3 + 25 * i), {"a": 1 + (i + time) % 3, "b": 1}, 1.0, LONG)
            for i in range(3)
        ]
        for request, answer in zip(requests, engine.generate(requests), strict=True):
            assert is_specified(engine, request, answer.token_ids)
    assert captures.made >= 4
    assert captures.replayed > 10 * captures.made
