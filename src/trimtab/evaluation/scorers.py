"""Scorers: a reward model, a rule in Python, or a judge behind an OpenAI-compatible server.

`load_scorer` checks what it can without loading a weight; weights are loaded with the first score.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.arms.folder import fetch, is_conditioned, weights_fingerprint
from trimtab.data.pairs import Prompt
from trimtab.data.sources import fingerprint
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.arms.load import DType
    from trimtab.evaluation.scoring import RewardModel

_RULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SPECS = "a scorer is a folder, module:function, or judge:MODEL@http://host:port/v1"
CONFIGS = ("config.json", "adapter_config.json", "trimtab.json")
PROBE = "Hello there."  # a response that any rule and any judge can rate


class Scorer(ABC):
    """Rates responses on one objective.

    Attributes:
        identity: what the scores depend on, for a job's settings; it holds no secret.
        chunk: responses whose scores are kept together: an error loses fewer than so many.
    """

    identity: Mapping[str, Any]
    chunk = 128

    @abstractmethod
    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        places: Sequence[str] = (),
        verbatim: Sequence[bool] = (),
    ) -> list[float | None]:
        """Score each response to its prompt, in the scorer's own units and direction.

        Args:
            prompts: one per response.
            responses: texts.
            places: what an error calls each row; `row 1`, `row 2`, … by default.
            verbatim: whether a prompt is raw text cut anywhere; no by default.

        Returns:
            A score per response; None where the scorer gave none that could be read.
        """

    def probe(self, prompt: Prompt) -> None:
        """Find out before anything expensive whether it works, where that costs little.

        Args:
            prompt: one of those that will be scored.
        """
        return

    def close(self) -> None:
        """Let go of weights and connections; scoring again takes them up again."""
        return

    def _try_out(self, prompt: Prompt) -> None:
        try:
            self.score([prompt], [PROBE], places=[f"the first prompt, answered {PROBE!r}"])
        finally:
            self.close()


def load_scorer(
    spec: str,
    objective: str,
    *,
    rubric: str | None = None,
    batch_size: int = 16,
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Scorer:
    """Make a scorer from what a user wrote.

    Args:
        spec: a folder or hub id of a trajectory reward model or an ARM; `module:function`, a rule;
            or `judge:MODEL@http://host:port/v1`.
        objective: what is rated.
        rubric: what the objective means, for a judge; by default its name.
        batch_size: responses in one forward pass of a reward model.
        dtype: of a reward model's weights.
        device: where a reward model goes; the GPU by default where there is one.
        trust_remote_code: run model code that comes with a checkpoint.

    Raises:
        ConfigError: a spec that means nothing, a rule that cannot be imported.
        MissingFileError, ModelLoadError: a folder that is not there or cannot be loaded.
    """
    if spec.startswith("judge:"):
        from trimtab.evaluation.judge import Judge

        return Judge(spec, objective, rubric)
    if rubric is not None:
        raise ConfigError(
            f"a rubric for {objective!r}, whose scorer is no judge", "leave out its --rubric"
        )
    if not Path(spec).exists() and _RULE.fullmatch(spec):
        return Rule(spec)
    if not spec or (not Path(spec).exists() and ":" in spec):
        raise ConfigError(f"cannot read the scorer {spec!r} of {objective!r}", _SPECS)
    options = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    return ModelScorer(spec, batch_size, options)


class ModelScorer(Scorer):
    """A trajectory reward model (its scalar) or an ARM (nats per response)."""

    def __init__(self, spec: str, batch_size: int, options: Mapping[str, Any]) -> None:
        self._folder = fetch(spec, what="reward model")
        if is_conditioned(self._folder):
            raise ConfigError(
                f"{spec} takes a preference as input and rates no objective by itself",
                "score with a trajectory model or an ARM of one objective",
            )
        self.identity = {"model": model_identity(self._folder)}
        self._batch_size, self._options = batch_size, options
        self._model: RewardModel | None = None

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        places: Sequence[str] = (),
        verbatim: Sequence[bool] = (),
    ) -> list[float | None]:
        """The reward model's rewards."""
        from trimtab.evaluation.scoring import RewardModel

        model = self._model = self._model or RewardModel(self._folder, **self._options)
        own = model.sidecar.prompt_format
        scored = model.score(
            prompts,
            responses,
            batch_size=self._batch_size,
            prompt_format=["raw" if v else own for v in verbatim] or None,
            places=places,
        )
        return [found.reward for found in scored]

    def close(self) -> None:
        """Free the weights."""
        if self._model is not None:
            self._model = None
            free_memory()


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
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not (module + ".").startswith(f"{error.name}."):
            raise ConfigError(
                f"the module {module} cannot be imported ({error})", "install what it needs"
            ) from None
        raise ConfigError(
            f"no module {module!r}", "run where its file is, or install it; " + _SPECS
        ) from None
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the module {module} cannot be imported ({_reason(error)})", "mend it"
        ) from error
    finally:
        sys.path.remove(here)
    function = getattr(found, name, None)
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
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def model_identity(folder: str) -> str:
    """What a model's answers depend on: its weights and its configs, or its name at the hub."""
    if not Path(folder).is_dir():
        return folder
    configs = fingerprint([path for name in CONFIGS if (path := Path(folder) / name).is_file()])
    return hashlib.sha256((weights_fingerprint(folder) + configs).encode()).hexdigest()


def free_memory() -> None:
    """Give back what models held that nothing refers to any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
