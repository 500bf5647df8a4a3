"""Functions that take a dataclass's fields as keywords say so where people look: in `help()`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def takes_fields_of(config: type[Any]) -> Callable[[F], F]:
    """A decorator: the signature and the docstring list a dataclass's fields as keywords.

    Args:
        config: a dataclass whose fields have docstrings below them, as tyro reads them.
    """

    def documented(function: F) -> F:
        own = inspect.signature(function)
        given = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in given}
        others = [_parameter(field) for field in fields(config) if field.name not in names]
        required = [p for p in others if p.default is p.empty]
        optional = [p for p in others if p.default is not p.empty]
        signature = own.replace(parameters=[*given, *required, *optional])
        function.__signature__ = signature  # type: ignore[attr-defined]
        function.__doc__ = f"{inspect.getdoc(function)}\n\n{_arguments(config)}\n"
        return function

    return documented


def field_docs(config: type[Any]) -> dict[str, str]:
    """Field -> the docstring below it, on one line."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for one, other in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(other, ast.Expr) and isinstance(other.value, ast.Constant)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and is_text:
            text = other.value.value  # type: ignore[attr-defined]
            found[one.target.id] = " ".join(str(text).split())
    return found


def _parameter(field: Field[Any]) -> inspect.Parameter:
    default = field.default
    if default is MISSING and field.default_factory is not MISSING:
        default = field.default_factory()
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is MISSING else default,
        annotation=field.type,
    )


def _arguments(config: type[Any]) -> str:
    lines = ["Args:"]
    for name, text in field_docs(config).items():
        lines += textwrap.wrap(
            f"{name}: {text}", 96, initial_indent="    ", subsequent_indent="        "
        )
    return "\n".join(lines)
