"""Keys, queues, memory, time, hang-ups, signals and logs."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asgi
import httpx
import pytest
from asgi import idle
from served import serving

import trimtab
from trimtab.cli.serve import ServeOptions
from trimtab.engines.local import LocalEngine
from trimtab.engines.local.packed_rows import row_bytes
from trimtab.errors import ConfigError, PreferenceError
from trimtab.models import memory_limits
from trimtab.serving.app import create_app
from trimtab.serving.config import ServeConfig

PAGE = "/v1/chat/completions"


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Iterator[LocalEngine]:
    engine = trimtab.load(
        str(tiny_folder / "tiny"),
        {name: str(tiny_folder / name) for name in ("helpful", "harmless")},
    )
    yield engine
    engine.close()


def body(**changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "the cat sat"}]
    return {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0, **changes}


def ask(engine: LocalEngine, config: ServeConfig | None = None, **request: Any) -> httpx.Response:
    """One request, in this process."""
    app = create_app(engine, "tiny", config)
    return asgi.ask(app, request.pop("method", "POST"), request.pop("path", PAGE), **request)


def test_answers_are_the_engines(engine: LocalEngine) -> None:
    preference = {"helpful": 0.8, "harmless": 0.2}
    steering: dict[str, Any] = {"preference": preference, "strength": 1.5}
    reply = ask(engine, json=body(**steering, max_tokens=20)).json()["choices"][0]
    prompt: Any = body()["messages"]
    [own] = engine.generate([prompt], **steering, temperature=0, max_new_tokens=20)
    assert reply["message"]["content"] == own.text
    assert reply["trimtab"]["kl_per_token"] == pytest.approx(own.kl)


def test_the_rest_of_the_context_is_the_bound_where_none_is_given(engine: LocalEngine) -> None:
    asked = body()
    del asked["max_tokens"]
    bound = ask(engine, ServeConfig(default_max_tokens=5), json=asked).json()
    assert bound["usage"]["completion_tokens"] <= 5
    asked["messages"][0]["content"] = "the cat sat " * 640
    usage = ask(engine, json=asked).json()["usage"]
    assert usage["prompt_tokens"] > 3600 and usage["total_tokens"] <= 4096
    asked["messages"][0]["content"] = "the cat sat " * 1000
    reply = ask(engine, json=asked)
    assert reply.status_code == 400 and "shorten the prompt" in reply.text


def test_the_servers_own_steering_is_the_default(engine: LocalEngine) -> None:
    config = ServeConfig(preference="helpful=1,harmless=0", strength=2.0)
    told = ask(engine, config, json=body()).json()["choices"][0]["trimtab"]
    assert told["preference"] == {"helpful": 1, "harmless": 0} and told["strength"] == 2
    own = {"preference": {"helpful": 0, "harmless": 1}, "strength": 0.5}
    told = ask(engine, config, json=body(**own)).json()["choices"][0]["trimtab"]
    assert told["preference"] == {"helpful": 0, "harmless": 1} and told["strength"] == 0.5
    with pytest.raises(PreferenceError, match="unknown objective"):
        create_app(engine, "tiny", ServeConfig(preference="kind=1"))
    with pytest.raises(ConfigError, match="has an @"):
        ServeConfig(served_model_name="a@b")


def test_a_key_is_asked_for(engine: LocalEngine) -> None:
    config = ServeConfig(api_key="secret")
    for key in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        reply = ask(engine, config, json=body(), headers=key)
        assert reply.status_code == 401 and reply.json()["error"]["type"] == "authentication_error"
    right = {"Authorization": "Bearer secret"}
    assert ask(engine, config, json=body(), headers=right).status_code == 200
    assert ask(engine, config, method="GET", path="/health").status_code == 200
    assert ask(engine, config, method="GET", path="/v1/models").status_code == 401


def test_a_small_cache_is_the_bound_where_none_is_given(engine: LocalEngine) -> None:
    """Two models have 128 tokens each; with log-probs the ARM without a weight runs, too, and three
    have 64."""
    measured = LocalEngine(engine.base, engine.arms, cache_memory=2**40)
    memory = sum(row_bytes(group, 128) for group in measured.groups[:2])
    small = LocalEngine(engine.base, engine.arms, cache_memory=memory)
    asked = body(
        preference={"helpful": 1, "harmless": 0}, logit_bias=dict.fromkeys(small.ends, -100)
    )
    del asked["max_tokens"]
    for logprobs, most in ((False, 128), (True, 64)):
        usage = ask(small, json={**asked, "logprobs": logprobs}).json()["usage"]
        assert usage["total_tokens"] == most
    small.close()


def test_a_full_memory_sends_away(engine: LocalEngine) -> None:
    config = ServeConfig(min_free_memory=2**50, retry_after=7)
    reply = ask(engine, config, json=body())
    assert reply.status_code == 429 and reply.headers["Retry-After"] == "7"
    assert ask(engine, config, method="GET", path="/v1/models").status_code == 200


def test_a_full_container_sends_away(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever the machine has: the group of this process has 1 MiB left, then 1 GiB."""
    for name, number in (("max", 2**40), ("current", 2**40 - 2**20), ("stat", "inactive_file 0")):
        (tmp_path / f"memory.{name}").write_text(f"{number}\n")
    (tmp_path / "own").write_text("0::/\n")
    monkeypatch.setattr(memory_limits, "OWN", tmp_path / "own")
    monkeypatch.setattr(memory_limits, "ROOT", tmp_path)
    config = ServeConfig(min_free_memory=2**25)
    assert ask(engine, config, json=body()).status_code == 429
    (tmp_path / "memory.current").write_text(f"{2**40 - 2**30}\n")
    assert ask(engine, config, json=body()).status_code == 200


