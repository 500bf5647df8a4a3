"""safetensors files as files: whole or not, and which weights they hold; no tensor is loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from trimtab.errors import ModelLoadError


def header(path: Path) -> bytes:
    """The safetensors header, after checking it against the file's size."""
    size = path.stat().st_size
    try:
        with path.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = handle.read(length) if 0 < length <= size else b""
        tensors = json.loads(header)
        ends = [v["data_offsets"][1] for k, v in tensors.items() if k != "__metadata__"]
        whole = 8 + length + max(ends, default=0) == size
    except (ValueError, LookupError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ModelLoadError(
            f"{path} is corrupt: not a whole safetensors file", "copy or save it again"
        )
    return header


def tensor_names(path: Path) -> list[str]:
    """What a file's tensors are called; none of them is read."""
    return [name for name in json.loads(header(path)) if name != "__metadata__"]


def tensors_fingerprint(folder: Path) -> str:
    """A cheap identity of a folder's weights: every header and the first 4 KiB of each tensor.

    A merged LoRA leaves most tensors alone, the embeddings first of all, so every one is looked at.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        head = header(path)
        digest.update(head)
        tensors = {k: v for k, v in json.loads(head).items() if k != "__metadata__"}
        with path.open("rb") as handle:
            for _, tensor in sorted(tensors.items()):
                start, end = tensor["data_offsets"]
                handle.seek(8 + len(head) + start)
                digest.update(handle.read(min(end - start, 4096)))
    return digest.hexdigest()
