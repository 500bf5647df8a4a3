"""`/v1/models`: what is served, what it can be steered to, and what is not supported."""

from __future__ import annotations

from typing import Any

from trimtab.engines.local.streams import Stream
from trimtab.serving.asking import Served
from trimtab.serving.contract import UNSUPPORTED
from trimtab.steering import Steering

OTHERWISE = {
    "messages[]": "keys that no chat template reads, and what the base's template leaves out",
    "messages[].content": "parts other than text",
    "messages[-1].role": "an answer that is begun: the last turn must be another's",
    "prompt": "log-probs of the prompt (`echo`); `/v1/score` gives those of an answer",
    "response_format": "JSON Schema keywords that cannot be held to; they are named",
    "repetition_penalty": "it depends on how logits are shifted; use presence and frequency",
}
"""Further things that are not supported."""


def page(served: Served, created: int) -> dict[str, Any]:
    """The list of models, of which there is one."""
    return {"object": "list", "data": [model(served, created)]}


def model(served: Served, created: int) -> dict[str, Any]:
    """What is served."""
    engine, config = served.engine, served.config
    return {
        "id": served.name,
        "object": "model",
        "created": created,
        "owned_by": "trimtab",
        "max_model_len": engine.limit,
        "trimtab": {
            "objectives": engine.objectives,
            "guides": [_guide(arm) for arm in engine.arms],
            "default_strength": config.strength,
            "default_preference": _default_preference(served),
            "default_max_tokens": config.default_max_tokens,
            "name_with_preference": _example(served),
            "unsupported": [*UNSUPPORTED, *OTHERWISE],
            "unsupported_details": OTHERWISE,
        },
    }


def _guide(arm: Stream) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": arm.name,
        "kind": _kind(arm),
        "objectives": list(arm.objectives),
        "scale": arm.scale,
    }
    if arm.instruction:
        told["instruction"] = arm.instruction
    return told


def _kind(arm: Stream) -> str:
    if arm.amateur:
        return "amateur"
    if arm.policy:
        return "policy"
    if arm.instruction:
        return "instruction"
    if arm.adapter and arm.adapter.objectives:
        return "conditioned ARM"
    return "contrast" if arm.reference else "ARM"


def _default_preference(served: Served) -> dict[str, float]:
    objectives = served.engine.objectives
    if not objectives:
        return {}
    return dict(Steering.of(objectives, served.config.preference).preference)


def _example(served: Served) -> str:
    objectives = served.engine.objectives
    if not objectives:
        return served.name
    shares = ",".join(f"{name}={1 / len(objectives):.2g}" for name in objectives)
    return f"{served.name}@{shares}"
