"""What becomes of one request: whose fault an error is, who is waited for, what is written down."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import trimtab
from trimtab.engines.local import LocalEngine
from trimtab.engines.local.batch import Batch
from trimtab.engines.restraints import Restraint
from trimtab.errors import ConfigError
from trimtab.serving import asking
from trimtab.serving.app import create_app
from trimtab.serving.config import ServeConfig

CHAT, SCORE = "/v1/chat/completions", "/v1/score"


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Iterator[LocalEngine]:
    engine = trimtab.load(str(tiny_folder / "tiny"), {"helpful": str(tiny_folder / "helpful")})
    yield engine
    engine.close()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """What the log has of requests."""
    caplog.set_level("INFO", "trimtab.serving.requests")
    logging.getLogger("trimtab.serving.requests").propagate = True
    return lambda: [json.loads(record.message) for record in caplog.records if "{" in record.msg]


def chat(**changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "the cat sat"}]
    return {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0, **changes}


def score(count: int = 1, words: int = 3) -> dict[str, Any]:
    given = {"prompt": "the cat", "response": " ".join(["happy"] * words)}
    return {"model": "tiny", "input": [given] * count}


class Client:
    """Asks the app itself.

    Args:
        engine: that answers.
        config: the server's options.
    """

    def __init__(self, engine: LocalEngine, **config: Any) -> None:
        self.app = create_app(engine, "tiny", ServeConfig(**config))

    def ask(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request, to its end."""

        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                if body is None:
                    return await client.get(path, headers=headers)
                return await client.post(path, json=body, headers=headers)

        return asyncio.run(go())

    def leave(self, path: str, body: Any, *, after: int = 0, stall: bool = False) -> list[Any]:
        """A request whose client goes after so many messages, or takes no more; those it got."""
        sent: list[Any] = []

        async def go() -> None:
            asked = [{"type": "http.request", "body": json.dumps(body).encode()}]
            gone = asyncio.Event()
            if not after:
                gone.set()

            async def receive() -> Any:
                if asked:
                    return asked.pop()
                await (asyncio.Event() if stall else gone).wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)
                if len(sent) >= after:
                    gone.set()
                    await asyncio.sleep(1e9 if stall else 0)

            scope = {
                "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
                "query_string": b"", "headers": [(b"content-type", b"application/json")],
                "http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"},
            }  # fmt: skip
            await asyncio.wait_for(self.app(scope, receive, send), 60)  # type: ignore[arg-type]

        asyncio.run(go())
        return sent


def idle(engine: LocalEngine) -> None:
    until = time.monotonic() + 60
    while engine.worker.busy:
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.01)


