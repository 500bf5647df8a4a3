"""The rooms of the house: an import points down, never up."""

from __future__ import annotations

import ast
from pathlib import Path

from importlinter import api
from importlinter.configuration import configure

REPO = Path(__file__).parents[2]
SOURCE = REPO / "src/trimtab"


def test_no_import_runs_up(capsys: object) -> None:
    configure()
    contracts = api.read_configuration(str(REPO / "pyproject.toml"))["contracts_options"]
    assert [contract["name"] for contract in contracts] == ["imports point down"]
    from importlinter.application.use_cases import lint_imports

    assert lint_imports(config_filename=str(REPO / "pyproject.toml"), cache_dir=None)


def test_every_room_says_what_it_holds() -> None:
    for file in SOURCE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file
