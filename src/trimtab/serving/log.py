"""What a server writes of its requests: a JSON line each, without texts unless they are asked for.

What else is to be told (a warning, a fault of ours) is a JSON line, too, so that a reader of the
log needs no second way to read it.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

requests = logging.getLogger("trimtab.serving.requests")
_NOTE = "trimtab.note"


@dataclass
class Note:
    """What becomes known of a request.

    Attributes:
        arrived: `time.monotonic()` when its head had come.
        request_id: that the client is told, too.
        status: of the response; of a client that has gone 499, whatever it was told before.
        told: further facts.
        texts: prompts and answers.
    """

    arrived: float = field(default_factory=time.monotonic)
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    texts: tuple[Sequence[Any], Sequence[str]] | None = None

    @classmethod
    def of(cls, scope: Scope) -> Note:
        """A request's; it is begun where there is none."""
        note: Note = scope.setdefault(_NOTE, cls())
        return note

    def write(self, scope: Scope, *, with_texts: bool) -> None:
        """The line of a request that is over."""
        line: dict[str, Any] = {
            "time": _now(),
            "method": scope["method"],
            "path": scope["path"],
            "status": self.status,
            "seconds": round(time.monotonic() - self.arrived, 4),
            "request_id": self.request_id,
            **self.told,
        }
        if with_texts and self.texts:
            line["prompts"], line["answers"] = self.texts
        requests.info(json.dumps(line, default=str))


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {"time": _now(), "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


@contextmanager
def json_lines() -> Iterator[None]:
    """All that is logged meanwhile, warnings too, goes to standard error as JSON lines."""
    logs = [requests, logging.getLogger()]
    before = [(log.handlers, log.propagate, log.level) for log in logs]
    for log in logs:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter() if log is requests else _Lines())
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO if log is requests else logging.WARNING)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for log, (handlers, propagate, level) in zip(logs, before, strict=True):
            log.handlers, log.propagate = handlers, propagate
            log.setLevel(level)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
