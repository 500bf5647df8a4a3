"""`NAME=VALUE`, as options take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.errors import ConfigError


def named_entries(entries: Sequence[str], option: str, example: str) -> Mapping[str, str]:
    """`NAME=VALUE` entries of a repeated option, each name once."""
    named: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name.strip() or not value:
            raise ConfigError(f"cannot read {option} {entry}", f"write {option} {example}")
        if name in named:
            raise ConfigError(f"two of {option} for {name!r}", "name each objective once")
        named[name] = value
    return named
