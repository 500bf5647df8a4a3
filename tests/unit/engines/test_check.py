"""A stream that does not compute what its library does is refused when it is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from oracle import engine_of

from trimtab.engines.local.check import Case, check_groups
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.streams import Stream
from trimtab.errors import ConfigError, ModelLoadError
from trimtab.models.probe import reference, rms_gap

IDS = [4, 9, 7, 5, 8, 6, 10, 5, 7, 4]


@pytest.fixture
def engine() -> LocalEngine:
    return engine_of([1, 2])


def case(stream: Stream) -> Case:
    wanted = reference(stream.model, IDS, 4, name=stream.name, source="transformers")
    return Case(wanted, stream.name)


def test_what_agrees_passes(engine: LocalEngine) -> None:
    streams = (engine.base, *engine.arms)
    check_groups(engine.groups, {s.name: [case(s)] for s in streams})


@pytest.mark.parametrize("position", [0, 3, 4, 9])  # in either piece
def test_logits_that_differ_at_one_place_are_refused(engine: LocalEngine, position: int) -> None:
    found = case(engine.arms[0])
    logits = found.wanted.logits_TV.clone()
    logits[position, logits[position].argmax()] -= 2
    wrong = replace(found, wanted=replace(found.wanted, logits_TV=logits))
    with pytest.raises(ConfigError, match=r"is not what transformers computes: .* nats off"):
        check_groups(engine.groups, {"a": [wrong]})


def test_a_model_that_fails_on_our_caches_is_refused(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"base": [case(engine.base)]}

    def no_cache(*args: object, **kwargs: object) -> object:
        raise KeyError("past_key_values")

    monkeypatch.setattr(engine.groups[0].lm.model, "forward", no_cache)
    with pytest.raises(ConfigError, match="KeyError: 'past_key_values'"):
        check_groups(engine.groups, wanted)


def test_nan_is_named(engine: LocalEngine) -> None:
    with torch.no_grad():
        engine.base.model.model.norm.weight[0] = torch.nan
    with pytest.raises(ModelLoadError, match="some/model gives NaN"):
        reference(engine.base.model, IDS, 4, name="some/model", source="transformers")


class TestGap:
    """Two tokens, p = (.5, .5) against q = (.8, .2)."""

    ONE = torch.tensor([[0.5, 0.5]]).log()
    OTHER = torch.tensor([[0.8, 0.2]]).log()

    def test_by_hand(self) -> None:
        """√(.65 · ln(1.6)² + .35 · ln(.4)²) = √(.65 · .220903 + .35 · .839589) = .661395"""
        assert rms_gap(self.ONE, self.OTHER) == pytest.approx(0.661395, abs=1e-5)

    def test_is_a_root_mean_square_over_positions(self) -> None:
        """One position of two differs: .661395 / √2."""
        two = torch.cat([self.ONE, self.ONE]), torch.cat([self.OTHER, self.ONE])
        assert rms_gap(*two) == pytest.approx(0.661395 / 2**0.5, abs=1e-5)

    def test_a_token_that_both_exclude_does_not_count(self) -> None:
        never = torch.full((1, 1), -torch.inf)
        one, other = (torch.cat([logp, never], 1) for logp in (self.ONE, self.OTHER))
        assert rms_gap(one, other) == pytest.approx(0.661395, abs=1e-5)

    def test_a_token_that_only_one_excludes_makes_it_infinite(self) -> None:
        sure = torch.tensor([[1.0, 0.0]]).log()
        assert rms_gap(self.ONE, sure) == torch.inf
        assert rms_gap(sure, self.ONE) == torch.inf
