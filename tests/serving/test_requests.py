"""What becomes of one request: whose fault an error is, who is waited for, what is written down."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asgi
import httpx
import pytest
from asgi import idle
from pydantic import ValidationError
from served import Process, serving
from tokenizers.processors import TemplateProcessing

import trimtab
from trimtab.engines.local import LocalEngine
from trimtab.engines.local.batch import Batch
from trimtab.engines.restraints import Restraint
from trimtab.errors import ConfigError, TrimtabError
from trimtab.serving import asking
from trimtab.serving.app import create_app
from trimtab.serving.config import ServeConfig
from trimtab.serving.contract import ChatBody, CompletionBody, ScoreBody

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
        method = "GET" if body is None else "POST"
        return asgi.ask(self.app, method, path, json=body, headers=headers)

    def leave(self, path: str, body: Any, *, after: int = 0, half: bool = False) -> list[Any]:
        """A request whose client goes after so many messages, or in its midst; those it got."""
        sent: list[Any] = []

        async def go() -> None:
            asked = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": half}]
            gone = asyncio.Event()
            if not after:
                gone.set()

            async def receive() -> Any:
                if asked:
                    return asked.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)
                if len(sent) >= after:
                    gone.set()
                    await asyncio.sleep(0)

            scope = {
                "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
                "query_string": b"", "headers": [(b"content-type", b"application/json")],
                "http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"},
            }  # fmt: skip
            await asyncio.wait_for(self.app(scope, receive, send), 60)  # type: ignore[arg-type]

        asyncio.run(go())
        return sent


def test_scores_wait_their_turn_and_end_in_time(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Client(engine).ask(SCORE, score()).status_code == 200
    late = Client(engine, timeout=1e-6).ask(SCORE, score())
    assert late.status_code == 504 and "longer than it may" in late.text
    idle(engine)
    monkeypatch.setattr(type(engine.worker), "waiting", 3)
    many = Client(engine, max_waiting=4).ask(SCORE, score(5))
    assert many.status_code == 400 and "asks for 5 answers" in many.text
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


def test_a_stream_that_was_left_is_told_as_such(
    engine: LocalEngine, lines: Callable[[], Any]
) -> None:
    """499 in log and metrics, its tokens counted."""
    client = Client(engine)
    before = client.ask("/metrics").text
    client.leave(CHAT, chat(max_tokens=230, stream=True, logit_bias={"3": -100}), after=5)
    idle(engine)
    line, after = lines()[-1], client.ask("/metrics").text
    assert line["status"] == 499 and 0 < line["completion_tokens"] < 230
    asked = f'trimtab_requests_total{{path="{CHAT}",status="499"}} 1.0'
    assert asked in after and asked not in before
    [told] = [x for x in after.splitlines() if x.startswith("trimtab_generation_tokens_total ")]
    assert float(told.split()[1]) == line["completion_tokens"]


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
    assert client.ask("/nowhere/1").status_code == 401
    assert client.ask("/nowhere/1", Authorization="Bearer secret").status_code == 404
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
    client = Client(engine)
    planned.clear()
    asked = client.ask(CHAT, chat(n=8, temperature=1.0)).json()
    assert len(asked["choices"]) == 8 and len(planned) == 1
    assert len({choice["trimtab"]["seed"] for choice in asked["choices"]}) == 8


def test_a_stream_that_went_wrong_counts_as_such(
    engine: LocalEngine, lines: Callable[[], Any]
) -> None:
    client = Client(engine, timeout=1e-6)
    assert "longer than it may" in client.ask(CHAT, chat(stream=True)).text
    assert lines()[-1]["status"] == 504
    assert f'path="{CHAT}",status="504"' in client.ask("/metrics").text


def test_an_upload_that_was_left(engine: LocalEngine, lines: Callable[[], Any]) -> None:
    Client(engine).leave(CHAT, chat(), half=True)
    assert lines()[-1]["status"] == 499


def test_the_key_is_asked_for_below_any_path(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Put under /api by another app, and with the key in the environment."""
    monkeypatch.setenv("TRIMTAB_API_KEY", "secret")
    app = create_app(engine, "tiny")

    def asked(**headers: str) -> int:
        how: dict[str, Any] = {"json": chat(), "headers": headers}
        return asgi.ask(app, "POST", f"/api{CHAT}", root_path="/api", **how).status_code

    assert asked() == 401
    assert asked(Authorization="Bearer secret") == 200


