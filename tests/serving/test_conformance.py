"""What any server of Trimtab's must do, asked over HTTP alone: give it a URL (conftest.py)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def facts(client: httpx.Client) -> dict[str, Any]:
    [model] = client.get("/v1/models").json()["data"]
    return dict(model)


@pytest.fixture
def chat(facts: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Once upon a time"}]
    return {"model": facts["id"], "messages": messages, "max_tokens": 8, "temperature": 0}


def objectives(facts: dict[str, Any]) -> list[str]:
    return list(facts["trimtab"]["objectives"])


def told(client: httpx.Client, body: dict[str, Any], page: str = "chat/completions") -> Any:
    reply = client.post(f"/v1/{page}", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def text(client: httpx.Client, body: dict[str, Any]) -> str:
    return str(told(client, body)["choices"][0]["message"]["content"])


def events(client: httpx.Client, body: dict[str, Any], page: str = "chat/completions") -> list[Any]:
    with client.stream("POST", f"/v1/{page}", json={**body, "stream": True}) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def refused(client: httpx.Client, body: dict[str, Any], status: int = 400) -> str:
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["code"] == status and error["type"]
    return str(error["message"])


# --- facts ---------------------------------------------------------------------------------------


def test_the_models_page_lists_what_can_be_steered(facts: dict[str, Any]) -> None:
    own = facts["trimtab"]
    assert facts["object"] == "model" and own["objectives"] and own["guides"]
    assert math.isclose(math.fsum(own["default_preference"].values()), 1)
    assert own["default_strength"] > 0 and "tools" in own["unsupported"]


def test_it_is_well_and_says_its_version(client: httpx.Client) -> None:
    assert client.get("/health").status_code == 200
    assert client.get("/version").json()["version"]


def test_the_metrics_count_what_was_asked(client: httpx.Client, chat: dict[str, Any]) -> None:
    def counted(name: str) -> float:
        page = client.get("/metrics").text
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name)
        )

    before = counted("trimtab_generation_tokens_total")
    kl = counted("trimtab_kl_per_token_nats_count")
    written = told(client, chat)["usage"]["completion_tokens"]
    assert counted("trimtab_generation_tokens_total") >= before + written
    assert counted("trimtab_kl_per_token_nats_count") >= kl + 1
    assert counted('trimtab_requests_total{path="/v1/chat/completions",status="200"}') >= 1
    names = ("requests_waiting", "batch_size", "time_to_first_token_seconds", "draft_acceptance")
    assert all(f"trimtab_{name}" in client.get("/metrics").text for name in names)


# --- answers -------------------------------------------------------------------------------------


def test_a_chat_is_answered(client: httpx.Client, chat: dict[str, Any]) -> None:
    answer = told(client, chat)
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] in ("stop", "length")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["completion_tokens"] <= 8


def test_a_stream_is_the_answer_in_pieces(client: httpx.Client, chat: dict[str, Any]) -> None:
    pieces = events(client, chat)
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    assert len({piece["id"] for piece in pieces}) == 1
    said = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    assert said == text(client, chat)
    reasons = [piece["choices"][0]["finish_reason"] for piece in pieces]
    assert reasons[-1] in ("stop", "length") and not any(reasons[:-1])
    assert not any(piece.get("usage") for piece in pieces)


def test_a_stream_ends_with_usage_where_that_is_asked(
    client: httpx.Client, chat: dict[str, Any]
) -> None:
    pieces = events(client, {**chat, "stream_options": {"include_usage": True}})
    assert pieces[-1]["choices"] == [] and pieces[-1]["usage"] == told(client, chat)["usage"]
    assert all(piece["usage"] is None for piece in pieces[:-1])


def test_n_answers_have_seeds_of_their_own(client: httpx.Client, chat: dict[str, Any]) -> None:
    body = {**chat, "n": 3, "temperature": 1, "seed": 5, "max_tokens": 12}
    answers = [choice["message"]["content"] for choice in told(client, body)["choices"]]
    assert len(answers) == 3 and len(set(answers)) > 1
    assert answers == [c["message"]["content"] for c in told(client, body)["choices"]]
    pieces = events(client, body)
    streamed = ["", "", ""]
    for piece in pieces:
        choice = piece["choices"][0]
        streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == answers


def test_a_seed_gives_the_same_answer_again(client: httpx.Client, chat: dict[str, Any]) -> None:
    body = {**chat, "temperature": 1, "max_tokens": 16}
    assert text(client, {**body, "seed": 1}) == text(client, {**body, "seed": 1})
    others = {text(client, {**body, "seed": seed}) for seed in range(4)}
    assert len(others) > 1


def test_a_stop_text_ends_and_is_left_out(client: httpx.Client, chat: dict[str, Any]) -> None:
    body = {**chat, "max_tokens": 16}
    whole = text(client, body)
    stop = whole[len(whole) // 2]
    answer = told(client, {**body, "stop": stop})["choices"][0]
    assert answer["message"]["content"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"
    assert text(client, {**body, "stop": ["never to be seen", stop]}) == whole[: whole.index(stop)]


def test_tokens_have_their_bound_by_either_name(client: httpx.Client, chat: dict[str, Any]) -> None:
    del chat["max_tokens"]
    for name in ("max_tokens", "max_completion_tokens"):
        answer = told(client, {**chat, name: 3})
        assert answer["usage"]["completion_tokens"] <= 3


def test_text_goes_on_without_a_template(client: httpx.Client, facts: dict[str, Any]) -> None:
    body = {"model": facts["id"], "prompt": "Once upon", "max_tokens": 6, "temperature": 0}
    answer = told(client, body, "completions")
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    several = told(client, {**body, "prompt": ["Once upon", "The dog"], "n": 2}, "completions")
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert several["choices"][0]["text"] == answer["choices"][0]["text"]
    pieces = events(client, body, "completions")
    said = "".join(piece["choices"][0]["text"] for piece in pieces)
    assert said == answer["choices"][0]["text"]


# --- log-probs -----------------------------------------------------------------------------------


def test_log_probs_are_of_the_fused_distribution(
    client: httpx.Client, chat: dict[str, Any]
) -> None:
    answer = told(client, {**chat, "logprobs": True, "top_logprobs": 3})
    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == answer["usage"]["completion_tokens"]
    for token in content:
        best = token["top_logprobs"]
        assert len(best) == 3 and best[0]["logprob"] >= best[1]["logprob"] >= best[2]["logprob"]
        assert token["logprob"] == pytest.approx(best[0]["logprob"])  # greedy
        own = token["trimtab"]
        assert own["base_logprob"] <= 0 and own["rewards"] and own["kl"] >= 0
    warm = told(client, {**chat, "logprobs": True, "temperature": 0.5, "seed": 1, "top_p": 0.5})
    first, hot = content[0], warm["choices"][0]["logprobs"]["content"][0]
    if hot["trimtab"]["token_id"] == first["trimtab"]["token_id"]:
        assert hot["logprob"] == pytest.approx(first["logprob"], abs=1e-3)  # before temperature


def test_the_fused_log_prob_is_base_plus_weighted_rewards(
    client: httpx.Client, chat: dict[str, Any], facts: dict[str, Any]
) -> None:
    """log π ∝ log π_b + Σ w_i r_i: a difference of two tokens has no normalisation in it."""
    body = {**chat, "logprobs": True, "top_logprobs": 2, "strength": 1.5, "max_tokens": 1}
    first = told(client, body)["choices"][0]["logprobs"]["content"][0]
    other = told(client, {**body, "logit_bias": {str(first["trimtab"]["token_id"]): -100}})
    second = other["choices"][0]["logprobs"]["content"][0]
    shares = facts["trimtab"]["default_preference"]
    scales = {name: g["scale"] for g in facts["trimtab"]["guides"] for name in g["objectives"]}
    differences = []
    for token in (first, second):
        own = token["trimtab"]
        pull = sum(1.5 * shares[n] * scales[n] * own["rewards"][n] for n in own["rewards"])
        differences.append(token["logprob"] - own["base_logprob"] - pull)
    assert differences[0] == pytest.approx(differences[1], abs=2e-3)


def test_streamed_log_probs_are_those_of_the_whole(
    client: httpx.Client, chat: dict[str, Any]
) -> None:
    body = {**chat, "logprobs": True, "top_logprobs": 1}
    pieces = [piece["choices"][0]["logprobs"] for piece in events(client, body)]
    streamed = [token for piece in pieces if piece for token in piece["content"]]
    whole = told(client, body)["choices"][0]["logprobs"]["content"]
    assert [t["token"] for t in streamed] == [t["token"] for t in whole]
    assert [t["logprob"] for t in streamed] == pytest.approx([t["logprob"] for t in whole])


def test_completions_have_log_probs_in_their_own_form(
    client: httpx.Client, facts: dict[str, Any]
) -> None:
    body = {"model": facts["id"], "prompt": "Once upon", "max_tokens": 4, "temperature": 0}
    found = told(client, {**body, "logprobs": 2}, "completions")["choices"][0]["logprobs"]
    assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["text_offset"])
    assert all(len(each) == 2 for each in found["top_logprobs"])
    alone = told(client, {**body, "logprobs": 0}, "completions")["choices"][0]["logprobs"]
    chosen = zip(alone["tokens"], alone["token_logprobs"], strict=True)
    assert alone["top_logprobs"] == [{token: logprob} for token, logprob in chosen]


def test_the_chosen_token_is_among_the_likeliest(
    client: httpx.Client, facts: dict[str, Any]
) -> None:
    """Hot, so that it is none of them by itself; parts of characters have one text together."""
    body = {"model": facts["id"], "prompt": "Once upon", "max_tokens": 24, "logprobs": 20}
    for seed in range(3):
        answer = told(client, {**body, "temperature": 3, "seed": seed}, "completions")
        found = answer["choices"][0]["logprobs"]
        for logprob, best in zip(found["token_logprobs"], found["top_logprobs"], strict=True):
            assert len(best) in (20, 21) and logprob in best.values()


def test_streamed_offsets_are_those_of_the_whole(
    client: httpx.Client, facts: dict[str, Any]
) -> None:
    """Also where text is held back, for the rest of a character or of a stop text."""
    body = {"model": facts["id"], "prompt": "Once upon", "max_tokens": 24, "logprobs": 1}
    body |= {"temperature": 2, "stop": [f"{letter}!never" for letter in "abcdefghij"]}
    for seed in range(3):
        pieces = events(client, {**body, "seed": seed}, "completions")
        parts = [part for piece in pieces if (part := piece["choices"][0]["logprobs"])]
        whole = told(client, {**body, "seed": seed}, "completions")["choices"][0]["logprobs"]
        for name in ("tokens", "text_offset"):
            assert [n for part in parts for n in part[name]] == whole[name]
        ends = [0]
        for token in whole["tokens"]:
            ends.append(ends[-1] + len(token))
        assert whole["text_offset"] == ends[:-1]


# --- what changes the distribution ---------------------------------------------------------------


def test_a_bias_forbids_and_forces(client: httpx.Client, chat: dict[str, Any]) -> None:
    body = {**chat, "logprobs": True}
    tokens = told(client, body)["choices"][0]["logprobs"]["content"]
    first = tokens[0]["trimtab"]["token_id"]
    without = told(client, {**body, "logit_bias": {str(first): -100}})
    ids = [t["trimtab"]["token_id"] for t in without["choices"][0]["logprobs"]["content"]]
    assert first not in ids
    forced = told(client, {**body, "logit_bias": {str(first): 100}, "max_tokens": 4})
    ids = [t["trimtab"]["token_id"] for t in forced["choices"][0]["logprobs"]["content"]]
    assert ids == [first] * 4
    assert forced["choices"][0]["logprobs"]["content"][0]["logprob"] == pytest.approx(
        tokens[0]["logprob"], abs=1e-3
    )  # before the bias


@pytest.mark.parametrize("presence, frequency", [(2, 0), (0, 2), (0, 0.7), (1.5, 0.5), (-2, -0.5)])
def test_penalties_are_taken_from_what_was_said(
    client: httpx.Client, facts: dict[str, Any], presence: float, frequency: float
) -> None:
    """Greedy, and a bias leaves six tokens: each that comes has the most of its log-prob, less the
    presence penalty if it was said and the frequency penalty for each time. Prompts
    do not count."""
    body = {"model": facts["id"], "temperature": 0, "logprobs": 1}
    words = told(client, {**body, "prompt": "Once upon a time", "max_tokens": 12}, "completions")
    likely = [*dict.fromkeys(ids_of(words["choices"][0]))][:6]
    few = {"logit_bias": dict.fromkeys(map(str, likely), 80)}
    penalties = {"presence_penalty": presence, "frequency_penalty": frequency}
    asked = {**body, **few, **penalties, "prompt": likely[:1], "max_tokens": 12}
    said = ids_of(told(client, asked, "completions")["choices"][0])
    contexts = [likely[:1] + said[:count] for count in range(len(said))]
    logps = {}
    for token in likely:  # forced, once after each context
        forced = {"logit_bias": {str(token): 100}, "prompt": contexts, "max_tokens": 1}
        choices = told(client, {**body, **forced}, "completions")["choices"]
        assert all(ids_of(choice) == [token] for choice in choices)
        logps[token] = [choice["logprobs"]["token_logprobs"][0] for choice in choices]
    moved = 0
    for step, token in enumerate(said):
        counts = Counter(said[:step])
        free = {one: logps[one][step] for one in likely}
        taken = {one: presence * (counts[one] > 0) + frequency * counts[one] for one in likely}
        scores = {one: free[one] - taken[one] for one in likely}
        assert scores[token] >= max(scores.values()) - 1e-3
        moved += free[token] < max(free.values())
    if (presence, frequency) == (0, 2):  # others may leave the best token of every step the best
        assert moved, "the penalties changed nothing"


def ids_of(choice: dict[str, Any]) -> list[int]:
    """Tokens of a completion."""
    return [token["token_id"] for token in choice["logprobs"]["trimtab"]]


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "good": {"type": "boolean"}},
    "required": ["name", "good"],
    "additionalProperties": False,
}


def test_json_by_a_schema_survives_fusion(client: httpx.Client, chat: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    for extra in ({}, {"strength": 8}, {"temperature": 1, "seed": 3}, {"strength": 0}):
        answer = told(client, {**chat, **extra, "response_format": form, "max_tokens": 60})
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "stop"
        found = json.loads(choice["message"]["content"])
        assert found.keys() == {"name", "good"} and isinstance(found["good"], bool)
        assert len(found["name"]) <= 4
    plain = {**chat, "response_format": {"type": "text"}}
    assert text(client, plain) == text(client, chat)


# --- steering ------------------------------------------------------------------------------------


def test_strength_0_is_the_base(client: httpx.Client, chat: dict[str, Any]) -> None:
    body = {**chat, "logprobs": True, "strength": 0}
    for token in told(client, body)["choices"][0]["logprobs"]["content"]:
        own = token["trimtab"]
        assert token["logprob"] == pytest.approx(own["base_logprob"], abs=1e-5) and own["kl"] == 0


def test_every_way_to_say_a_preference_is_the_same(
    client: httpx.Client, chat: dict[str, Any], facts: dict[str, Any]
) -> None:
    first, *others = objectives(facts)
    shares = {first: 0.75, **{name: 0.25 / len(others) for name in others}}
    flat = ",".join(f"{name}={share}" for name, share in shares.items())
    body = {**chat, "max_tokens": 12, "logprobs": True}
    answers = [
        told(client, {**body, **steering})["choices"][0]
        for steering in (
            {"preference": shares, "strength": 2.0},
            {"preference": flat, "strength": 2.0},
            {"vllm_xargs": {"preference": flat, "strength": 2.0}},
            {"model": f"{facts['id']}@{flat}", "strength": 2.0},
        )
    ]
    told_of = [answer["trimtab"]["preference"] for answer in answers]
    assert all(each == pytest.approx(shares) for each in told_of)
    texts = [answer["message"]["content"] for answer in answers]
    assert texts == [texts[0]] * 4
    logprobs = [[t["logprob"] for t in a["logprobs"]["content"]] for a in answers]
    assert all(each == pytest.approx(logprobs[0], abs=1e-5) for each in logprobs)


def test_preferences_change_the_distribution(
    client: httpx.Client, chat: dict[str, Any], facts: dict[str, Any]
) -> None:
    first, second, *_ = objectives(facts)
    body = {**chat, "logprobs": True, "top_logprobs": 5, "max_tokens": 1, "strength": 2}

    def best(preference: dict[str, float]) -> list[float]:
        answer = told(client, {**body, "preference": preference})
        token = answer["choices"][0]["logprobs"]["content"][0]
        return [other["logprob"] for other in token["top_logprobs"]]

    zero = dict.fromkeys(objectives(facts), 0.0)
    assert best({**zero, first: 1.0}) != pytest.approx(best({**zero, second: 1.0}), abs=1e-4)


def test_a_budget_bounds_the_divergence(client: httpx.Client, chat: dict[str, Any]) -> None:
    body = {**chat, "strength": 8, "logprobs": True, "max_tokens": 12}
    free = told(client, body)["choices"][0]
    bound = told(client, {**body, "kl_budget": 0.05})["choices"][0]
    assert free["trimtab"]["kl_per_token"] > 0.05
    assert all(t["trimtab"]["kl"] <= 0.0502 for t in bound["logprobs"]["content"])


# --- scores --------------------------------------------------------------------------------------


def test_answers_are_scored_in_total_and_by_token(
    client: httpx.Client, facts: dict[str, Any]
) -> None:
    asked = [
        {"prompt": "Once upon a time", "response": "the dog ran"},
        {"messages": [{"role": "user", "content": "Once upon a time"}], "response": "the dog ran"},
    ]
    first, second = told(client, {"model": facts["id"], "input": asked}, "score")["data"]
    for name, reward in first["rewards"].items():
        same = second["rewards"][name]["per_token"]
        assert reward["per_token"] == pytest.approx(same, abs=1e-4)
    assert first["rewards"].keys() == {guide["name"] for guide in facts["trimtab"]["guides"]}
    for reward in (*first["rewards"].values(), first["base"]):
        assert reward["total"] == pytest.approx(math.fsum(reward["per_token"]), abs=1e-4)
        assert len(reward["per_token"]) == len(first["token_ids"]) == len(first["tokens"])


def test_scores_take_no_setting_that_says_nothing_of_them(
    client: httpx.Client, facts: dict[str, Any]
) -> None:
    body = {"model": facts["id"], "input": [{"prompt": "Once", "response": "the dog"}]}
    first, *others = objectives(facts)
    flat = ",".join([f"{first}=1", *(f"{name}=0" for name in others)])
    [scored] = told(client, {**body, "vllm_xargs": {"preference": flat}}, "score")["data"]
    assert scored["preference"][first] == 1
    for name, value in {"strength": 1, "gate": 0.5, "kl_budget": 1, "speculate": "on"}.items():
        for extra in ({name: value}, {"vllm_xargs": {name: value}}):
            reply = client.post("/v1/score", json={**body, **extra})
            assert reply.status_code == 400 and name in reply.json()["error"]["message"]


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told_of"),
    [
        ({"preference": {"no such": 1}}, "unknown objective 'no such'"),
        ({"preference": "no such"}, "no such"),
        ({"preference": [1]}, "a preference must be an object or text"),
        ({"strength": -1}, "negative"),
        ({"strength": "much"}, "not a number"),
        ({"strength": 1e9}, "too large"),
        ({"kl_budget": -1}, "kl_budget is -1"),
        ({"gate": 2}, "gate is 2"),
        ({"instruct": {"nobody": "Be brief."}}, "nobody"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n:"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**31 - 1}, "shorten the prompt or lower"),
        ({"stop": ["x"] * 10_000}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages.0"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "no content"),
        ({"messages": [{"role": "assistant", "content": "Well"}]}, "begun is not supported"),
        ({"messages": [{"role": "user", "content": 5}]}, "content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0.type: input should be 'text'",
        ),
        ({"tools": [{"type": "function"}]}, "tools is not supported"),
        ({"audio": {}}, "audio is not supported"),
        ({"best_of": 2}, "best_of is not supported"),
        ({"best_of": True}, "best_of is not supported"),  # 1, to Python
        ({"store": 0}, "store is not supported"),
        ({"modalities": ["audio"]}, "modalities is not supported"),
        ({"wings": 2}, "wings is not supported"),
        ({"logit_bias": {"one": 1}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "99999999 is no token id"),
        ({"logit_bias": {"1": 1000}}, "logit_bias"),
        ({"response_format": {"type": "yaml"}}, "'yaml'"),
        ({"response_format": {"type": "json_schema"}}, "no JSON schema"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "array", "uniqueItems": True}},
                }
            },
            "uniqueItems",
        ),
        ({"stream_options": {"include_usage": True}}, "stream_options without stream"),
        ({"top_logprobs": 2}, "top_logprobs without logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"vllm_xargs": {"speed": 1}}, "'speed'"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    client: httpx.Client, chat: dict[str, Any], change: dict[str, Any], told_of: str
) -> None:
    assert told_of in refused(client, {**chat, **change})


@pytest.mark.parametrize(
    ("extra", "told_of"),
    [
        ({"wings": 2}, "messages.0.wings is not supported"),
        ({"tools": [{"type": "function"}]}, "messages.0.tools is not supported"),
        ({"refusal": "No."}, "messages.0.refusal is not supported"),
        ({"audio": {"id": "a"}}, "messages.0.audio is not supported"),
        ({"function_call": {"name": "f"}}, "messages.0.function_call is not supported"),
        ({"annotations": [{"type": "url_citation"}]}, "messages.0.annotations is not supported"),
        ({"name": 5}, "messages.0.name"),
        ({"role": "user", "tool_calls": [{"id": "a"}]}, "'user' and tool_calls"),
        ({"tool_call_id": "a"}, "'assistant' and tool_call_id"),
        (
            {"content": [{"type": "text", "text": "Well", "wings": 2}]},
            "messages.0.content.0.wings is not supported",
        ),
    ],
)
def test_what_a_message_holds_besides_is_refused_by_name(
    client: httpx.Client,
    chat: dict[str, Any],
    facts: dict[str, Any],
    extra: dict[str, Any],
    told_of: str,
) -> None:
    messages = [{"role": "assistant", "content": "Well", **extra}, *chat["messages"]]
    assert told_of in refused(client, {**chat, "messages": messages})
    body = {"model": facts["id"], "input": [{"messages": messages, "response": "the dog"}]}
    reply = client.post("/v1/score", json=body)
    assert reply.status_code == 400
    assert told_of.replace("messages.0", "input.0.messages.0") in reply.text.replace('\\"', '"')


def test_an_answer_may_come_back_as_it_was_sent(client: httpx.Client, chat: dict[str, Any]) -> None:
    message = told(client, chat)["choices"][0]["message"]
    [asked] = chat["messages"]
    plain = {"role": "assistant", "content": message["content"]}
    answers = [
        text(client, {**chat, "messages": [asked, earlier, asked]})
        for earlier in (
            plain,
            message,
            {**plain, "name": None, "refusal": None, "annotations": [], "tool_calls": None},
            {**plain, "tool_calls": [], "provider_specific_fields": {"refusal": None}},
            {**plain, "content": [{"type": "text", "text": plain["content"], "extra": None}]},
        )
    ]
    assert answers == [answers[0]] * 5


def test_weights_are_checked_as_on_the_command_line(
    client: httpx.Client, chat: dict[str, Any], facts: dict[str, Any]
) -> None:
    names = objectives(facts)
    for weights, sentence in (
        (dict.fromkeys(names, 0), "zero"),
        ({**dict.fromkeys(names, 1), names[0]: -1}, "is negative"),
    ):
        assert sentence in refused(client, {**chat, "preference": weights})
    body = json.dumps({**chat, "preference": dict.fromkeys(names, "@")}).replace('"@"', "NaN")
    reply = client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400 and "not finite" in reply.text
    twice = {**chat, "preference": dict.fromkeys(names, 1)}
    twice["vllm_xargs"] = {"preference": ",".join(f"{name}=1" for name in names)}
    assert "give it once" in refused(client, twice)


def test_what_asks_for_nothing_is_let_pass(client: httpx.Client, chat: dict[str, Any]) -> None:
    empty = {"tools": [], "tool_choice": "none", "store": False, "metadata": {}, "best_of": 1}
    nulls = dict.fromkeys(("stop", "seed", "logit_bias", "response_format", "audio", "n"))
    assert text(client, {**chat, **empty, **nulls, "user": "me"}) == text(client, chat)


def test_another_model_is_not_found(client: httpx.Client, chat: dict[str, Any]) -> None:
    assert "no model 'other'" in refused(client, {**chat, "model": "other"}, 404)
    assert client.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"null",
        b"[]",
        b'"text"',
        b'{"model": 5}',
    ],
)
def test_a_body_that_is_none(client: httpx.Client, body: bytes) -> None:
    reply = client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert reply.status_code == 400 and reply.json()["error"]["message"]


def test_half_a_character(client: httpx.Client, chat: dict[str, Any]) -> None:
    for place in ("messages", "stop", "model", "preference"):
        change: Any = {
            "messages": [{"role": "user", "content": "\ud800"}],
            "stop": "\ud800",
            "model": "\ud800",
            "preference": {"\ud800": 1},
        }[place]
        reply = client.post(
            "/v1/chat/completions",
            content=json.dumps({**chat, place: change}),
            headers={"content-type": "application/json"},
        )
        assert reply.status_code in (400, 404), place


def test_a_huge_body(client: httpx.Client, chat: dict[str, Any]) -> None:
    chat["messages"][0]["content"] = "a" * 2**21
    assert "larger than" in refused(client, chat, 413)


def test_a_deep_schema(client: httpx.Client, chat: dict[str, Any]) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        schema = {"type": "object", "properties": {"a": schema}}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    reply = client.post("/v1/chat/completions", json={**chat, "response_format": form})
    assert reply.status_code in (200, 400)