def test_a_full_queue_sends_away(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(engine.worker), "waiting", 3)
    reply = ask(engine, ServeConfig(max_waiting=3), json=body())
    assert reply.status_code == 429 and reply.headers["Retry-After"] == "1"
    assert "3 answers wait already" in reply.text
    assert ask(engine, ServeConfig(max_waiting=4), json=body()).status_code == 200
    reply = ask(engine, ServeConfig(max_waiting=4), json=body(n=5))
    assert reply.status_code == 400 and "asks for 5 answers" in reply.text


def test_time_is_up(engine: LocalEngine) -> None:
    config = ServeConfig(timeout=1e-6)
    reply = ask(engine, config, json=body(max_tokens=200))
    assert reply.status_code == 504 and "longer than it may" in reply.text
    lines = ask(engine, config, json=body(max_tokens=200, stream=True)).text.split("\n\n")
    assert "longer than it may" in lines[-3] and lines[-2] == "data: [DONE]"
    idle(engine)


def test_metrics_count_each_answer_once(engine: LocalEngine) -> None:
    """The conformance suite can say no more than `at least`: others may ask the same server."""

    async def go() -> tuple[dict[str, int], str]:
        transport = httpx.ASGITransport(create_app(engine, "tiny"))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            usage = (await client.post(PAGE, json=body(n=2))).json()["usage"]
            return usage, (await client.get("/metrics")).text

    usage, page = asyncio.run(go())
    counted = dict(line.rsplit(" ", 1) for line in page.splitlines() if line[0] != "#")
    for name, value in {
        "prompt_tokens_total": usage["prompt_tokens"],
        "generation_tokens_total": usage["completion_tokens"],
        "kl_per_token_nats_count": 2,
        "time_to_first_token_seconds_count": 2,
        "request_seconds_count": 2,
        f'requests_total{{path="{PAGE}",status="200"}}': 1,
        "requests_waiting": 0,
    }.items():
        assert float(counted[f"trimtab_{name}"]) == value, name


