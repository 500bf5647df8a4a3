"""`/v1/score`: what each guide thinks of given answers, and the base."""

from __future__ import annotations

import math
from typing import Any

from trimtab.engines.types import Likelihood, Request
from trimtab.serving.asking import Served, chat_prompt, steered
from trimtab.serving.contract import Given, ScoreBody
from trimtab.serving.logprobs import LEAST


def scored(body: ScoreBody, served: Served) -> dict[str, Any]:
    """Rewards in nats, of each answer and of each of its tokens, the end of the turn included.

    Raises:
        TrimtabError: an answer that cannot be read.
    """
    how = steered(body, served)
    requests = [
        Request(_prompt(given), how["preference"], instructions=how["instructions"])
        for given in body.input
    ]
    found = served.engine.log_likelihoods(
        requests, [given.response for given in body.input], rewards=True, end_of_turn=True
    )
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
        "usage": _usage(found),
    }


def _prompt(given: Given) -> Any:
    return given.prompt if given.messages is None else chat_prompt(given.messages)


def _told(values: Any) -> dict[str, Any]:
    finite = [max(value, LEAST) for value in values]
    mean = math.fsum(finite) / len(finite) if finite else 0.0
    return {"total": math.fsum(finite), "mean": mean, "per_token": finite}


def _usage(found: list[Likelihood]) -> dict[str, int]:
    read = sum(len(one.token_ids) for one in found)
    return {"scored_tokens": read}
