"""The judge against a server of our own: ratings, replies that are none, servers that stumble."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from chat_judge import Server, rated_response, serving

from trimtab.errors import ConfigError, ModelLoadError
from trimtab.scoring import chat_server
from trimtab.scoring.chat_replies import retry_after
from trimtab.scoring.judge import Judge, parse_rating
from trimtab.scoring.score_files import Answer, score_answers, score_files

KEY = "sk-not-for-anyone"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        yield server


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
    assert len(server.bodies) == 6  # the answer, then a harmless one: is it the text or the server?


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


FILTERED = {"error": {"message": "The prompt was filtered", "code": "content_filter"}}


def message(**facts: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **facts}, "finish_reason": "stop"}]}


def finished(reason: str, content: str | None) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content}, "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (400, FILTERED, "HTTP 400: .*The prompt was filtered"),
        (403, {"error": {"message": "Your input was flagged"}}, "HTTP 403: .*flagged"),
        (413, "too large", "HTTP 413: too large"),
        (422, "what?", r"HTTP 422: what\?"),
        (451, "not here", "HTTP 451"),
        (500, "cuda assert", r"does not answer \(HTTP 500: cuda assert\)"),
        (200, FILTERED, "HTTP 400: .*The prompt was filtered"),
        (200, message(content=None, refusal="I will not."), r"an empty reply \(I will not\.\)"),
        (200, message(content=None), r"an empty reply \(finish_reason stop\)"),
        (200, message(content=" "), "an empty reply"),
        (200, {"choices": []}, "an empty reply"),
        (200, {"choices": [{"message": None}]}, "an empty reply"),
        (200, finished("content_filter", "Rating: 9"), "finish_reason content_filter: Rating: 9"),
        (200, finished("length", "It is good. Rating: 1"), "finish_reason length: It is good"),
        (200, "No.", "'No.'"),
        (200, "Rating: nan", "'Rating: nan'"),
    ],
)
def test_one_refused_answer_is_one_missing_score(
    server: Server, status: int, content: Any, said: str
) -> None:
    """The other answers of the chunk are rated, whatever came in place of this one."""

    def rate(question: str) -> Any:
        number = rated_response(question).removeprefix("n")
        return (status, content) if number == "3" else f"Rating: {number}"

    server.replies = [(200, rate)]
    judge = Judge(server.spec, "helpful", pause=0.01)
    found = judge.score(["the cat"] * 9, [f"n{i}" for i in range(1, 10)])
    assert found == [1, 2, None, 4, 5, 6, 7, 8, 9]
    assert re.search(said, judge.trouble), judge.trouble
    judge.close()


@pytest.mark.parametrize("status", [302, 401, 402, 403, 404, 405, 429])
def test_what_concerns_every_answer_stops_at_once(server: Server, status: int) -> None:
    text = '{"error": {"code": "insufficient_quota"}}' if status == 429 else "no such model"
    server.replies = [(status, text)]
    with pytest.raises(ModelLoadError, match=f"does not answer .HTTP {status}"):
        scores(server.spec, ["y"] * 100)
    assert len(server.bodies) < 50  # eight, and what began before the others were called off


def test_text_that_brings_the_server_down_is_told_from_a_server_that_is_down(
    server: Server,
) -> None:
    """A chunk in which all fail: a harmless question finds out."""

    def rate(question: str) -> Any:
        return (500, "boom") if rated_response(question) == "bad" else "Rating: 4"

    server.replies = [(200, rate)]
    assert scores(server.spec, ["bad", "bad"]) == [None, None]


def unsupported(name: str, more: str) -> Any:
    said = f"Unsupported parameter: '{name}' is not supported with this model. {more}"
    return {"error": {"message": said, "param": name, "code": "unsupported_parameter"}}


def test_options_that_a_server_refuses_are_sent_otherwise_from_then_on(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A reasoning model: neither `max_tokens` nor a temperature."""

    def reply(body: Any) -> Any:
        if "max_tokens" in body:
            return 400, unsupported("max_tokens", "Use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return 400, {
                "error": {"message": "Unsupported value: 'temperature' does not support 0"}
            }
        return 200, "Rating: 8"

    server.replies = [reply]
    judge = Judge(server.spec, "helpful", pause=5.0)  # a switch is no failed attempt
    assert judge.score(["x"], ["y"]) == [8]
    options = [set(body) - {"model", "messages"} for body in server.bodies]
    assert options == [
        {"max_tokens", "temperature"}, {"max_completion_tokens", "temperature"},
        {"max_completion_tokens"},
    ]  # fmt: skip
    assert judge.score(["x"] * 4, ["y"] * 4) == [8] * 4
    assert len(server.bodies) == 7  # remembered
    assert [r.getMessage() for r in caplog.records] == [
        "the judge tiny takes no temperature: its own holds"
    ]
    judge.close()


