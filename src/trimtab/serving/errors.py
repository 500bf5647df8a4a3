"""What went wrong, as OpenAI's clients read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from trimtab.errors import (
    AnswerError,
    BusyError,
    ClosedError,
    MissingFileError,
    TrimtabError,
    first_line,
)
from trimtab.serving.log import Note

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
NOBODY = 499
"""Status in logs and metrics of a request whose client has gone."""


class LateError(TrimtabError, TimeoutError):
    """A request that took longer than it may."""


def status_of(error: TrimtabError) -> int:
    """The HTTP status of an error; what a client can mend is 400."""
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)


_STATUS = {
    BusyError: 429,
    ClosedError: 503,
    MissingFileError: 404,
    LateError: 504,
    AnswerError: 500,
}


def content(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    clean = message.encode("utf-8", "backslashreplace").decode()
    return {"error": {"message": clean, "type": kind, "param": param, "code": status}}


def respond(
    status: int,
    message: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as a response."""
    return JSONResponse(content(status, message, param), status, headers=headers)


def message_of(response: Response) -> str:
    """What `respond` was told."""
    return str(json.loads(bytes(response.body))["error"]["message"])


def refusal(request: Request, error: TrimtabError, retry_after: int) -> JSONResponse:
    """What a client gets for an error; one that was sent away is told when to come again."""
    status = status_of(error)
    headers = {"Retry-After": str(retry_after)} if status in (429, 503) else None
    return _noted(request, respond(status, str(error), headers=headers))


def _noted(request: Request, response: JSONResponse) -> JSONResponse:
    """With its reason in the log."""
    Note.of(request.scope).told["error"] = message_of(response)
    return response


def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """A body that is none: the first thing that is wrong with it."""
    text, place = _wrong(error)
    return _noted(request, respond(400, text, place or None))


def _wrong(error: RequestValidationError) -> tuple[str, str]:
    """What is wrong, and where."""
    first = _telling(error.errors())
    place = _place(first["loc"])
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, TrimtabError):
        return str(inner), place
    if first["type"] == "extra_forbidden":
        text = f"{place} is not supported; /v1/models lists what is not, /openapi.json what is"
    elif first["type"] == "missing":
        text = f"{place or 'the body'} is missing"
    elif first["type"] == "json_invalid":
        place, text = "", f"the body is no JSON: {first.get('ctx', {}).get('error', '')}"
    else:
        what = first["msg"][:1].lower() + first["msg"][1:]
        text = f"{place}: {what}" if place else f"the body: {what}; send it as application/json"
    return text, place


def _telling(found: Sequence[Any]) -> Any:
    """The first error; of one with several readings, that of the reading whose type it has."""
    here = [one for one in found if one["loc"][:2] == found[0]["loc"][:2]]
    return next((one for one in here if not one["type"].endswith("_type")), here[0])


def _place(loc: Sequence[Any]) -> str:
    """Where it is; without pydantic's names of what a value may be."""
    field, *rest = [part for part in loc if part != "body"] or [""]
    inner = [part for part in rest if isinstance(part, int) or str(part).isidentifier()]
    named = [part for part in inner if part not in ("str", "int", "float")]
    return ".".join(map(str, [field, *named]))


async def http_error(request: Request, error: Exception) -> JSONResponse:
    """No such page, no such method, a body that could not be read at all."""
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 400 and "parsing the body" in message:
        message = _unread(error.__cause__)
    return _noted(request, respond(error.status_code, message, headers=error.headers))


def _unread(cause: BaseException | None) -> str:
    """Why a body could not be read at all."""
    if isinstance(cause, RecursionError):
        return "the body is nested too deeply"
    if cause is None or isinstance(cause, UnicodeDecodeError):
        return "the body is no JSON in UTF-8"
    return f"the body cannot be read ({first_line(cause)})"


async def too_deep(request: Request, error: Exception) -> JSONResponse:
    """Lists in lists in lists."""
    return _noted(request, respond(400, _unread(error)))


async def unexpected(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours; the log has it."""
    return respond(500, "something went wrong here; the server's log says what")
