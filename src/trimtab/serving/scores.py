"""`/v1/score`: what each guide thinks of given answers, and the base."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response

from trimtab.engines.local.rows import RowPlan
from trimtab.engines.types import Likelihood, Request
from trimtab.serving.asking import Served, chat_prompt, require_few, steered
from trimtab.serving.contract import Given, ScoreBody
from trimtab.serving.errors import NOBODY
from trimtab.serving.log import Note
from trimtab.serving.logprobs import LEAST
from trimtab.serving.metrics import Metrics
from trimtab.serving.streaming import in_time, require_place, unless_gone


async def score_given(
    body: ScoreBody, request: HttpRequest, served: Served, metrics: Metrics
) -> Response:
    """Rewards in nats, of each answer and of each of its tokens, the end of the turn included.

    Raises:
        TrimtabError: an answer that cannot be read, or not now.
    """
    note = Note.of(request.scope)
    require_few(len(body.input), served)
    require_place(served, 1)
    plans = await asyncio.to_thread(_plans, body, served)
    require_place(served, len(plans))
    read = in_time(served.engine.likelihoods(plans), note.arrived + served.config.timeout)
    found = await unless_gone(request, read)
    if found is None:
        return Response(status_code=NOBODY)
    usage = {"scored_tokens": sum(len(one.token_ids) for one in found)}
    note.told |= {"model": body.model, **usage}
    metrics.scored.inc(usage["scored_tokens"])
    return await asyncio.to_thread(
        lambda: JSONResponse({**_page(body, served, found), "usage": usage})
    )


def _plans(body: ScoreBody, served: Served) -> list[RowPlan]:
    how = steered(body, served)
    requests = [
        Request(_prompt(given, served), how["preference"], instructions=how["instructions"])
        for given in body.input
    ]
    responses = [given.response for given in body.input]
    return served.engine.given_plans(requests, responses, rewards=True, end_of_turn=True)


def _page(body: ScoreBody, served: Served, found: Sequence[Likelihood]) -> dict[str, Any]:
    texts = served.engine.token_texts
    return {
        "object": "score",
        "model": body.model,
        "data": [
            {
                "index": number,
                "token_ids": list(one.token_ids),
                "tokens": [texts[token] for token in one.token_ids],
                "rewards": {name: _told(values) for name, values in one.rewards.items()},
                "base": _told(one.logp_base),
                "preference": dict(one.preference),
            }
            for number, one in enumerate(found)
        ],
    }


def _prompt(given: Given, served: Served) -> Any:
    return given.prompt if given.messages is None else chat_prompt(given.messages, served)


def _told(values: Any) -> dict[str, Any]:
    finite = [max(value, LEAST) for value in values]
    mean = math.fsum(finite) / len(finite) if finite else 0.0
    return {"total": math.fsum(finite), "mean": mean, "per_token": finite}
