"""Scorers: a reward model, a rule in Python, or a judge behind an OpenAI-compatible server.

`load_scorer` checks what it can without loading a weight; weights are loaded with the first score.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.arms.objectives import is_conditioned
from trimtab.data.sources import fingerprint
from trimtab.errors import ConfigError
from trimtab.models.classifiers import is_classifier, require_one_output
from trimtab.models.folder import adapter_base, fetch, is_adapter, weights_fingerprint
from trimtab.models.messages import Prompt

if TYPE_CHECKING:
    from trimtab.arms.reward_model import RewardModel
    from trimtab.arms.reward_reader import RewardReader
    from trimtab.models.devices import DType
    from trimtab.models.prompts import PromptFormat

_RULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
SPECS = "a scorer is a folder, module:function, or judge:MODEL@http://host:port/v1"
CONFIGS = (  # whatever decides what a model reads
    "config.json", "adapter_config.json", "trimtab.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
PROBE = "Hello there."  # a response that any rule and any judge can rate


class Scorer(ABC):
    """Rates responses on one objective.

    Attributes:
        identity: what the scores depend on, for a job's settings; it holds no secret.
        chunk: responses whose scores are kept together: an error loses fewer than so many.
        trouble: what came in place of the last score that is missing, for people.
        wanted: what should have come.
    """

    identity: Mapping[str, Any]
    chunk = 128
    trouble = ""
    wanted = ""

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

    def check(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        places: Sequence[str] = (),
        verbatim: Sequence[bool] = (),
    ) -> None:
        """Refuse what it cannot read, as far as that is known without weights and for nothing."""
        return

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
    revision: str | None = None,
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
        revision: of a hub id: a branch, tag or commit.

    Raises:
        ConfigError: a spec that means nothing, a rule that cannot be imported.
        MissingFileError, ModelLoadError: a folder that is not there or cannot be loaded.
    """
    is_model = not spec.startswith("judge:") and (Path(spec).exists() or ":" not in spec)
    if revision is not None and not is_model:
        raise ConfigError(f"a revision for {objective!r}, whose scorer is no model", "leave it out")
    if spec.startswith("judge:"):
        from trimtab.evaluation.judge import Judge

        return Judge(spec, objective, rubric)
    if rubric is not None:
        raise ConfigError(
            f"a rubric for {objective!r}, whose scorer is no judge", "leave out its --rubric"
        )
    if not Path(spec).exists() and _RULE.fullmatch(spec):
        from trimtab.evaluation.rule import Rule

        return Rule(spec)
    if not spec or (not Path(spec).exists() and ":" in spec):
        raise ConfigError(f"cannot read the scorer {spec!r} of {objective!r}", SPECS)
    options = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    folder = fetch(spec, what="reward model", revision=revision)
    return ModelScorer(folder, batch_size, options)


class ModelScorer(Scorer):
    """A trajectory reward model or classifier (its scalar), or an ARM (nats per response)."""

    def __init__(self, spec: str, batch_size: int, options: Mapping[str, Any]) -> None:
        self._folder = fetch(spec, what="reward model")
        if is_conditioned(self._folder):
            raise ConfigError(
                f"{spec} takes a preference as input and rates no objective by itself",
                "score with a trajectory model or an ARM of one objective",
            )
        classifies = is_classifier(self._folder)
        if classifies:
            require_one_output(self._folder)
        self.identity = {
            "model": model_identity(self._folder),
            "dtype": options["dtype"],
            **({"read_as": "classifier"} if classifies else {}),  # once they were read as LMs
        }
        self._batch_size, self._options = batch_size, options
        self._reader: RewardReader | None = None
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
        from trimtab.arms.reward_model import RewardModel

        model = self._model = self._model or RewardModel(
            self._folder, reader=self._reader, **self._options
        )
        scored = model.score(
            prompts,
            responses,
            batch_size=self._batch_size,
            prompt_format=_styles(model, verbatim),
            places=places,
        )
        return [found.reward for found in scored]

    def check(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        places: Sequence[str] = (),
        verbatim: Sequence[bool] = (),
    ) -> None:
        """Tokenise everything: a chat that its template does not take, a text that is too long."""
        from trimtab.arms.reward_reader import RewardReader
        from trimtab.models.devices import require_device

        if self._options["device"]:
            require_device(self._options["device"])
        reader = self._reader or RewardReader(
            self._folder, trust_remote_code=self._options["trust_remote_code"]
        )
        self._reader = reader
        reader.read(prompts, responses, _styles(reader, verbatim), places)

    def close(self) -> None:
        """Free the weights."""
        if self._model is not None:
            self._model = None
            free_memory()


def _styles(reader: RewardReader, verbatim: Sequence[bool]) -> list[PromptFormat] | None:
    """How each prompt is read; None is as in training."""
    own = reader.sidecar.prompt_format
    return ["raw" if v else own for v in verbatim] or None


def model_identity(folder: str) -> str:
    """What a model's answers depend on: its weights, its configs and its tokenizer, or its name at
    the hub; of an adapter, those of its base, too.
    """
    if not Path(folder).is_dir():
        return folder
    configs = fingerprint([path for name in CONFIGS if (path := Path(folder) / name).is_file()])
    base = adapter_base(folder) if is_adapter(folder) else ""
    parts = weights_fingerprint(folder) + configs + (model_identity(base) if base else "")
    return hashlib.sha256(parts.encode()).hexdigest()


def free_memory() -> None:
    """Give back what models held that nothing refers to any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
