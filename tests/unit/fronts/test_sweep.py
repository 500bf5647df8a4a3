"""A sweep's clock, and what it checks before the first response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimtab.engines.guides import Contrast
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Completion, Request
from trimtab.fronts import sweep as swept
from trimtab.fronts.guides import Guide
from trimtab.fronts.sweep import Sweep, require_vocabularies, respond, responses_file
from trimtab.scoring.score_files import read_jsonl


class Engine:
    """A second per token by its own clock, and a minute more for the first answer it gives."""

    now = 0.0

    def __init__(self, log: list[Any]) -> None:
        self.cold, self.log = 60.0, log

    def plan(self, request: Request) -> Request:
        return request

    def answers(self, plans: Sequence[Request], *, batch_size: int) -> Iterator[Completion]:
        self.log.append([(p.sampling.max_new_tokens, p.sampling.seed) for p in plans])
        for plan in plans:
            tokens = plan.sampling.max_new_tokens
            Engine.now += self.cold + tokens
            self.cold = 0.0
            yield Completion("x", [1] * tokens, "length", {}, 0.0)


def plan(tokens: int, guides: Sequence[Guide] = ()) -> Sweep:
    return Sweep(
        base="base", guides=guides, preferences=[{"a": 1.0, "b": 0.0}], seeds=[1, 2],
        prompts=["the cat", "the dog", "the sun"], sampling=Sampling(tokens), batch_size=4,
    )  # fmt: skip


@pytest.mark.parametrize("tokens", [7, 2])
def test_no_guide_pays_the_cold_start(
    tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []
    monkeypatch.setattr(swept, "_load", lambda *_: Engine(log))
    monkeypatch.setattr(swept.time, "perf_counter", lambda: Engine.now)
    arms = {"a": "A", "b": "B"}
    sweep = plan(tokens, [Guide("g", {1: arms, 2: {**arms, "b": "C"}}, 1.0)])
    job = responses_file(tmp_path / "out", {}, overwrite=False)
    respond(sweep, job, lambda *_: None)
    rows = list(read_jsonl(job.path))
    assert [row["seconds"] for row in rows] == [tokens] * sweep.size
    few = min(tokens, swept.WARM_UP)
    warm_ups, timed = log[::2], log[1::2]  # the base, and the guide at each seed
    assert [len(asked) for asked in timed] == [6, 3, 3]
    assert [len(asked) for asked in warm_ups] == [4, 3, 3]
    for warm, real in zip(warm_ups, timed, strict=True):
        assert warm == [(few, seed) for _, seed in real[:4]]
    assert job.done == sweep.size


def test_every_arm_is_checked_by_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "trimtab.engines.local.tokenization.check_vocabularies", lambda *found: seen.append(found)
    )
    arms = {"a": "A", "b": "B"}
    guides = [
        Guide("g", {1: arms, 2: arms}, 1.0),
        Guide("parm", {1: {"parm": "P"}, 2: {"parm": "P"}}, 1.0),
        Guide("s", {1: {"a": "1"}, 2: {"a": "2"}}, 1.0),
    ]
    require_vocabularies(replace(plan(3, guides), trust_remote_code=["a", "base"]))
    [(base, found, origins)] = seen
    assert base == "base" and origins.trusts("base") and not origins.trusts("parm")
    assert {name for name in found if origins.trusts(name)} == {
        "a of g", "a of s, seed 1", "a of s, seed 2",
    }  # fmt: skip
    assert found == {
        "a of g": "A", "b of g": "B", "parm": "P", "a of s, seed 1": "1", "a of s, seed 2": "2",
    }  # fmt: skip


def test_the_models_of_contrasts_are_called_after_their_guide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that a scorer of the same objective is another model: whose code may run, whose words."""
    seen: list[Any] = []
    monkeypatch.setattr(
        "trimtab.engines.local.tokenization.check_vocabularies", lambda *found: seen.append(found)
    )
    monkeypatch.setattr("trimtab.engines.local.load_engine", lambda *_, **how: seen.append(how))
    guide = Guide("g", {1: {}, 2: {}}, 1.0, contrast={"a": Contrast("T", "U", -1.0)})
    sweep = replace(plan(3, [guide]), trust_remote_code=["a", "g.a.reference", "base"])
    require_vocabularies(sweep)
    [(_, found, origins)] = seen
    assert found == {"g.a": "T", "g.a.reference": "U"}
    assert origins.trusts("g.a.reference") and not origins.trusts("g.a")
    swept._load(sweep, guide, {})
    assert seen[1]["trust_remote_code"] == ["base", "a.reference"]
    assert seen[1]["contrast"] == guide.contrast