@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_ends_the_answer(
    engine: LocalEngine, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client goes after the third token; the model, held there until it is told, is at most
    two steps ahead."""
    taken: list[int] = []
    told = threading.Event()
    step, cancel = type(engine.worker)._write_one, type(engine.worker).cancel

    def counted(worker: Any, pushed: Any) -> None:
        taken.append(len(pushed.ids))
        if sum(taken) >= 3:
            told.wait(30) or told.set()  # if nobody tells, it goes on to the end
        step(worker, pushed)

    def cancelled(worker: Any, key: int) -> None:
        cancel(worker, key)
        told.set()

    monkeypatch.setattr(type(engine.worker), "_write_one", counted)
    monkeypatch.setattr(type(engine.worker), "cancel", cancelled)
    asked = json.dumps(body(max_tokens=230, stream=stream, logit_bias={"3": -100})).encode()

    async def go() -> list[Any]:
        begun, sent = False, []

        async def receive() -> Any:
            nonlocal begun
            if not begun:
                begun = True
                return {"type": "http.request", "body": asked, "more_body": False}
            while sum(taken) < 3:
                await asyncio.sleep(0.001)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": PAGE, "raw_path": PAGE.encode(),
            "query_string": b"", "headers": [(b"content-type", b"application/json")],
            "http_version": "1.1", "scheme": "http", "asgi": {"version": "3.0"},
        }  # fmt: skip
        await asyncio.wait_for(create_app(engine, "tiny")(scope, receive, send), 60)
        return sent

    sent = asyncio.run(go())
    idle(engine)
    assert 3 <= sum(taken) <= 5
    if not stream:
        assert sent[0]["status"] == 499


def test_pages_of_others_may_not_ask_unless_named(engine: LocalEngine) -> None:
    asked = {"Origin": "http://page.example", "Access-Control-Request-Method": "POST"}
    closed = ask(engine, method="OPTIONS", headers=asked)
    assert "access-control-allow-origin" not in closed.headers
    config = ServeConfig(allow_origin=["http://page.example"], api_key="secret")
    opened = ask(engine, config, method="OPTIONS", headers=asked)
    assert opened.status_code == 200
    assert opened.headers["access-control-allow-origin"] == "http://page.example"
    other = ask(engine, config, method="OPTIONS", headers={**asked, "Origin": "http://evil"})
    assert "access-control-allow-origin" not in other.headers


def test_logs_hold_no_text_unless_asked(
    engine: LocalEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trimtab.serving.requests")
    logger_propagates()
    answer = ask(engine, json=body()).json()["choices"][0]["message"]["content"]
    [told] = [json.loads(record.message) for record in caplog.records]
    assert told["status"] == 200 and told["completion_tokens"] > 0 and told["model"] == "tiny"
    assert told["preference"] == {"helpful": 0.5, "harmless": 0.5}
    assert "cat sat" not in caplog.text
    caplog.clear()
    ask(engine, ServeConfig(log_prompts=True), json=body())
    [told] = [json.loads(record.message) for record in caplog.records]
    assert "the cat sat" in json.dumps(told["prompts"]) and told["answers"] == [answer]
    caplog.clear()
    ask(engine, json=body(strength=-1))
    [told] = [json.loads(record.message) for record in caplog.records]
    assert told["status"] == 400


def logger_propagates() -> None:
    import logging

    logging.getLogger("trimtab.serving.requests").propagate = True


def test_a_template_that_leaves_something_out_is_named(engine: LocalEngine) -> None:
    called = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    told = {"role": "assistant", "content": "Well", "tool_calls": [called]}
    messages = [*body()["messages"], told, {"role": "tool", "content": "5", "tool_call_id": "a"}]
    reply = ask(engine, json=body(messages=messages))
    assert reply.status_code == 400 and "does not show `tool_calls`" in reply.text
    given = {"model": "tiny", "input": [{"messages": messages, "response": "Yes."}]}
    reply = ask(engine, path="/v1/score", json=given)
    assert reply.status_code == 400 and "does not show `tool_calls`" in reply.text
    del told["tool_calls"]
    assert ask(engine, json=body(messages=messages)).status_code == 200


def test_a_template_that_fails_is_named(engine: LocalEngine) -> None:
    messages = [{"role": "system", "content": "Be kind."}, *body()["messages"]]
    reply = ask(engine, json=body(messages=messages))
    assert reply.status_code == 400
    assert "template" in reply.text and "System role not supported" in reply.text


# --- a process of its own ------------------------------------------------------------------------


@pytest.fixture
def start(tiny_options: list[str]) -> Callable[..., Any]:
    return lambda *options, **environment: serving([*tiny_options, *options], **environment)


def test_sigterm_lets_answers_end(start: Callable[..., Any]) -> None:
    with start() as process:
        asked = body(max_tokens=200, stream=True, n=16, logit_bias={"3": -100})
        with httpx.stream("POST", process.url + PAGE, json=asked, timeout=60) as reply:
            lines = reply.iter_lines()
            next(lines)
            process.running.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert sum('"finish_reason": "length"' in line for line in rest) == 16
        assert process.running.wait(60) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{process.url}/health", timeout=60)
    assert json.loads(process.lines[-1])["status"] == 200


def test_a_key_of_the_environment_and_a_slow_body(start: Callable[..., Any]) -> None:
    with start("--body-timeout", "2", TRIMTAB_API_KEY="secret") as process:
        assert httpx.post(process.url + PAGE, json=body(), timeout=60).status_code == 401
        right = {"Authorization": "Bearer secret"}
        assert (
            httpx.post(process.url + PAGE, json=body(), headers=right, timeout=60).status_code
            == 200
        )
        host, port = process.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as slow:
            head = f"POST {PAGE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
            slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert b" 408 " in slow.recv(4096)
        with pytest.raises(AssertionError, match="cannot listen at"), start("--port", port):
            pass
        assert process.stop(signal.SIGINT) == 0


def test_the_model_is_called_as_its_folder_is(tiny_folder: Path, tmp_path: Path) -> None:
    """`make models` links a folder of a long name: the link's own is what people gave."""
    (tmp_path / "Mine").symlink_to(tiny_folder / "tiny")
    for place, name in ((f"{tmp_path / 'Mine'}/", "Mine"), ("owner/model", "owner/model")):
        assert ServeOptions(base=place).config.served_model_name == name
    assert ServeOptions(base=".").config.served_model_name == Path.cwd().name


def test_bad_options_are_refused_before_anything_is_loaded(tiny_options: list[str]) -> None:
    for options, told in (
        (["--strength", "-1"], "negative"),
        (["--preference", "kind=1"], "unknown objective"),
        (["--timeout", "0"], "timeout is 0"),
        (["--served-model-name", "a@b"], "has an @"),
    ):
        with pytest.raises(AssertionError, match=told), serving([*tiny_options, *options]):
            pass


def test_nobody_waits_when_all_are_answered(engine: LocalEngine) -> None:
    """Answers that are whole after their first step leave no count behind."""
    for _ in range(3):
        reply = ask(engine, ServeConfig(max_waiting=4), json=body(n=4, max_tokens=1))
        assert reply.status_code == 200
        idle(engine)
        assert engine.worker.waiting == 0
