"""Other people's clients, unchanged, and Trimtab's own judge."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import httpx
import openai
import pytest

from trimtab.errors import ModelLoadError
from trimtab.scoring.judge_server import JudgeServer

CHAT: Any = [{"role": "user", "content": "Once upon a time"}]


@pytest.fixture(scope="module")
def model(url: str) -> str:
    return str(httpx.get(f"{url}/v1/models", timeout=120).json()["data"][0]["id"])


@pytest.fixture(scope="module")
def objectives(url: str) -> list[str]:
    own = httpx.get(f"{url}/v1/models", timeout=120).json()["data"][0]["trimtab"]
    return list(own["objectives"])


def test_openai(url: str, model: str, objectives: list[str]) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    assert [each.id for each in client.models.list()] == [model]
    weights = dict.fromkeys(objectives, 1.0)
    asked: Any = {"model": model, "messages": CHAT, "max_completion_tokens": 8, "temperature": 0}
    steering = {"preference": weights, "strength": 1.5}
    answer = client.chat.completions.create(**asked, extra_body=steering, logprobs=True)
    assert answer.choices[0].message.content is not None and answer.usage
    assert answer.choices[0].logprobs and answer.choices[0].logprobs.content
    pieces = client.chat.completions.create(
        **asked, extra_body=steering, stream=True, stream_options={"include_usage": True}
    )
    said, usage = "", None
    for piece in pieces:
        usage = piece.usage or usage
        said += "".join(choice.delta.content or "" for choice in piece.choices)
    assert said == answer.choices[0].message.content and usage == answer.usage
    told = answer.choices[0].message  # and back, as OpenAI's own pages do
    for earlier in (told, told.model_dump(), told.model_dump(exclude_none=True)):
        client.chat.completions.create(**{**asked, "messages": [*CHAT, earlier, *CHAT]})
    text = client.completions.create(model=model, prompt="Once upon", max_tokens=4)
    assert text.choices[0].finish_reason in ("stop", "length")
    with pytest.raises(openai.BadRequestError, match="unknown objective"):
        client.chat.completions.create(**asked, extra_body={"preference": {"no": 1}})
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**asked, "model": "other"})


def test_openai_parses_a_schema(url: str, model: str) -> None:
    from pydantic import BaseModel, ConfigDict

    class Verdict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        good: bool

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    answer = client.chat.completions.parse(
        model=model, messages=CHAT, response_format=Verdict, max_tokens=40
    )
    message: Any = answer.choices[0].message
    assert isinstance(message.parsed, Verdict)
    asked: Any = {"model": model, "messages": [*CHAT, message, *CHAT], "max_tokens": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OpenAI's, of its own `parsed`
        assert client.chat.completions.create(**asked).choices


def test_openai_async(url: str, model: str) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:

            async def one(seed: int) -> str:
                pieces = await client.chat.completions.create(
                    model=model, messages=CHAT, max_tokens=8, seed=seed, stream=True
                )
                return "".join([p.choices[0].delta.content or "" async for p in pieces])

            return list(await asyncio.gather(*(one(seed) for seed in range(8))))

    answers = asyncio.run(ask())
    assert answers == asyncio.run(ask()) and len(set(answers)) > 1


def test_litellm(
    url: str, model: str, objectives: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it looks for prices
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import litellm

        asked: Any = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "none"}
        asked |= {"messages": CHAT, "max_tokens": 8, "temperature": 0}
        asked["extra_body"] = {"preference": dict.fromkeys(objectives, 1.0), "strength": 1.5}
        answer = litellm.completion(**asked)
        pieces = list(litellm.completion(**asked, stream=True))
        told = answer.choices[0].message  # and back
        for earlier in (told, told.model_dump()):
            again = litellm.completion(**{**asked, "messages": [*CHAT, earlier, *CHAT]})
            assert again.choices[0].message.content is not None
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert said == answer.choices[0].message.content


def test_langchain(url: str, model: str, objectives: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_openai import ChatOpenAI

        flat = ",".join(f"{name}=1" for name in objectives)
        chat = ChatOpenAI(
            model=f"{model}@{flat}",
            base_url=f"{url}/v1",
            api_key="none",  # type: ignore[arg-type]
            max_completion_tokens=8,
            temperature=0,
        )
        answer = chat.invoke("Once upon a time")
        said = "".join(str(piece.content) for piece in chat.stream("Once upon a time"))
        assert chat.invoke([("user", "Once"), answer, ("user", "upon")]).usage_metadata  # and back
    assert answer.content == said and answer.usage_metadata


def test_our_own_judge(url: str, model: str) -> None:
    """A random model seldom ends: then the judge refuses a reply that is cut, and nothing else."""
    judge = JudgeServer(f"judge:{model}@{url}/v1", "the judge")
    replies = judge.replies(["Once upon a time", "the dog"])
    judge.close()
    for reply in replies:
        assert isinstance(reply, str) or str(reply).startswith("finish_reason length"), reply
    with pytest.raises(ModelLoadError, match="no model 'other'"):
        JudgeServer(f"judge:other@{url}/v1", "the judge").replies(["Once upon a time"])
