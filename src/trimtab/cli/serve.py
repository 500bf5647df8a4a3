"""`trimtab serve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.cli import show
from trimtab.cli.options import EngineOptions
from trimtab.cli.parse import parse
from trimtab.errors import ConfigError
from trimtab.serving.config import OPTIONS, ServeConfig, model_name

DESCRIPTION = "Serve a frozen base steered by ARMs over HTTP, as OpenAI's API."


@dataclass(kw_only=True)
class ServeOptions(EngineOptions, ServeConfig):
    """Serve a frozen base steered by ARMs over HTTP, as OpenAI's API."""

    @property
    def config(self) -> ServeConfig:
        """The server's own options."""
        own = {name: getattr(self, name) for name in OPTIONS}
        own["served_model_name"] = self.served_model_name or model_name(self.base)
        return ServeConfig(**own)


def main(argv: Sequence[str]) -> int:
    """Parse, load, serve."""
    options = parse(ServeOptions, argv, "serve", DESCRIPTION)
    config = options.config
    if options.objectives:
        options.steering()
    try:
        from trimtab.serving.run import listen, run_server
    except ImportError as error:
        raise ConfigError(
            f"the server needs {error.name}, which is not installed", "pip install 'trimtab[serve]'"
        ) from None
    with listen(config) as sock:
        run_server(options.load(), config, show.say, sock)
    return 0
