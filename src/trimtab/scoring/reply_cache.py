"""Replies of a judge on disk, so that no question is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import OutputError
from trimtab.files import make_folder, storage_errors
from trimtab.models.cache import cache_dir


class ReplyCache:
    """A folder of replies, a file each, named by the SHA-256 of the question and who was asked.

    Several runs may use it at once: files appear whole, and one that cannot be read counts as none.

    Args:
        folder: `judge` in Trimtab's cache by default; made with the first reply.
        asked: model, place and options, which a reply depends on; no secret.

    Raises:
        OutputError: the folder is a file.
    """

    def __init__(self, folder: Path | None, asked: Mapping[str, Any]) -> None:
        self.folder = cache_dir() / "judge" if folder is None else folder
        self._asked = json.loads(json.dumps(asked))
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder} is a file", "name a folder for the judge's replies")

    def open(self) -> None:
        """Make the folder and see that it can be written to, before a reply is paid for.

        Raises:
            OutputError: it cannot.
        """
        make_folder(self.folder)
        with storage_errors(self.folder), tempfile.TemporaryFile(dir=self.folder):
            pass

    def get(self, question: str) -> str | None:
        """The reply to a question; None where there is none."""
        entry = self._entry(question)
        try:
            held = json.loads(self._path(entry).read_text(encoding="utf-8"))
            reply = held.pop("reply")
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        return reply if held == entry and isinstance(reply, str) else None

    def put(self, question: str, reply: str) -> None:
        """Keep a reply.

        Raises:
            OutputError: the disk is full, or nothing can be written there.
        """
        entry = self._entry(question)
        path = self._path(entry)
        with storage_errors(path):
            handle, name = tempfile.mkstemp(prefix=".saving-", dir=self.folder)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump({**entry, "reply": reply}, file, ensure_ascii=False)
                Path(name).replace(path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise

    def _entry(self, question: str) -> dict[str, Any]:
        return {**self._asked, "question": question}

    def _path(self, entry: Mapping[str, Any]) -> Path:
        text = json.dumps(entry, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
