"""The judge against a server of our own: ratings, replies that are none, servers that stumble."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from trimtab.errors import ConfigError, ModelLoadError
from trimtab.evaluation.judge import Judge, parse_rating
from trimtab.evaluation.scored import Answer, score_answers, score_files

KEY = "sk-not-for-anyone"


class Server(ThreadingHTTPServer):
    """Answers with what `replies` says for each question in turn; the last one goes on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Any] = [(200, "Rating: 5")]
        self.bodies: list[Any] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def spec(self) -> str:
        return f"judge:tiny@http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["Authorization"])
            replies = self.server.replies
            status, content = replies.pop(0) if len(replies) > 1 else replies[0]
        if callable(content):
            content = content(body["messages"][0]["content"])
        reply = {"choices": [{"message": {"content": content}}]}
        data = content.encode() if status != 200 else json.dumps(reply).encode()
        if self.path != "/v1/chat/completions":
            status = 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def scores(spec: str, responses: list[str], rubric: str | None = None) -> list[float | None]:
    judge = Judge(spec, "helpful", rubric, pause=0.01)
    try:
        return judge.score(["the cat"] * len(responses), responses)
    finally:
        judge.close()


def test_many_responses_keep_their_order(server: Server) -> None:
    def rate(question: str) -> str:
        return f"Rating: {question.split('[Response to rate]')[1].split()[0].removeprefix('n')}"

    server.replies = [(200, rate)]
    numbers = [1 + i % 10 for i in range(40)]
    assert scores(server.spec, [f"n{i}" for i in numbers]) == numbers


def test_what_is_asked(server: Server) -> None:
    chat: Any = [{"role": "system", "content": "Be {kind}."}, {"role": "user", "content": "Why?"}]
    judge = Judge(server.spec, "harmless", "does no {harm}", pause=0.01)
    assert judge.score([chat], ["Because."]) == [5]
    judge.close()
    [body] = server.bodies
    assert (body["model"], body["temperature"]) == ("tiny", 0)
    [message] = body["messages"]
    for said in (
        "one objective only: harmless", 'What "harmless" means here: does no {harm}',
        "system: Be {kind}.\nuser: Why?\n", "Because.", "Rating: N",
    ):  # fmt: skip
        assert said in message["content"]
    assert server.keys == [None]


def test_a_reply_without_a_rating_is_a_missing_score(server: Server) -> None:
    server.replies = [(200, "I cannot say."), (200, None), (200, "Rating: 7")]
    judge = Judge(server.spec, "helpful")
    assert [judge.score(["x"], ["y"])[0] for _ in range(3)] == [None, None, 7]
    judge.close()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_stumbles_is_asked_again(server: Server, status: int) -> None:
    server.replies = [(status, "busy"), (status, "busy"), (200, "Rating: 9")]
    assert scores(server.spec, ["y"]) == [9]
    assert len(server.bodies) == 3


def test_a_server_that_stays_down_is_given_up(server: Server) -> None:
    server.replies = [(500, "out of\nmemory")]
    with pytest.raises(ModelLoadError, match=r"does not answer \(HTTP 500: out of memory\); see"):
        scores(server.spec, ["y"])
    assert len(server.bodies) == 3


