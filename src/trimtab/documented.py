"""A dataclass's options as a function's: signature and docstring made of the fields.

So `help()` and editors that ask a running Python show what the command line shows, from the one
place where an option's text stands.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from typing import Any, TypeVar, get_type_hints

_FLAG = r"--([a-z][a-z-]*)"
F = TypeVar("F", bound=Callable[..., Any])


def takes_fields_of(options: type[Any]) -> Callable[[F], F]:
    """Show a dataclass's fields as keywords of a function that passes them on.

    A parameter that the function declares itself keeps its own type. The options go into its
    docstring before `Raises:`.
    """

    def documented(function: F) -> F:
        declared = inspect.signature(function)
        own = declared.parameters
        shown = [_parameter(field, get_type_hints(options), own) for field in fields(options)]
        text = inspect.getdoc(function) or ""
        told, raises, errors = text.partition("Raises:\n")
        function.__doc__ = f"{told}Args:\n{_described(options)}\n\n{raises}{errors}"
        function.__signature__ = declared.replace(parameters=shown)  # type: ignore[attr-defined]
        return function

    return documented


def _parameter(field: Field[Any], kinds: dict[str, Any], own: Any) -> inspect.Parameter:
    if field.name in own:
        return own[field.name]  # type: ignore[no-any-return]
    default: Any = inspect.Parameter.empty
    if field.default is not MISSING:
        default = field.default
    elif field.default_factory is not MISSING:
        default = field.default_factory()
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, kind, default=default, annotation=kinds[field.name])


def _described(options: type[Any]) -> str:
    """`name: text` for each field, in the words of Python rather than of the command line."""
    texts = attribute_docstrings(options)
    lines = []
    for field in fields(options):
        words = re.sub(_FLAG, lambda flag: flag[1].replace("-", "_"), texts[field.name])
        wrapped = textwrap.fill(f"{field.name}: {words}", 96, subsequent_indent="    ")
        lines.append(textwrap.indent(wrapped, "    "))
    return "\n".join(lines)


def attribute_docstrings(kind: type[Any]) -> dict[str, str]:
    """The text that stands under each attribute of a class, in one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    found: dict[str, str] = {}
    for before, after in pairwise(body):
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[before.target.id] = " ".join(str(after.value.value).split())
    return found
