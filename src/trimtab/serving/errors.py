"""What went wrong, as OpenAI's clients read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from trimtab.errors import BusyError, MissingFileError, TrimtabError

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class AnswerError(TrimtabError, RuntimeError):
    """An answer that went wrong on our side."""


class LateError(TrimtabError, TimeoutError):
    """A request that took longer than it may."""


def status_of(error: TrimtabError) -> int:
    """The HTTP status of an error; what a client can mend is 400."""
    if isinstance(error, BusyError):
        return 429
    if isinstance(error, MissingFileError):
        return 404
    if isinstance(error, LateError):
        return 504
    return 500 if isinstance(error, AnswerError) else 400


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


def refusal(error: TrimtabError, retry_after: int) -> JSONResponse:
    """What a client gets for an error; one that was sent away is told when to come again."""
    status = status_of(error)
    headers = {"Retry-After": str(retry_after)} if status == 429 else None
    return respond(status, str(error), headers=headers)


def invalid(error: RequestValidationError) -> JSONResponse:
    """A body that is none: the first thing that is wrong with it."""
    first = _telling(error.errors())
    place = _place(first["loc"])
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, TrimtabError):
        return respond(400, str(inner), place or None)
    if first["type"] == "extra_forbidden":
        text = f"{place} is not supported; /v1/models lists what is not, /openapi.json what is"
    elif first["type"] == "missing":
        text = f"{place or 'the body'} is missing"
    elif first["type"] == "json_invalid":
        place, text = "", f"the body is no JSON: {first.get('ctx', {}).get('error', '')}"
    else:
        what = first["msg"][:1].lower() + first["msg"][1:]
        text = f"{place}: {what}" if place else f"the body: {what}; send it as application/json"
    return respond(400, text, place or None)


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
        message = "the body is no JSON in UTF-8"
    return respond(error.status_code, message, headers=error.headers)


async def too_deep(request: Request, error: Exception) -> JSONResponse:
    """Lists in lists in lists."""
    return respond(400, "the body is nested too deeply")


async def unexpected(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours; the log has it."""
    return respond(500, "something went wrong here; the server's log says what")
