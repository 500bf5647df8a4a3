"""An option's text stands once, and `--help` has the options in an order that can be read."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from dataclasses import dataclass, fields, is_dataclass

import pytest

from trimtab.bench.tables.config import TableConfig
from trimtab.cli.main import COMMANDS, main
from trimtab.cli.options import ReadingOptions
from trimtab.documented import attribute_docstrings
from trimtab.training.config import TrainConfig


def _options_of(command: str) -> list[type]:
    module = importlib.import_module(f"trimtab.cli.{command}")
    kinds = [
        kind
        for kind in vars(module).values()
        if is_dataclass(kind) and isinstance(kind, type) and kind.__module__ == module.__name__
    ]
    assert len(kinds) == (2 if command == "bench" else 1)  # of speed, and of tables
    return kinds


def test_an_option_of_several_commands_is_told_once() -> None:
    options = [kind for command in COMMANDS for kind in _options_of(command)]
    kinds = {kind for own in options for kind in own.__mro__}
    below = (TrainConfig, TableConfig)  # in rooms below: they have some texts themselves
    own = [kind for kind in kinds if is_dataclass(kind) and kind not in below]
    told: Counter[tuple[str, str]] = Counter()
    for kind in own:
        texts = attribute_docstrings(kind)
        told.update((name, texts[name]) for name in vars(kind).get("__annotations__", {}))
    assert [option for option, count in told.items() if count > 1] == []


def test_train_reads_data_in_the_words_of_the_others() -> None:
    """`TrainConfig` is in a room below: it has these texts itself."""
    train = attribute_docstrings(TrainConfig)
    shared = attribute_docstrings(ReadingOptions)
    assert {*shared} == {"columns", "pairs_per_prompt", "skip_bad_rows"}
    assert shared == {name: train[name] for name in shared}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_text(command: str) -> None:
    for options in _options_of(command):
        assert {*attribute_docstrings(options)} == {own.name for own in fields(options)}


@pytest.mark.parametrize(
    "command", [*sorted({*COMMANDS} - {"bench"}), "bench speed", "bench latency"]
)
def test_help_begins_with_what_must_be_given(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _told(command, capsys)
    required = ["(required)" in text for text in told.values()]
    assert required == sorted(required, reverse=True)
    assert any(required) == (command not in ("demo", "data", "bench speed", "compare"))


def test_help_has_a_commands_own_options_before_those_of_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    order = ("base", "prompt", "output", "overwrite", "arm", "dtype", "temperature", "config")
    assert [flag for flag in _told("generate", capsys) if flag in order] == [*order]


def _told(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Option -> its part of a command's `--help`, in the order there."""
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    _, *parts = re.split(r"^\W{2}--([a-z][a-z0-9-]*)", capsys.readouterr().out, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_a_text_is_inherited_until_it_is_told_anew() -> None:
    @dataclass
    class Below:
        size: int = 0
        """How large."""

        kind: str = ""
        """Which."""

    @dataclass
    class Above(Below):
        kind: str = "a"
        """Which, here."""

    assert attribute_docstrings(Above) == {"size": "How large.", "kind": "Which, here."}
