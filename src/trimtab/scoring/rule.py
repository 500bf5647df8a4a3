"""A rule: a function of the user's in Python that rates responses."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from trimtab.data.sources import fingerprint
from trimtab.errors import ConfigError, first_line
from trimtab.models.messages import Prompt
from trimtab.scoring.scorer import SPECS, Scorer


class Rule(Scorer):
    """A function of the user's, of the response or of prompt and response, that gives a number."""

    def __init__(self, spec: str) -> None:
        self._spec = spec
        module, _, name = spec.partition(":")
        self._function = _imported(module, name)
        self._takes_prompt = _takes_prompt(spec, self._function)
        source = getattr(sys.modules[module], "__file__", None)
        self.identity = {"rule": spec, "sha256": fingerprint([source] if source else [])}

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        places: Sequence[str] = (),
        verbatim: Sequence[bool] = (),
    ) -> list[float | None]:
        """The rule's numbers; a rule that fails is a `ConfigError` that names the row."""
        names = places or [f"row {i}" for i in range(1, len(responses) + 1)]
        return [self._one(*row) for row in zip(prompts, responses, names, strict=True)]

    def probe(self, prompt: Prompt) -> None:
        """Call it once."""
        self._try_out(prompt)

    def _one(self, prompt: Prompt, response: str, place: str) -> float:
        try:
            value = (
                self._function(prompt, response) if self._takes_prompt else self._function(response)
            )
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"the rule {self._spec} fails on {place} ({_reason(error)})", "mend the rule"
            ) from error
        number = _finite(value)
        if number is None:
            raise ConfigError(
                f"the rule {self._spec} gives {_shown(value)} for {place}", "return a finite number"
            )
        return number


def _imported(module: str, name: str) -> Callable[..., Any]:
    """A function of a module; the current directory is searched first."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not (module + ".").startswith(f"{error.name}."):
            raise ConfigError(
                f"the module {module} cannot be imported ({error})", "install what it needs"
            ) from None
        raise ConfigError(
            f"no module {module!r}", "run where its file is, or install it; " + SPECS
        ) from None
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the module {module} cannot be imported ({_reason(error)})", "mend it"
        ) from error
    finally:
        sys.path.remove(here)
    function = getattr(imported, name, None)
    if not callable(function):
        raise ConfigError(f"the module {module} has no function {name!r}", "check its name")
    return function  # type: ignore[no-any-return]


def _takes_prompt(spec: str, function: Callable[..., Any]) -> bool:
    """Whether a rule is of (prompt, response) rather than of (response)."""
    hint = "a rule takes (response) or (prompt, response)"
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ConfigError(f"the rule {spec} does not say what it takes", hint) from None
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(needed) not in (1, 2) or any(p.kind is p.KEYWORD_ONLY for p in needed):
        names = ", ".join(p.name for p in needed)
        raise ConfigError(f"the rule {spec} takes ({names})", hint)
    return len(needed) == 2


def _finite(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, Real) else math.nan
    except OverflowError:  # 10**400 is a number, but no float
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # Python refuses to write an integer of thousands of digits
        return f"something of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _reason(error: BaseException) -> str:
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error).strip() else name
