"""`NAME=TEXT` descriptions of objectives; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.errors import ConfigError


def parse_descriptions(entries: Sequence[str]) -> dict[str, str]:
    """`NAME=TEXT` entries as a mapping.

    Raises:
        ConfigError: an entry without a name or a text, or a name twice.
    """
    found: dict[str, str] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        name, text = name.strip(), text.strip()
        if not equals or not name or not text:
            raise ConfigError(
                f"cannot read --describe {entry!r}", 'write --describe helpful="answers in full"'
            )
        if name in found:
            raise ConfigError(f"{name!r} is described twice", "describe each objective once")
        found[name] = text
    return found
