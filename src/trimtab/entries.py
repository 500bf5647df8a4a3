"""`NAME=VALUE`, as options take it: one parser, and the sentences of the options that use it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from trimtab.errors import ConfigError, TrimtabError

Refusal = Callable[[str], TrimtabError]
Split = Callable[[str, str], tuple[str, str, str]]


def named_values(
    entries: Iterable[str], *, unreadable: Refusal, twice: Refusal, split: Split = str.partition
) -> dict[str, str]:
    """`NAME=VALUE` entries as name -> value.

    Args:
        entries: texts; white space around names and values does not count.
        unreadable: makes the error of an entry without a name or a value.
        twice: makes the error of a name that comes again.
        split: at the first `=`, or with `str.rpartition` at the last.

    Raises:
        TrimtabError: what `unreadable` or `twice` makes.
    """
    named: dict[str, str] = {}
    for entry in entries:
        name, equals, value = (part.strip() for part in split(entry, "="))
        if not equals or not name or not value:
            raise unreadable(entry)
        if name in named:
            raise twice(name)
        named[name] = value
    return named


def as_entries(named: Mapping[str, str] | Sequence[str]) -> list[str]:
    """What Python callers write as a mapping, as the command line has it; entries as they are."""
    if isinstance(named, Mapping):
        return [f"{name}={value}" for name, value in named.items()]
    return list(named)


def named_entries(entries: Iterable[str], option: str, example: str) -> dict[str, str]:
    """Entries of an option that names objectives.

    Raises:
        ConfigError: an entry that cannot be read, or an objective twice.
    """
    return named_values(
        entries,
        unreadable=lambda e: ConfigError(f"cannot read {option} {e}", f"write {option} {example}"),
        twice=lambda n: ConfigError(f"two of {option} for {n!r}", "name each objective once"),
    )


def parse_descriptions(entries: Iterable[str]) -> dict[str, str]:
    """`NAME=TEXT` entries: objective -> what it means.

    Raises:
        ConfigError: an entry without a name or a text, or a name twice.
    """
    return named_values(
        entries,
        unreadable=lambda entry: ConfigError(
            f"cannot read --describe {entry!r}", 'write --describe helpful="answers in full"'
        ),
        twice=lambda name: ConfigError(
            f"{name!r} is described twice", "describe each objective once"
        ),
    )


def parse_revisions(entries: Sequence[str], default: str = "base") -> dict[str, str]:
    """`NAME=REVISION` entries; a revision alone is the base's.

    Raises:
        ConfigError: an entry without a revision, or two of one model.
    """
    return named_values(
        (entry if "=" in entry else f"{default}={entry}" for entry in entries),
        unreadable=lambda entry: ConfigError(
            f"--revision {entry} names no revision", "write NAME=REVISION"
        ),
        twice=lambda name: ConfigError(f"two revisions of {name}", "give one"),
        split=str.rpartition,
    )


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B?)\s*", re.IGNORECASE)


def parse_bytes(size: int | str | None, option: str) -> int | None:
    """Bytes from a number or a text like `2GB`; None stays None.

    Args:
        size: as it was given.
        option: its name, for the message.

    Raises:
        ConfigError: it is neither, or nothing.
    """
    if size is None:
        return None
    found = _SIZE.fullmatch(str(size))
    count = int(float(found[1]) * _UNITS[found[2].upper().removesuffix("B")]) if found else 0
    if count < 1:
        raise ConfigError(f"{option} is {size!r}", "give bytes, or a size such as 500MB or 2GB")
    return count
