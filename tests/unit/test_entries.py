"""Texts of options: sizes of memory."""

from __future__ import annotations

import pytest

from trimtab.entries import parse_bytes
from trimtab.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None), (4096, 4096), ("4096", 4096), ("2GB", 2 * 10**9), ("1.5 gb", 15 * 10**8),
        ("500m", 5 * 10**8), ("3KB", 3000), ("7B", 7), ("1TB", 10**12),
    ],
)  # fmt: skip
def test_sizes(given: int | str | None, expected: int | None) -> None:
    assert parse_bytes(given, "--cache-memory") == expected


@pytest.mark.parametrize("given", ["", "much", "-1", -5, 0, "0GB", "2GiB", "1e9", "nan", "0.5B"])
def test_no_sizes(given: int | str) -> None:
    with pytest.raises(ConfigError, match=r"--cache-memory is .*; give bytes, or a size such as"):
        parse_bytes(given, "--cache-memory")
