"""A reward model as a scorer: a trajectory model, a classifier, or an ARM of one objective."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.arms.objectives import is_conditioned
from trimtab.arms.starts import start_of
from trimtab.data.sources import fingerprint
from trimtab.errors import ConfigError
from trimtab.models.classifiers import is_classifier, require_one_output
from trimtab.models.folder import adapter_base, fetch, is_adapter, weights_fingerprint
from trimtab.models.messages import Prompt
from trimtab.models.types import PromptFormat
from trimtab.scoring.scorer import Scorer

if TYPE_CHECKING:
    from trimtab.arms.reward_model import RewardModel
    from trimtab.arms.reward_reader import RewardReader


CONFIGS = (  # whatever decides what a model reads
    "config.json", "adapter_config.json", "trimtab.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip


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
            prompt_format=_styles(model.reader, verbatim),
            places=places,
        )
        return [one.reward for one in scored]

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
            from trimtab.models.memory import free_memory

            self._model = None
            free_memory()


def _styles(reader: RewardReader, verbatim: Sequence[bool]) -> list[PromptFormat] | None:
    """How each prompt is read; None is as in training."""
    style = reader.sidecar.prompt_format
    return ["raw" if v else style for v in verbatim] or None


def model_identity(folder: str) -> str:
    """What a model's answers depend on: its weights, its configs and its tokenizer, or its name at
    the hub; of an adapter, those of its base, too, and of a whole model those that it is measured
    against.
    """
    if not Path(folder).is_dir():
        return folder
    configs = fingerprint([path for name in CONFIGS if (path := Path(folder) / name).is_file()])
    start = None if is_adapter(folder) else start_of(folder)
    base = adapter_base(folder) if is_adapter(folder) else start.place if start else ""
    parts = weights_fingerprint(folder) + configs + (model_identity(base) if base else "")
    return hashlib.sha256(parts.encode()).hexdigest()
