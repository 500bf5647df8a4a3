"""A dataclass's options told in the docstring of a function that takes the same ones.

So `help()` and editors that ask a running Python show what the command line shows, from the one
place where an option's text stands.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any, TypeVar

_FLAG = r"--([a-z][a-z-]*)"
F = TypeVar("F", bound=Callable[..., Any])


def tells_fields_of(options: type[Any]) -> Callable[[F], F]:
    """Put the texts of a dataclass's fields into a docstring, at the head of its `Args:`."""

    def documented(function: F) -> F:
        before, args, after = (inspect.getdoc(function) or "").partition("Args:\n")
        function.__doc__ = f"{before}{args}{_described(options)}\n{after}"
        return function

    return documented


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
    """The text that stands under each attribute of a class, or of its base, in one line."""
    texts: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(kind.__mro__)):
        texts |= _own_docstrings(base)
    return texts


def _own_docstrings(kind: type[Any]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    texts: dict[str, str] = {}
    for before, after in pairwise(body):
        if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            texts[before.target.id] = " ".join(str(after.value.value).split())
    return texts
