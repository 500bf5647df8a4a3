"""Preference and strength, as every door to the library reads them."""

from __future__ import annotations

import logging

import pytest

from trimtab import steering
from trimtab.errors import PreferenceError
from trimtab.steering import Steering, parse_preference, parse_strength

BOTH = ["helpful", "harmless"]


def test_text_and_mapping_mean_the_same() -> None:
    text = Steering.of(BOTH, "harmless=0.3, helpful=0.7")
    assert text == Steering.of(BOTH, {"helpful": 0.7, "harmless": 0.3})
    assert text.preference == {"helpful": 0.7, "harmless": 0.3}
    assert list(text.preference) == BOTH  # the engine's order, not the writer's


def test_no_preference_weighs_all_alike() -> None:
    assert Steering.of(["a", "b", "c", "d"]).preference == dict.fromkeys("abcd", 0.25)


def test_no_objectives_leave_the_base_alone() -> None:
    assert Steering.of([]).preference == {}


def test_weights_off_the_simplex_are_normalised_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    steering._say_normalised_once.cache_clear()
    with caplog.at_level(logging.WARNING, "trimtab"):
        for _ in range(3):
            assert Steering.of(BOTH, "helpful=3,harmless=1").preference == {
                "helpful": 0.75,
                "harmless": 0.25,
            }
    assert [record.message for record in caplog.records] == [
        "preference weights sum to 4, not 1: they are normalised"
    ]


def test_an_arm_of_one_objective() -> None:
    """w = strength · preference · scale: 2 · ¾ · ½ = ¾ and 2 · ¼ · 1 = ½; inside there is one."""
    given = Steering.of(BOTH, "helpful=0.75,harmless=0.25", 2)
    assert given.share(["helpful"], 0.5) == (0.75, [1.0])
    assert given.share(["harmless"]) == (0.5, [1.0])


def test_a_conditioned_arm_of_all_objectives() -> None:
    """All of the strength, 3 · ½ = 1.5, and the preference as it is, in the ARM's own order."""
    given = Steering.of(BOTH, "helpful=0.75,harmless=0.25", 3)
    assert given.share(["helpful", "harmless"], 0.5) == (1.5, [0.75, 0.25])
    assert given.share(["harmless", "helpful"], 0.5) == (1.5, [0.25, 0.75])


def test_a_conditioned_arm_beside_a_plain_one() -> None:
    """a ⅛, b ⅜ and c ½ at strength 2: the conditioned ARM of a and b weighs 2 · (⅛ + ⅜) = 1.

    Inside it a : b is 1 : 3, so (¼, ¾). The plain ARM of c weighs 2 · ½ · ¼ = ¼.
    """
    given = Steering.of(["a", "b", "c"], "a=1,b=3,c=4", 2)
    assert given.share(["a", "b"]) == (1.0, [0.25, 0.75])
    assert given.share(["c"], 0.25) == (0.25, [1.0])


def test_a_conditioned_arm_without_weight_takes_its_objectives_alike() -> None:
    """Its log-probs are reported all the same, so it needs some preference on the simplex."""
    given = Steering.of(["a", "b", "c"], "a=0,b=0,c=1")
    assert given.share(["a", "b"]) == (0.0, [0.5, 0.5])
    assert given.share(["a"]) == (0.0, [1.0])


def test_strength_zero_leaves_the_preference_inside() -> None:
    given = Steering.of(BOTH, "helpful=0.75,harmless=0.25", 0)
    assert given.share(["helpful", "harmless"]) == (0.0, [0.75, 0.25])


@pytest.mark.parametrize(
    ("preference", "named"),
    [
        ("helpful=1,funny=1", "unknown objective 'funny'; the objectives here are: helpful"),
        ("helpful=1", "no weight for harmless"),
        ("helpful=1,harmless=-0.1", "'harmless' is negative"),
        ("helpful=nan,harmless=1", "'helpful' is not finite"),
        ("helpful=inf,harmless=1", "'helpful' is not finite"),
        ("helpful=1e308,harmless=1e308", "weights sum to inf"),
        ("helpful=1e300,harmless=1", "weights sum to 1e"),
        (
            "helpful=1e-320,harmless=1e-320",
            "weights sum to 1.99998e-320",
        ),  # few digits are left there
        ({"helpful": 10**400, "harmless": 1}, "'helpful' is not finite"),
        ({"helpful": True, "harmless": 1}, "'helpful' is not a number"),
        ("helpful=0,harmless=0", "all weights of the preference are zero"),
        ("helpful=1,helpful=1", "'helpful' is weighted twice"),
        ("helpful=x,harmless=1", "'helpful' is not a number"),
        ("helpful:1", "cannot read 'helpful:1'"),
        ("=1", "cannot read '=1'"),
        ({"helpful": None, "harmless": 1}, "'helpful' is not a number"),
        ({"helpful": float("nan"), "harmless": 1}, "'helpful' is not finite"),
        (0.5, "must be an object or text, not float"),
        ([("helpful", 1)], "must be an object or text, not list"),
    ],
)
def test_bad_preferences_are_named(preference: object, named: str) -> None:
    with pytest.raises(PreferenceError, match=named) as caught:
        Steering.of(BOTH, preference)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)
    assert caught.value.hint


@pytest.mark.parametrize("value", [-1, "-0.5", float("nan"), "inf", "much", None, [1], True])
def test_bad_strengths_are_refused(value: object) -> None:
    with pytest.raises(PreferenceError, match="strength"):
        parse_strength(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1e39, 1e7, 10**400, "1e300"], ids=lambda v: str(v)[:9])
def test_strengths_beyond_float32_are_refused(value: object) -> None:
    with pytest.raises(PreferenceError, match=r"strength (\S+ is too large|is not finite)"):
        parse_strength(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e5, -1e5, float("nan"), float("inf")])
def test_a_scale_that_makes_too_much_of_a_strength(scale: float) -> None:
    """100 · 1e5 = 1e7, ten times what is allowed."""
    with pytest.raises(PreferenceError, match=r"scale .* of helpful makes a weight of"):
        Steering.of(["helpful"], None, 100).share(["helpful"], scale)


def test_tiny_weights_beside_others_keep_their_place() -> None:
    given = Steering.of(BOTH, "helpful=1e-300,harmless=1")
    assert given.preference == {"helpful": 1e-300, "harmless": 1.0}
    assert given.share(["helpful"]) == (1e-300, [1.0])


def test_good_values() -> None:
    assert parse_strength(1e6) == 1e6
    assert (parse_strength("1.5"), parse_strength(0)) == (1.5, 0.0)
    assert parse_preference("a=1, b=2,") == {"a": 1.0, "b": 2.0}  # as given, not normalised
