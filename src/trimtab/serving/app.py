"""The pages of the server."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from trimtab.engines.local import LocalEngine
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request
from trimtab.errors import ConfigError, TrimtabError
from trimtab.models.templates import TemplateError
from trimtab.serving import errors, models_page
from trimtab.serving.asking import Served, chat_asked, completion_asked
from trimtab.serving.config import ServeConfig
from trimtab.serving.contract import ChatBody, CompletionBody, ScoreBody
from trimtab.serving.gate import Gate
from trimtab.serving.metrics import Metrics
from trimtab.serving.scores import score_given
from trimtab.serving.streaming import answer
from trimtab.version import __version__


def create_app(engine: LocalEngine, name: str, config: ServeConfig | None = None) -> ASGIApp:
    """The server as an ASGI app, for any server that runs one.

    Args:
        engine: that answers.
        name: of the model, for requests.
        config: options; those of the address are of no use here.

    Raises:
        PreferenceError, ConfigError: a default that the engine cannot take, or no name.
    """
    config = config or ServeConfig()
    if "@" in name:
        raise ConfigError(f"the model is called {name!r}", "behind an @ stands a preference")
    with contextlib.suppress(TemplateError):  # a template may want more than this
        engine.plan(Request("Hello", sampling=Sampling(max_new_tokens=1), **config.defaults))
    metrics = Metrics(engine.worker)
    gate = Gate(pages(Served(engine, name, config), metrics), config, metrics)
    if not config.allow_origin:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=config.allow_origin,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["Retry-After", "X-Request-Id"],
    )


def pages(served: Served, metrics: Metrics) -> FastAPI:
    """All pages, with nothing before them."""
    app = FastAPI(
        title="Trimtab",
        version=__version__,
        description="OpenAI's API over a language model that is steered request by request.",
        docs_url=None,  # these would be made of scripts from elsewhere
        redoc_url=None,
    )
    _add_errors(app, served.config)
    _add_answers(app, served, metrics)
    _add_facts(app, served, metrics)
    return app


def _add_errors(app: FastAPI, config: ServeConfig) -> None:
    async def refused(request: HttpRequest, error: Exception) -> JSONResponse:
        assert isinstance(error, TrimtabError)
        return errors.refusal(request, error, config.retry_after)

    async def invalid(request: HttpRequest, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return errors.invalid(request, error)

    app.add_exception_handler(TrimtabError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, errors.http_error)
    app.add_exception_handler(RecursionError, errors.too_deep)
    app.add_exception_handler(Exception, errors.unexpected)


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        400: "The request cannot be answered as it stands; the message says why",
        401: "The API key is missing or wrong",
        404: "There is no such model",
        408: "The body did not come in time",
        413: "The body is too large",
        429: "Too many wait, or memory is nearly full; Retry-After says when to come again",
        500: "An answer went wrong",
        503: "The server is going down, or the engine is closed",
        504: "The request took longer than it may",
    }.items()
}


def _add_answers(app: FastAPI, served: Served, metrics: Metrics) -> None:
    @app.post("/v1/chat/completions", responses=REFUSALS, tags=["answers"])
    async def chat(body: ChatBody, request: HttpRequest) -> Response:
        """Answer a chat, steered as the request says."""
        return await answer(partial(chat_asked, body, served), request, served, metrics)

    @app.post("/v1/completions", responses=REFUSALS, tags=["answers"])
    async def completions(body: CompletionBody, request: HttpRequest) -> Response:
        """Go on with text as it stands, without a chat template."""
        return await answer(partial(completion_asked, body, served), request, served, metrics)

    @app.post("/v1/score", responses=REFUSALS, tags=["answers"])
    async def score(body: ScoreBody, request: HttpRequest) -> Response:
        """What each guide gives answers that are there already: rewards in nats."""
        return await score_given(body, request, served, metrics)


def _add_facts(app: FastAPI, served: Served, metrics: Metrics) -> None:
    created = int(time.time())

    @app.get("/v1/models", tags=["facts"])
    async def models() -> Response:
        """What is served, what it can be steered to, and what is not supported."""
        return JSONResponse(models_page.page(served, created))

    @app.get("/v1/models/{name:path}", responses={404: REFUSALS[404]}, tags=["facts"])
    async def model(name: str) -> Response:
        """One model."""
        if name.partition("@")[0] != served.name:
            return errors.respond(404, f"there is no model {name!r}")
        return JSONResponse(models_page.model(served, created))

    @app.get("/health", responses={503: {"description": "It is going down"}}, tags=["facts"])
    async def health() -> Response:
        """Whether requests are taken."""
        if served.engine.worker.closed:
            return errors.respond(503, "the engine is closed")
        return JSONResponse({"status": "ok"})

    @app.get("/version", tags=["facts"])
    async def version() -> Response:
        """Of Trimtab."""
        return JSONResponse({"version": __version__})

    @app.get("/metrics", tags=["facts"])
    async def numbers() -> Response:
        """For Prometheus."""
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