def test_what_requests_fall_back_on_has_to_work(tiny_folder: Path, engine: LocalEngine) -> None:
    bare = trimtab.load(str(tiny_folder / "tiny"))
    for options in ({"strength": -1}, {"preference": "helpful=1"}, {"gate": 2}):
        with pytest.raises(TrimtabError):
            create_app(bare, "tiny", ServeConfig(**options))
    with pytest.raises(ConfigError):
        create_app(engine, "tiny", ServeConfig(speculate="x"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="behind an @"):
        create_app(engine, "a@b")
    bare.close()


def test_a_body_of_nonsense_is_told_of_once() -> None:
    """A hundred thousand faults would be gathered in the event loop, and take its time."""
    many = 100_000
    for kind, body in (
        (ChatBody, {"messages": [{"role": "user", "content": [{}] * many}]}),
        (ChatBody, {"messages": [{}] * many}),
        (CompletionBody, {"prompt": [0.5] * many}),
        (CompletionBody, {"prompt": [[0.5]] * 100}),
        (ScoreBody, {"input": [{}] * many}),
    ):
        with pytest.raises(ValidationError) as found:
            kind.model_validate({"model": "tiny", **body})
        assert found.value.error_count() < 20


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"logit_bias": {"1_0": 3}}, "the key '1_0'"),
        ({"logit_bias": {"05": 3}}, "the key '05'"),
        ({"logit_bias": {"9" * 5000: 3}}, "the key '999"),
        ({"messages": [{"role": "user", "content": []}]}, "content"),
        ({"stop": ["a", ""]}, "a stop text is empty"),
        (
            {"response_format": {"type": "json_object", "schema": {}}},
            "response_format has 'schema'",
        ),
        ({"response_format": {"type": "text", "json_schema": {}}}, "has 'json_schema'"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}},
            "json_schema has 'x'",
        ),
    ],
)
def test_nothing_is_taken_in_silence(engine: LocalEngine, asked: Any, told: str) -> None:
    reply = Client(engine).ask(CHAT, chat(**asked))
    assert reply.status_code == 400 and told in reply.text, reply.text


def test_a_prompt_never_ends_with_the_end(engine: LocalEngine) -> None:
    """Tokenizers that add an end-of-text token are asked for the text alone."""
    tokenizer: Any = engine.base.tokenizer
    raw = tokenizer._tokenizer
    before = raw.post_processor
    end = tokenizer.eos_token
    try:
        raw.post_processor = TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
        )
        body = {"model": "tiny", "prompt": "the cat", "max_tokens": 2}
        usage = Client(engine).ask("/v1/completions", body).json()["usage"]
        assert len(tokenizer("the cat")["input_ids"]) == usage["prompt_tokens"] + 1
    finally:
        raw.post_processor = before


# --- a process of its own ------------------------------------------------------------------------


def told_of(process: Process, seconds: float = 60) -> dict[str, Any]:
    """The line of a request that has just ended."""
    until = time.monotonic() + seconds
    while not (found := [line for line in process.lines if '"request_id"' in line]):
        assert time.monotonic() < until, process.lines
        time.sleep(0.05)
    told: dict[str, Any] = json.loads(found[-1])
    return told


LONG = {"max_tokens": 3900, "logit_bias": {"3": -100}, "stream": True}


def test_a_client_that_takes_nothing_is_cut_off(tiny_options: list[str]) -> None:
    """Its answer ends, though neither side has closed the connection."""
    asked = json.dumps(chat(**LONG, n=3, logprobs=True, top_logprobs=20)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with serving([*tiny_options, "--body-timeout", "1"]) as process:
        host, port = process.url.removeprefix("http://").split(":")
        with socket.socket() as deaf, socket.create_connection((host, int(port))) as slow:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((host, int(port)))
            deaf.sendall(f"{head}Content-Length: {len(asked)}\r\n\r\n".encode() + asked)
            line = told_of(process)
            assert line["status"] == 499 and line["completion_tokens"] < 3 * 3900
            slow.sendall(b"POST /v1/chat")  # half a head
            slow.settimeout(60)
            assert slow.recv(1) == b""


@pytest.mark.parametrize("stream", [False, True])
def test_time_to_drain_is_over(tiny_options: list[str], stream: bool) -> None:
    """What still runs is ended, and its client told why."""
    with serving([*tiny_options, "--drain-timeout", "0.3"]) as process:
        asked = chat(**{**LONG, "stream": stream})

        def end() -> None:
            until = time.monotonic() + 60
            batch = "trimtab_batch_size 1.0"
            while batch not in httpx.get(f"{process.url}/metrics", timeout=60).text:
                assert time.monotonic() < until
            process.running.send_signal(signal.SIGTERM)

        ender = threading.Thread(target=end)
        ender.start()
        reply = httpx.post(process.url + CHAT, json=asked, timeout=60)
        ender.join()
        assert "the server is going down" in reply.text
        assert reply.status_code == (200 if stream else 503)
        assert not stream or reply.text.endswith("data: [DONE]\n\n")
        assert process.running.wait(60) == 0
    posts = [json.loads(line) for line in process.lines if '"POST"' in line]
    assert posts[-1]["status"] == 503