def test_scores_wait_their_turn_and_end_in_time(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Client(engine).ask(SCORE, score()).status_code == 200
    late = Client(engine, timeout=1e-6).ask(SCORE, score())
    assert late.status_code == 504 and "longer than it may" in late.text
    idle(engine)
    monkeypatch.setattr(type(engine.worker), "waiting", 3)
    full = Client(engine, max_waiting=4).ask(SCORE, score(2))
    assert full.status_code == 429 and full.headers["Retry-After"] == "1"
    assert Client(engine, max_waiting=4).ask(SCORE, score(1)).status_code == 200


def test_scores_of_a_client_that_has_gone_are_not_read(
    engine: LocalEngine, lines: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    write = type(engine.worker)._write_one
    monkeypatch.setattr(
        type(engine.worker), "_write_one", lambda w, p: (read.append(len(p.ids)), write(w, p))[1]
    )
    asked = score(200, 1000)
    sent = Client(engine, max_body_bytes=2**22).leave(SCORE, asked)
    idle(engine)
    assert sent[0]["status"] == 499 and lines()[-1]["status"] == 499
    assert sum(read) < 200 * 1000 / 2  # of all that was asked


def test_who_is_to_blame(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that no token fits any more is the request's own fault; what breaks here is ours."""
    client, form = Client(engine), {"response_format": {"type": "json_object"}}
    with monkeypatch.context() as patched:

        def stuck(self: Any, logp_V: Any) -> Any:
            raise ConfigError("no token fits the response_format any more")

        patched.setattr(Restraint, "on", stuck)
        asked = client.ask(CHAT, chat(**form))
        assert asked.status_code == 400 and "fits the response_format" in asked.text
        stream = client.ask(CHAT, chat(**form, stream=True)).text
        assert '"code": 400' in stream and stream.endswith("data: [DONE]\n\n")
    with monkeypatch.context() as patched:

        def broken(self: Any, rows: Any) -> Any:
            raise ArithmeticError("broken")

        patched.setattr(Batch, "step", broken)
        for path, body in ((CHAT, chat()), (SCORE, score())):
            asked = client.ask(path, body)
            assert asked.status_code == 500 and "broken" in asked.text
    assert client.ask(CHAT, chat()).status_code == 200


def test_an_engine_that_is_closed(tiny_folder: Path) -> None:
    engine = trimtab.load(str(tiny_folder / "tiny"))
    engine.close()
    for path, body in ((CHAT, chat()), (SCORE, score())):
        asked = Client(engine).ask(path, body)
        assert asked.status_code == 503 and "Retry-After" in asked.headers, asked.text


def test_so_many_log_probs_are_not_gathered(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "MOST_REPORTED", 100)
    client, told = Client(engine), {"logprobs": True, "top_logprobs": 4}
    assert client.ask(CHAT, chat(**told, max_tokens=10, n=2)).status_code == 200
    for more in ({"max_tokens": 11, "n": 2}, {"max_tokens": 10, "n": 3}):
        asked = client.ask(CHAT, chat(**told, **more))
        assert asked.status_code == 400 and "log-probs" in asked.text and "n or top" in asked.text
    assert client.ask(CHAT, chat(max_tokens=50, n=3)).status_code == 200


@pytest.mark.parametrize("stall", [False, True])
def test_a_stream_that_was_left_is_told_as_such(
    engine: LocalEngine, lines: Callable[[], Any], stall: bool
) -> None:
    """The client goes, or takes no more: 499 in log and metrics, its tokens counted."""
    client = Client(engine, body_timeout=0.2 if stall else 20)
    before = client.ask("/metrics").text
    client.leave(
        CHAT, chat(max_tokens=230, stream=True, logit_bias={"3": -100}), after=5, stall=stall
    )
    idle(engine)
    line, after = lines()[-1], client.ask("/metrics").text
    assert line["status"] == 499 and 0 < line["completion_tokens"] < 230
    asked = f'trimtab_requests_total{{path="{CHAT}",status="499"}} 1.0'
    assert asked in after and asked not in before
    [told] = [x for x in after.splitlines() if x.startswith("trimtab_generation_tokens_total ")]
    assert float(told.split()[1]) == line["completion_tokens"]
    assert ("took nothing" in line.get("error", "")) == stall


def test_the_log_says_why(engine: LocalEngine, lines: Callable[[], Any]) -> None:
    client = Client(engine)
    for body, why in (
        (chat(strength=-1), "negative"),
        (chat(best_of=3), "best_of is not supported"),
        (chat(model="other"), "no model"),
        ({"model": "tiny"}, "messages is missing"),
    ):
        assert client.ask(CHAT, body).status_code in (400, 404)
        assert why in lines()[-1]["error"]


def test_refusals_at_the_gate(engine: LocalEngine, lines: Callable[[], Any]) -> None:
    """They are counted by page, and end the connection: the body is not read to its end."""
    client = Client(engine, api_key="secret", max_body_bytes=300)
    for headers, body, status in (
        ({}, chat(), 401),
        ({"Authorization": "bearer secret"}, chat(user="x" * 400), 413),
    ):
        asked = client.ask(CHAT, body, **headers)
        assert asked.status_code == status and asked.headers["Connection"] == "close"
        assert lines()[-1]["error"] == asked.json()["error"]["message"]
    assert client.ask(CHAT, chat(), Authorization="bearer  secret").status_code == 200
    assert client.ask(CHAT, chat(), Authorization="Basic secret").status_code == 401
    told = client.ask("/metrics").text
    assert f'path="{CHAT}",status="401"}} 2.0' in told and f'path="{CHAT}",status="413"' in told
    assert client.ask("/nowhere/1").status_code == 404
    assert 'path="other",status="404"' in client.ask("/metrics").text


def test_a_page_in_a_browser_may_read_when_to_come_again(engine: LocalEngine) -> None:
    origin = "http://page.example"
    client = Client(engine, allow_origin=[origin], min_free_memory=2**50)
    asked = client.ask(CHAT, chat(), Origin=origin)
    assert asked.status_code == 429
    assert "Retry-After" in asked.headers["access-control-expose-headers"]


def test_answers_of_one_request_are_planned_once(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[Any] = []
    plan = type(engine._planner).plan
    monkeypatch.setattr(
        type(engine._planner), "plan", lambda *a, **k: (planned.append(1), plan(*a, **k))[1]
    )
    asked = Client(engine).ask(CHAT, chat(n=8, temperature=1.0)).json()
    assert len(asked["choices"]) == 8 and len(planned) == 1
    assert len({choice["trimtab"]["seed"] for choice in asked["choices"]}) == 8
