"""`trimtab serve` as a function: an engine at an address, until it is told to stop."""

from __future__ import annotations

import logging
import math
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn

from trimtab.documented import tells_fields_of
from trimtab.engines.local import LocalEngine
from trimtab.engines.types import Speculate
from trimtab.errors import ConfigError
from trimtab.jobs import Say
from trimtab.serving.app import create_app
from trimtab.serving.config import ServeConfig, model_name
from trimtab.serving.connections import Connection, Server
from trimtab.serving.log import json_lines

logger = logging.getLogger(__name__)
LAST_WORDS = 5
"""Seconds to tell clients that their answers were ended."""


@tells_fields_of(ServeConfig)
def serve(
    engine: LocalEngine,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    served_model_name: str = "",
    api_key: str = "",
    preference: str | None = None,
    strength: float = 1.0,
    kl_budget: float | None = None,
    gate: float | None = None,
    speculate: Speculate = "off",
    default_max_tokens: int = 512,
    max_body_bytes: int = 2**20,
    timeout: float = 600.0,
    body_timeout: float = 20.0,
    drain_timeout: float = 60.0,
    max_waiting: int = 256,
    min_free_memory: int = 256 * 2**20,
    retry_after: int = 1,
    allow_origin: Sequence[str] = (),
    log_prompts: bool = False,
    say: Say = logger.warning,
) -> None:
    """Serve an engine (`trimtab.load`) over HTTP as OpenAI's API, until SIGINT or SIGTERM.

    Answers that run then are ended in peace. For another ASGI server there is
    `trimtab.serving.app.create_app`.

    Args:
        engine: that answers; it is closed at the end.
        say: is told what a user should know, a line each.

    Raises:
        PreferenceError, ConfigError: an option that cannot work, or an address that is taken.
    """
    options = {**locals()}
    for name in ("engine", "say"):
        del options[name]
    options["allow_origin"] = list(allow_origin)
    run_server(engine, ServeConfig(**options), say)


def run_server(
    engine: LocalEngine,
    config: ServeConfig,
    say: Say = logger.warning,
    listening: socket.socket | None = None,
) -> None:
    """`serve`, its options as one object; `listening` is the address where it is taken already."""
    name = config.served_model_name or model_name(engine.base.model.config._name_or_path)
    app = create_app(engine, name, config)
    with listening or listen(config) as sock, json_lines(), _ended_by_sigterm():
        sock.listen(2048)  # from here on clients may wait
        _tell(engine, name, config, sock.getsockname()[1], say)
        waits = type("Connection", (Connection,), {"patience": config.body_timeout})
        options = uvicorn.Config(
            app,
            http=waits,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=math.ceil(config.drain_timeout) + LAST_WORDS,
        )
        server = Server(options, engine, config.drain_timeout)
        try:
            server.run(sockets=[sock])
        except KeyboardInterrupt:  # it has ended all answers by then
            pass
        finally:
            engine.close()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """As by SIGINT: uvicorn raises a signal again when its server has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def listen(config: ServeConfig) -> socket.socket:
    """The address, taken before models are loaded; clients reach it once the server runs.

    Raises:
        ConfigError: it cannot be had.
    """
    try:
        [family, kind, protocol, _, address], *_ = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        return sock
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {config.host}:{config.port} ({error.strerror or error})",
            "give another --port or --host",
        ) from None


def _tell(engine: LocalEngine, name: str, config: ServeConfig, port: int, say: Say) -> None:
    host = f"[{config.host}]" if ":" in config.host else config.host
    steers = f", steered to {', '.join(engine.objectives)}" if engine.objectives else ""
    say(f"serving {name}{steers} at http://{host}:{port}/v1 (Ctrl-C stops)")
    if not config.local and not config.key:
        say(f"everyone who reaches {config.host} may ask; --api-key KEY keeps others out")
