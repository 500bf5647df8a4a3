"""Token reports as OpenAI's log-probs, with what each stream thought of the token beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trimtab.engines.types import Alternative, TokenReport

LEAST = -9999.0
"""What stands for a probability of 0: JSON has no infinity."""


def chat_logprobs(reports: Sequence[TokenReport]) -> dict[str, Any]:
    """`choices[].logprobs` of a chat."""
    content = [
        {
            **_entry(report),
            "top_logprobs": [_entry(other) for other in report.alternatives],
            "trimtab": _streams(report),
        }
        for report in reports
    ]
    return {"content": content, "refusal": None}


def text_logprobs(reports: Sequence[TokenReport], start: int) -> dict[str, Any]:
    """`choices[].logprobs` of a completion.

    Args:
        reports: of the tokens.
        start: characters of the texts of the choice's tokens before the first of them.
    """
    offsets, at = [], start
    for report in reports:
        offsets.append(at)
        at += len(report.text)
    return {
        "tokens": [report.text for report in reports],
        "token_logprobs": [_finite(report.logp_fused) for report in reports],
        "top_logprobs": [_by_text(report) for report in reports],
        "text_offset": offsets,
        "trimtab": [_streams(report) for report in reports],
    }


def _by_text(report: TokenReport) -> dict[str, float]:
    """The likeliest tokens and the chosen one by their texts. Of tokens whose texts are equal all
    but the likeliest are called as vLLM calls them: `token_id:5`."""
    found: dict[str, float] = {}
    for token_id, token in {one.token_id: one for one in (*report.alternatives, report)}.items():
        name = f"token_id:{token_id}" if token.text in found else token.text
        found[name] = _finite(token.logp_fused)
    return found


def _entry(token: Alternative) -> dict[str, Any]:
    """A token: its fused log-prob, before temperature and filters. A part of a character has no
    text, and so no bytes of its own."""
    known = "\ufffd" not in token.text
    return {
        "token": token.text,
        "logprob": _finite(token.logp_fused),
        "bytes": list(token.text.encode()) if known else None,
    }


def _streams(report: TokenReport) -> dict[str, Any]:
    return {
        "token_id": report.token_id,
        "base_logprob": _finite(report.logp_base),
        "rewards": {name: _finite(value) for name, value in report.rewards.items()},
        "mean_rewards": {name: _finite(value) for name, value in report.mean_rewards.items()},
        "kl": report.kl,
        "strength": report.strength,
    }


def _finite(logp: float) -> float:
    return max(logp, LEAST)
