"""GGUF files: what can be said of them without reading them (see `dequantize` for the rest)."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from pathlib import Path

from trimtab.errors import ConfigError, ModelLoadError

SUFFIX, RECORD = ".gguf", "gguf.json"


def is_gguf(name: str) -> bool:
    """Whether a model is named by a GGUF file on this machine."""
    return name.endswith(SUFFIX) and Path(name).is_file()


def check_gguf(path: str) -> None:
    """Refuse a file that is none, without reading it.

    Raises:
        ModelLoadError: not a GGUF file.
        ConfigError: the package that reads them is missing.
    """
    with Path(path).open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise ModelLoadError(f"{path} is no GGUF file", "copy or download it again")
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(
            "reading GGUF files needs the package gguf", "pip install 'trimtab[gguf]'"
        )


def gguf_source(folder: str) -> dict[str, str]:
    """Of a folder that was made here: `sha256` and `file` of what it was made of, and `weights`,
    the identity of what was written (`tensors_fingerprint`); else empty."""
    record = Path(folder) / RECORD
    return dict(json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else {}


def content_hash(path: str) -> str:
    """SHA-256 of a file, read once as long as it does not change."""
    facts = Path(path).stat()
    return _content_hash(str(Path(path).resolve()), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache
def _content_hash(path: str, size: int, changed_ns: int) -> str:
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
