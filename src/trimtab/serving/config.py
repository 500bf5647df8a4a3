"""Every option of `trimtab serve` that is not the engine's, once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from trimtab.bounds import TINY, Bound
from trimtab.engines.types import Speculate
from trimtab.errors import ConfigError

FLAT = ("preference", "strength", "kl_budget", "gate", "speculate")
"""How a request is steered, where it is written flat: `vllm_xargs` and the server's options."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BOUNDS = {
    "port": Bound(Integral, 0, 65535, "a whole number, 0 (any free one) to 65535"),
    "default_max_tokens": Bound(Integral, 1, 2**31 - 1, "1 or more"),
    "max_body_bytes": Bound(Integral, 1, 2**40, "1 byte or more"),
    "min_free_memory": Bound(Integral, 0, 2**50, "bytes, 0 or more"),
    "timeout": Bound(Real, TINY, 1e9, "seconds, more than 0"),
    "body_timeout": Bound(Real, TINY, 1e9, "seconds, more than 0"),
    "drain_timeout": Bound(Real, 0, 1e9, "seconds, 0 or more"),
    "max_waiting": Bound(Integral, 1, 1024, "1 to 1024"),  # the engine's own most
    "retry_after": Bound(Integral, 1, 86400, "seconds, 1 to 86400"),
}


@dataclass(kw_only=True)
class ServeConfig:
    """How a server is run."""

    host: str = "127.0.0.1"
    """Address to listen at; by default only this machine can reach it."""

    port: int = 8000
    """Port to listen at; 0 takes any free one."""

    served_model_name: str = ""
    """What requests call the model; by default the name of the base's folder, or its hub id."""

    api_key: str = ""
    """What clients must send as `Authorization: Bearer KEY`; also read from TRIMTAB_API_KEY.
    Without one everyone who reaches the address may ask."""

    preference: str | None = None
    """Weight per objective of requests that carry none, such as `helpful=0.7,harmless=0.3`; all
    alike by default."""

    strength: float = 1.0
    """How hard the guide pulls where a request does not say; 0 is the base exactly."""

    kl_budget: float | None = None
    """Of requests that carry none: nats per token that the steered distribution may be from the
    base's."""

    gate: float | None = None
    """Of requests that carry none: leave the ARMs out where the base gives one token more than
    this probability."""

    speculate: Speculate = "off"
    """Of requests that do not say: draft tokens and verify them in one pass, the same tokens."""

    default_max_tokens: int = 512
    """Tokens of an answer where a request does not say, as far as there is room."""

    max_body_bytes: int = 2**20
    """Largest request body; a larger one is refused (413)."""

    timeout: float = 600.0
    """Seconds that a request may take in all from its arrival, waiting included."""

    body_timeout: float = 20.0
    """Seconds within which a request's head, and then its body, must have come, and a client must
    take some of what it is sent."""

    drain_timeout: float = 60.0
    """Seconds that answers have to end after SIGTERM."""

    max_waiting: int = 256
    """Answers that may wait for their turn; a request for more is sent away (429)."""

    min_free_memory: int = 256 * 2**20
    """Bytes of this machine's memory, or of its container's limit, that stay free; with less, new
    requests are sent away (429)."""

    retry_after: int = 1
    """Seconds after which a client that was sent away should come again."""

    allow_origin: list[str] = field(default_factory=list)
    """Web pages' origins that may ask from a browser (CORS); none by default, `*` for all."""

    log_prompts: bool = False
    """Write prompts and answers into the log, too."""

    def __post_init__(self) -> None:
        for name, bound in _BOUNDS.items():
            bound.require(name, getattr(self, name))
        if not self.host:
            raise ConfigError("the host is empty", "give an address such as 127.0.0.1 or 0.0.0.0")
        if "@" in self.served_model_name:
            raise ConfigError(
                f"served_model_name {self.served_model_name!r} has an @",
                "what stands behind one is a preference: NAME@helpful=0.7",
            )

    @property
    def key(self) -> str:
        """The API key; empty where everyone may ask."""
        return self.api_key or os.environ.get("TRIMTAB_API_KEY", "")

    @property
    def defaults(self) -> dict[str, Any]:
        """How requests are steered that do not say, as fields of the engine's `Request`."""
        return {name: getattr(self, name) for name in FLAT}

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK


def model_name(base: str) -> str:
    """What a base is called where nobody says: its folder's name (the link's own, for a link), or
    its hub id."""
    place = Path(base)
    return (place.absolute().name if place.exists() else base) or "base"


OPTIONS = tuple(option.name for option in fields(ServeConfig))
"""Their names."""
