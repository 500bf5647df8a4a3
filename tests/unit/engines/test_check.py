"""An architecture that decodes wrongly is refused when it is loaded."""

from __future__ import annotations

import pytest
from oracle import engine_of

from trimtab.engines.local.check import check_groups, expected_logits
from trimtab.engines.local.engine import LocalEngine
from trimtab.errors import ConfigError


@pytest.fixture
def engine() -> LocalEngine:
    return engine_of([1, 2])


def test_what_agrees_passes(engine: LocalEngine) -> None:
    streams = (engine.base, *engine.arms)
    check_groups(engine.groups, {s.name: expected_logits(s.model) for s in streams})


def test_logits_that_change_after_the_head_are_refused(engine: LocalEngine) -> None:
    """One likely token's logit differs by 2: its log-prob by up to 2 nats."""
    logits = expected_logits(engine.arms[0].model)
    logits[logits.argmax()] -= 2
    with pytest.raises(ConfigError, match="LlamaForCausalLM cannot be decoded"):
        check_groups(engine.groups, {"a": logits})


def test_a_model_that_fails_on_our_caches_is_refused(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {"base": expected_logits(engine.base.model)}

    def no_cache(*args: object, **kwargs: object) -> object:
        raise AttributeError("no last_hidden_state")

    monkeypatch.setattr(engine.groups[0].lm.model, "forward", no_cache)
    with pytest.raises(ConfigError, match="AttributeError"):
        check_groups(engine.groups, expected)
