"""What benchmarks/serving counts as the same answer, as whole, and as a failed check."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks/serving"
MODULES = ("clients", "equal", "report", "servers")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Its modules, which import one another as a script's do."""
    from importlib import import_module
    from types import SimpleNamespace

    monkeypatch.syspath_prepend(str(FOLDER))
    yield SimpleNamespace(**{name: import_module(name) for name in MODULES})
    for name in MODULES:
        del sys.modules[name]


def answer(scripts: Any, ids: list[int], *, gap: float = 1.0, **how: Any) -> Any:
    tops = [{"logprob": -1.0}, {"logprob": -1.0 - gap}]
    tokens = [{"trimtab": {"token_id": token}, "top_logprobs": tops} for token in ids]
    return scripts.clients.Answer(tokens, **{"reason": "length", "done": True, **how})


def test_a_stream_that_was_cut_is_not_the_same(scripts: Any) -> None:
    alone, verdict = answer(scripts, [1, 2, 3]), scripts.equal.verdict
    assert verdict(answer(scripts, [1, 2, 3]), alone, None) == "same"
    assert verdict(answer(scripts, [1, 2], reason="", done=False), alone, None) == "cut"
    assert verdict(answer(scripts, [1, 2, 3], done=False), alone, None) == "cut"
    assert verdict(answer(scripts, [1, 2]), alone, None) == "different"  # and said it was whole
    assert verdict(answer(scripts, [1, 2, 3], reason="stop"), alone, None) == "different"
    assert verdict(answer(scripts, [1, 9, 3]), alone, None) == "different"
    near = answer(scripts, [1, 2, 3], gap=5e-5)
    assert verdict(answer(scripts, [1, 9, 3]), near, None) == "close"


def test_who_hangs_up_has_what_it_stayed_for(scripts: Any) -> None:
    how: Any = {"reason": "", "done": False}
    alone, verdict = answer(scripts, [1, 2, 3], **how), scripts.equal.verdict
    assert verdict(answer(scripts, [1, 2, 3, 4], **how), alone, 3) == "same"
    assert verdict(answer(scripts, [1, 2], **how), alone, 3) == "cut"
    assert verdict(answer(scripts, [1, 9, 3], **how), alone, 3) == "different"


def test_an_error_in_a_stream_is_no_answer(scripts: Any) -> None:
    with pytest.raises(RuntimeError, match="went wrong"):
        scripts.clients.Answer().take({"error": {"message": "it went wrong"}})


def test_a_server_that_does_not_come_up_says_why(scripts: Any) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such extra')"]
    with pytest.raises(scripts.servers.StartError, match="no such extra"):
        scripts.servers.Server(command, r"(http://\S+)")


def test_the_page_tells_what_was_not_measured_and_what_did_not_hold(
    scripts: Any, tmp_path: Path
) -> None:
    page = tmp_path / "README.md"
    page.write_text((FOLDER / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    result = {
        "tokens_a_second": {"ours": {"1": [3.0, 1.0, 2.0]}, "theirs": {"1": []}},
        "not_measured": {"theirs": "StartError: a line\nno such extra"},
        "checks": {"it is so": True, "it is fast": False},
        "seconds": 60.0,
        "conditions": {"device": "a CPU", "cores": 2, "date": "2026-01-01"},
    }
    scripts.report.put_in(page, "throughput", result)
    text = page.read_text(encoding="utf-8")
    assert "| ours | 2.0 |" in text and "| theirs | – |" in text
    assert "- theirs: no such extra" in text and "**Not so:** it is fast." in text