def test_a_refusal_that_only_quotes_an_option_switches_nothing(server: Server) -> None:
    server.replies = [(400, "the text speaks of temperature")]
    assert scores(server.spec, ["y"]) == [None]
    assert len(server.bodies) == 1


# --- waiting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None), ({"retry-after": "6"}, 6), ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "soon"}, None), ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None), ({"retry-after": ""}, None),
        (
            {
                "retry-after": "Wed, 21 Oct 2015 07:28:00 GMT",
                "date": "Wed, 21 Oct 2015 07:27:15 GMT",
            },
            45,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),  # long ago
    ],
)  # fmt: skip
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize("status", [429, 503, 500])
def test_it_waits_as_long_as_the_server_says(server: Server, status: int) -> None:
    """Eight at once are turned away; nobody asks again before the time has come."""
    began = time.monotonic()

    def reply(body: Any) -> Any:
        early = time.monotonic() - began < 0.8
        return (status, "busy", {"Retry-After": "0.8"}) if early else (200, "Rating: 2")

    server.replies = [reply]
    assert scores(server.spec, ["y"] * 20) == [2] * 20
    assert time.monotonic() - began >= 0.8
    assert len(server.bodies) <= 20 + 2 * 8


def test_a_limit_without_a_time_is_waited_for_longer_than_a_failure(server: Server) -> None:
    server.replies = [*[(429, "busy")] * 6, (200, "Rating: 9")]
    assert scores(server.spec, ["y"]) == [9]
    server.bodies.clear()
    server.replies = [(429, "busy")]
    with pytest.raises(ModelLoadError, match=r"does not answer \(HTTP 429: busy"):
        scores(server.spec, ["y"])
    assert len(server.bodies) == 7


def test_nobody_waits_for_a_quota_of_tomorrow(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies = [(429, "quota", {"Retry-After": "86400"})]
    said = r"asks to wait 86400 s \(HTTP 429: quota\); nobody waits longer than 600 s at once"
    with pytest.raises(ModelLoadError, match=said):
        scores(server.spec, ["y"] * 20)
    monkeypatch.setattr(chat_server, "PATIENCE", 0.3)
    server.replies = [(429, "limit", {"Retry-After": "0.2"})]  # for ever
    with pytest.raises(ModelLoadError, match="or 0 s for one answer"):
        scores(server.spec, ["y"])


def test_threads_that_wait_do_not_hold_up_the_end(server: Server) -> None:
    """One is told to wait ten minutes, the next that the key is wrong."""
    both = threading.Barrier(2)  # asked before either is answered

    def reply(body: Any) -> Any:
        first = both.wait(timeout=60) == 0
        return (429, "busy", {"Retry-After": "600"}) if first else (401, "no")

    server.replies = [reply]
    began = time.monotonic()
    with pytest.raises(ModelLoadError, match="HTTP 401"):
        scores(server.spec, ["y"] * 2)
    assert time.monotonic() - began < 30


def test_a_probe_shows_a_reply_without_a_rating_and_refuses_what_is_no_text_of_ours(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    judge = Judge(server.spec, "helpful", pause=0.01)
    server.replies = [(200, "Fine.")]
    judge.probe("the cat")
    [said] = [record.getMessage() for record in caplog.records]
    assert said == "the judge tiny gives no rating at first: 'Fine.'"
    server.replies = [(400, FILTERED)]
    judge.probe("the cat")
    server.replies = [(400, "Invalid model name")]
    with pytest.raises(ModelLoadError, match=r"refuses a question \(HTTP 400: Invalid model"):
        judge.probe("the cat")


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
        ("<think>Rating: 3</think>\nRating: 8", 8), ("<think>Rating: 3</think> No.", None),
        ("Operating: 5", None), ("Rating: seven", None), ("7 or 8", None),
    ],
)  # fmt: skip
def test_ratings_are_read_strictly(reply: str, rating: float | None) -> None:
    assert parse_rating(reply) == rating