def test_a_refusal_is_not_repeated_and_gives_no_key_away(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.replies = [(401, "x" * 190 + KEY)]
    with pytest.raises(ModelLoadError, match="HTTP 401") as refusal:
        scores(server.spec, ["y"])
    assert KEY[:8] not in str(refusal.value)
    assert server.keys == [f"Bearer {KEY}"]
    assert KEY not in json.dumps(dict(Judge(server.spec, "helpful").identity))


@pytest.mark.parametrize("key", [f"{KEY}\n", f"  {KEY}\r\n"])
def test_a_line_end_is_no_part_of_the_key(
    key: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert scores(server.spec, ["y"]) == [5]
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    "key", ["sk-geheim-ü", "sk-geheim sk-other", "sk-geheim\nx", "sk-geheim\x7f"]
)
def test_a_key_that_no_header_can_hold_is_not_shown(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds something") as refusal:
        Judge("judge:tiny@http://h/v1", "helpful")
    assert "geheim" not in str(refusal.value)


def test_the_key_is_masked_in_every_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    key = 'sk-"quoted\\key'
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server.replies = [(401, f"{key} {json.dumps(key)}")]
    with pytest.raises(ModelLoadError, match="HTTP 401") as refusal:
        scores(server.spec, ["y"])
    assert "quoted" not in str(refusal.value)

    def post(*_: Any, headers: Any, **__: Any) -> None:
        raise httpx.DecodingError(f"bad header {headers}")

    monkeypatch.setattr(httpx.Client, "post", post)
    with pytest.raises(ModelLoadError, match=r"bad header .*\*\*\*") as refusal:
        scores(server.spec, ["y"])
    assert "quoted" not in str(refusal.value)


def test_a_proxy_that_means_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://me:secret@h")
    with pytest.raises(ConfigError, match="the proxy that the environment names") as refusal:
        scores("judge:tiny@http://127.0.0.1:1/v1", ["y"])
    assert "secret" not in str(refusal.value)


def test_a_probe_finds_a_judge_that_is_down_and_takes_any_reply(server: Server) -> None:
    judge = Judge(server.spec, "helpful", pause=0.01)
    server.replies = [(200, "I cannot say.")]
    judge.probe("the cat")
    assert "the cat" in server.bodies[0]["messages"][0]["content"] and len(server.bodies) == 1
    server.replies = [(401, "no")]
    with pytest.raises(ModelLoadError, match="HTTP 401"):
        judge.probe("the cat")


def test_an_error_loses_few_replies(server: Server, tmp_path: Path) -> None:
    """The judge goes down after 36 replies: those of the chunks before are kept."""
    judge = Judge(server.spec, "helpful", pause=0.01)
    answers = [Answer("x", f"y{i}", f"row {i}") for i in range(40)]
    told: list[int] = []

    def score() -> list[float | None]:
        files = score_files(tmp_path.joinpath, {}, {"helpful": judge}, overwrite=False)
        return score_answers(files, answers, lambda _, done, __: told.append(done))["helpful"]

    server.replies = [*[(200, "Rating: 3")] * 36, (401, "no money left")]
    with pytest.raises(ModelLoadError, match="no money left"):
        score()
    assert told == [16, 32]
    asked = len(server.bodies)
    server.replies = [(200, "Rating: 4")]
    assert score() == [3] * 32 + [4] * 8
    assert len(server.bodies) == asked + 8


def test_another_kind_of_server(server: Server) -> None:
    server.replies = [(200, {"a": 1})]  # content that is no text: no rating
    assert scores(server.spec, ["y"]) == [None]
    with pytest.raises(ModelLoadError, match="HTTP 404"):
        scores(server.spec.replace("/v1", "/v2"), ["y"])


def test_nobody_there() -> None:
    with pytest.raises(ModelLoadError, match=r"the judge tiny at http://127.0.0.1:1/v1 does not"):
        scores("judge:tiny@http://127.0.0.1:1/v1", ["y"])


@pytest.mark.parametrize(
    "spec",
    [
        "judge:tiny",
        "judge:@http://h/v1",
        "judge:tiny@ftp://h/v1",
        "judge:tiny@http://",
        "judge:",
        "judge:tiny@http://[::1/v1",
        "judge:tiny@http://host:abc/v1",
        "judge:tiny@http://h:99999/v1",
    ],
)
def test_specs_that_cannot_be_read(spec: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the judge of 'helpful'; write it like"):
        Judge(spec, "helpful")


@pytest.mark.parametrize(
    "spec",
    [
        "judge:m@http://me:secret@h/v1",
        "judge:m@http://h/v1?key=secret",
        "judge:m@http://h/v1#key=secret",
    ],
)
def test_a_key_has_no_place_in_a_spec(spec: str) -> None:
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as refusal:
        Judge(spec, "helpful")
    assert "secret" not in str(refusal.value)


def test_a_model_name_may_have_slashes_colons_and_ats() -> None:
    identity = Judge("judge:org/model:free@v2@https://host/api/v1/", "helpful").identity
    assert (identity["judge"], identity["url"]) == ("org/model:free@v2", "https://host/api/v1")


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Rating: 7", 7), ("rating:10", 10), ("It is good.\nRating: 3.", 3), ("**Rating:** 8", 8),
        ("Rating: **8**", 8), ("Rating: [[4]]", 4), ("Rating = 2", 2), ("Rating: 9/10", 9),
        ("Rating: 9 / 10", 9), ("Rating: 2\nOn reflection:\nRating: 6", 6), ("7", 7),
        (" 10\n", 10), ("**5**", 5), ("6/10", 6), ("Rating: 6, I think", 6),
        ("", None), ("good", None), ("Rating: 0", None), ("Rating: 11", None),
        ("Rating: 7.5", None), ("Rating: 7-8", None), ("Rating: 3/5", None), ("Rating: N", None),
        ("Rating: -5", None), ("Rating: 85", None), ("12", None), ("I give 7", None),
        ("Rating: 5\nRating: none", None),
        ("Operating: 5", None), ("Rating: seven", None), ("7 or 8", None),
    ],
)  # fmt: skip
def test_ratings_are_read_strictly(reply: str, rating: float | None) -> None:
    assert parse_rating(reply) == rating
