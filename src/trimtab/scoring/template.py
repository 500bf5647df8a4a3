"""Templates of what judges are asked: text files with fields in braces."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from string import Formatter

from trimtab.errors import ConfigError, MissingFileError

_FOLDER = Path(__file__).parent / "templates"
_NAME = "name a text file in UTF-8"


class Template:
    """A text with fields such as `{prompt}`. What is put in may hold braces of its own.

    Args:
        text: a brace that is none of a field's is written twice, as in Python.
        place: what an error calls it.
        needed: the fields that it must have.
        optional: those that it may have.

    Attributes:
        fields: those that it has.
        sha256: of its text.

    Raises:
        ConfigError: a field that is not known or is missing, or a single brace.
    """

    def __init__(
        self, text: str, place: str, needed: Collection[str], optional: Collection[str] = ()
    ) -> None:
        self.text = text
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        both = f"its fields are {_shown(needed)}" + (
            f" and, where wanted, {_shown(optional)}" if optional else ""
        )
        hint = f"{both}; a brace that is none of a field's is written twice"
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise ConfigError(f"{place} cannot be read ({error})", hint) from None
        self.fields = {field for _, field, _, _ in parts if field is not None}
        for _, field, form, conversion in parts:
            if field is not None and (field not in {*needed, *optional} or form or conversion):
                raise ConfigError(f"{place} has {{{field}}}, which is no field of it", hint)
        if lacking := [field for field in needed if field not in self.fields]:
            raise ConfigError(f"{place} lacks {_shown(lacking)}", hint)

    def fill(self, **texts: object) -> str:
        """The text with its fields filled in; texts of fields that it lacks are left out."""
        return self.text.format(**texts)


def packaged_template(
    name: str, needed: Collection[str], optional: Collection[str] = ()
) -> Template:
    """One of Trimtab's own, by its name."""
    return read_template(_FOLDER / f"{name}.txt", needed, optional)


def read_template(path: Path, needed: Collection[str], optional: Collection[str] = ()) -> Template:
    """A template in a file, whose last line end does not count.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: it is no text, or its fields are not right.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingFileError(f"no template {path}", _NAME) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the template {path} ({error})", _NAME) from None
    return Template(text.removesuffix("\n"), f"the template {path}", needed, optional)


def _shown(fields: Collection[str]) -> str:
    return ", ".join(f"{{{field}}}" for field in fields)
