"""Values that arrive as text: JSON, or what pandas and numpy write for a Python object."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

_UNREADABLE = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
_OUTSIDE_STRINGS = re.compile(
    r"""(?P<dtype>,\s*dtype=(?:\w+|'[^']*')(?=\s*\)))    # numpy: array([…], dtype=object)
      | (?P<string>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
      | (?P<array>\barray(?=\())
      | (?P<name>\b(?:null|nan|NaN|true|false)\b)
      | (?P<gap>(?<=[\]})'"])\s+(?=[\[{('"]|array\())       # numpy writes no commas""",
    re.VERBOSE | re.DOTALL,
)
_NAMES = {"true": "True", "false": "False"}


def read_literal(text: str) -> Any:
    """The value that a text spells: JSON, or the repr of a Python or numpy object.

    Nothing is evaluated: only literals are read.

    Raises:
        ValueError: it spells none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape inside a string
            return ast.literal_eval(_OUTSIDE_STRINGS.sub(_as_python, text.strip()))
    except _UNREADABLE as error:
        raise ValueError(f"no literal: {error}") from None


def _as_python(found: re.Match[str]) -> str:
    whole = found.group()
    if found.lastgroup == "gap":
        return ","
    if found.lastgroup == "name":
        return _NAMES.get(whole, "None")
    return whole if found.lastgroup == "string" else ""
