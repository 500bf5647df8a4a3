"""Options of training that are refused before anything is read."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.errors import ConfigError
from trimtab.training.checks import check
from trimtab.training.config import TrainConfig

DESCRIBED = ["a=happy cat", "b=sad dog"]


def config(method: str = "genarm", **options: Any) -> TrainConfig:
    """With descriptions where the method needs some."""
    if method == "uniarm":
        options = {"describe": DESCRIBED, **options}
    return TrainConfig(model="m", data=["d"], output_dir="o", method=method, **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beta": 0}, "--beta is 0"),
        ({"label_smoothing": 0.5}, "--label-smoothing is 0.5"),
        ({"seed": -1}, "--seed is -1; it must be in [0, 4294967295]"),
        ({"seed": 2**32}, "--seed is 4294967296"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"objectives": "a b"}, "objective 'a b' is no name"),
    ],
    ids=str,
)
def test_of_any_method(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(config(**options))
    assert named in str(refused.value)


BOTH = "a,b"


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("parm", {"finetuning": "full"}, "--method parm is an adapter; leave out --finetuning"),
        ("uniarm", {"finetuning": "full"}, "--method uniarm is an adapter"),
        ("parm", {"preference_r": 9}, "--preference-r is 9; it must be 1 to --lora-r (8)"),
        ("parm", {"preference_r": 0}, "--preference-r is 0"),
        ("parm", {"lora_r": 1}, "--lora-r is 1; PARM needs a rank of 2 or more"),
        ("parm", {"preference_alpha": 0}, "--preference-alpha is 0"),
        ("parm", {"beta": "a=0.1", "objectives": BOTH}, "--beta a=0.1 has none for b"),
        ("parm", {"beta": "a=0.1,b=0", "objectives": BOTH}, "--beta is a=0.1,b=0"),
        ("parm", {"beta": "a=0.1,b=0.1"}, "--beta a=0.1,b=0.1 has one for 'a'; name only"),
        ("parm", {"beta": "a=0.1,b=1,B=1", "objectives": BOTH}, "has one for 'B'"),
        ("parm", {"beta": "much"}, "cannot read --beta much; give a number, or NAME=NUMBER"),
        ("parm", {"describe": ["a=x"]}, "--describe means nothing for --method parm"),
        ("parm", {"shift": False}, "--shift means nothing for --method parm"),
        ("uniarm", {"preference_r": 4}, "--preference-r means nothing for --method uniarm"),
        ("genarm", {"preference_draws": "row"}, "it is for: parm, uniarm"),
        ("uniarm", {"global_weight": -1.0}, "--global-weight is -1"),
        ("uniarm", {"condition_dim": 0}, "--condition-dim is 0"),
        ("parm", {"objectives": "a"}, "--method parm with the one objective a; name several"),
        ("uniarm", {"objectives": "a"}, "with the one objective a; name several, or use --method"),
    ],
    ids=str,
)
def test_of_one_method(method: str, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(config(method, **options))
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("describe", "named"),
    [
        ([], "no description of 'a'; write --describe a=\"what it means\""),
        (["a=x"], "no description of 'b'"),
        (["a=x", "b=y", "funny=z"], "'funny' is described but no objective; they are: a, b"),
        (["a=x", "a=y", "b=z"], "'a' is described twice"),
        (["a=x", "b"], "cannot read --describe 'b'"),
    ],
    ids=str,
)
def test_descriptions(describe: list[str], named: str) -> None:
    """Where objectives are asked for; otherwise once the data have named them."""
    with pytest.raises(ConfigError) as refused:
        check(config("uniarm", objectives=BOTH, describe=describe))
    assert named in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        config("uniarm", describe=describe).descriptions_of(["a", "b"])
    assert named in str(refused.value)


def test_what_can_work_is_not_refused() -> None:
    for method in ("genarm", "parm", "uniarm", "dpo", "trajectory"):
        check(config(method, objectives=BOTH))
        check(config(method))
