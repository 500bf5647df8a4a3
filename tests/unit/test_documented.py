"""`help(trimtab.train)` and its signature are `TrainConfig`'s, and so cannot lie."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

import pytest

import trimtab
from trimtab.documented import attribute_docstrings, takes_fields_of
from trimtab.training.config import TrainConfig


@dataclass(kw_only=True)
class Options:
    """Some options."""

    size: int
    """How large. Not with
    `--in-place`."""

    kind: Literal["a", "b"] = "a"
    """Which one."""

    names: list[str] = field(default_factory=list)
    """What is named."""


@takes_fields_of(Options)
def call(*, names: str | list[str] = "", **options: Any) -> str:
    """Do it.

    Raises:
        ValueError: cannot.
    """
    return repr(options)


def test_by_hand() -> None:
    wanted = "(*, size: int, kind: Literal[a, b] = a, names: str | list[str] = ) -> str"
    assert str(inspect.signature(call)).replace("'", "") == wanted
    assert inspect.getdoc(call) == (
        "Do it.\n\nArgs:\n    size: How large. Not with `in_place`.\n    kind: Which one.\n"
        "    names: What is named.\n\nRaises:\n    ValueError: cannot."
    )
    assert call(size=3) == "{'size': 3}"


def test_train_shows_every_option_with_its_default() -> None:
    shown = inspect.signature(trimtab.train).parameters
    assert list(shown) == [option.name for option in fields(TrainConfig)]
    for option in fields(TrainConfig):
        parameter = shown[option.name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if option.default is not MISSING:
            assert parameter.default == option.default
        elif option.default_factory is not MISSING:
            assert parameter.default == option.default_factory()
        else:
            assert parameter.default is inspect.Parameter.empty
    text = inspect.getdoc(trimtab.train) or ""
    for name, told in attribute_docstrings(TrainConfig).items():
        assert f"    {name}: {told.split()[0]} " in text
    assert "--" not in text  # that is the command line's spelling


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="learning_rat"):
        trimtab.train(model="m", data="d", output_dir="o", learning_rat=1)


@pytest.mark.parametrize("name", ["load", "score", "accuracy", "export", "calibrate"])
def test_the_others_hide_no_option(name: str) -> None:
    """No `**options`, and every keyword is told of in the docstring."""
    function = getattr(trimtab, name)
    text = inspect.getdoc(function) or ""
    for key, parameter in inspect.signature(function).parameters.items():
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
        assert re.search(rf"^ +(\w+, )*{key}(, \w+)*: ", text, flags=re.MULTILINE), key
