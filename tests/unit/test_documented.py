"""`help(trimtab.train)` and its signature are `TrainConfig`'s, and so cannot lie."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, dataclass, field, fields
from typing import Literal

import pytest

import trimtab
from trimtab.documented import attribute_docstrings, tells_fields_of
from trimtab.training.config import TrainConfig

WIDER = {
    "model", "data", "output_dir", "objectives", "columns", "describe", "beta", "eval_data",
    "lora_target_modules", "report_to",
}  # fmt: skip
"""Options that Python takes as paths, lists and mappings, too."""


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


@tells_fields_of(Options)
def call(*, size: int, kind: str = "a", names: str | list[str] = "", loud: bool = False) -> str:
    """Do it.

    Args:
        loud: say so.

    Raises:
        ValueError: cannot.
    """
    return f"{size}{kind}{names}{loud}"


def test_by_hand() -> None:
    assert inspect.getdoc(call) == (
        "Do it.\n\nArgs:\n    size: How large. Not with `in_place`.\n    kind: Which one.\n"
        "    names: What is named.\n    loud: say so.\n\nRaises:\n    ValueError: cannot."
    )
    assert call(size=3) == "3aFalse"


def test_train_has_every_option_with_its_default_and_its_text() -> None:
    """The signature is written out for editors and type checkers; the texts stand once."""
    shown = dict(inspect.signature(trimtab.train).parameters)
    assert list(shown) == [*(option.name for option in fields(TrainConfig)), "progress"]
    for option in fields(TrainConfig):
        parameter = shown[option.name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if option.default is not MISSING:
            assert parameter.default == option.default
        elif option.default_factory is not MISSING:
            assert [*parameter.default] == option.default_factory()
        else:
            assert parameter.default is inspect.Parameter.empty
        if option.name not in WIDER:
            assert parameter.annotation == option.type
    text = inspect.getdoc(trimtab.train) or ""
    for name, told in attribute_docstrings(TrainConfig).items():
        assert f"    {name}: {told.split()[0]} " in text
    assert "--" not in text  # that is the command line's spelling


def test_an_option_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="learning_rat"):
        trimtab.train(model="m", data="d", output_dir="o", learning_rat=1)


VERBS = (
    "train", "load", "generate", "score", "score_file", "accuracy", "label", "pareto", "export",
    "calibrate", "bench_speed", "inspect_data", "compare", "write_alpaca_eval",
)  # fmt: skip


def test_every_public_name_is_there() -> None:
    assert {*VERBS} < {*trimtab.__all__}
    for name in trimtab.__all__:
        assert getattr(trimtab, name) is not None


@pytest.mark.parametrize("name", VERBS)
def test_the_others_hide_no_option(name: str) -> None:
    """No `**options`, and every keyword is told of in the docstring."""
    function = getattr(trimtab, name)
    text = inspect.getdoc(function) or ""
    for key, parameter in inspect.signature(function).parameters.items():
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD
        assert re.search(rf"^ +(\w+, )*{key}(, \w+)*: ", text, flags=re.MULTILINE), key
