"""Where Trimtab keeps what can be made again: dequantised GGUF files and models from packages."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`TRIMTAB_CACHE`, or `trimtab` in the user's cache folder (`XDG_CACHE_HOME`, `~/.cache`)."""
    chosen = os.environ.get("TRIMTAB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "trimtab"
