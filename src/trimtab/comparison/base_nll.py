"""How unlikely answers are to the base: its negative log-likelihood, nats per token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trimtab.engines.types import Request
from trimtab.models.folder import check_folder
from trimtab.models.messages import Prompt
from trimtab.models.origins import Origins
from trimtab.models.types import DType, PromptFormat
from trimtab.scoring.model_scorer import model_identity
from trimtab.scoring.scorer import Scorer

if TYPE_CHECKING:
    from trimtab.engines.local import LocalEngine

NAME = "base_nll"
"""What its file of scores is called; no judge may be."""


class BaseNll(Scorer):
    """The base's negative log-likelihood of an answer's text, nats per token.

    The text is tokenised behind its prompt, and the end of the turn is not counted. An answer
    without a token has none.

    Args:
        base: folder, GGUF file or hub id.
        prompt_format: how plain-text prompts are read.
        batch_size: answers read together.
        dtype: of the weights.
        device: where they go; the GPU by default where there is one.
        origins: whether its own code may run, and its revision, under the name `base`.

    Raises:
        MissingFileError, ModelLoadError: it is not there, or is no model.
    """

    wanted = "answers of a token or more"

    def __init__(
        self,
        base: str,
        *,
        prompt_format: PromptFormat,
        batch_size: int,
        dtype: DType,
        device: str | None,
        origins: Origins,
    ) -> None:
        check_folder(base, what="base model")
        self.identity = {
            "base": model_identity(base),
            "revision": origins.revision("base"),
            "prompt_format": prompt_format,
            "dtype": dtype,
        }
        self._base, self._format, self._batch_size = base, prompt_format, batch_size
        self._dtype, self._device, self._origins = dtype, device, origins
        self._engine: LocalEngine | None = None

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        places: Sequence[str] = (),
        verbatim: Sequence[bool] = (),
    ) -> list[float | None]:
        """Nats per token; None of an answer without a token."""
        self._engine = self._engine or self._load()
        requests = [Request(prompt) for prompt in prompts]
        found = self._engine.log_likelihoods(requests, responses, batch_size=self._batch_size)
        values = [one.base_nll for one in found]
        if any(map(math.isnan, values)):
            self.trouble = "an answer without a token"
        return [None if math.isnan(value) else value for value in values]

    def close(self) -> None:
        """Free the weights."""
        if self._engine is not None:
            from trimtab.models.memory import free_memory

            self._engine.close()
            self._engine = None
            free_memory()

    def _load(self) -> LocalEngine:
        from trimtab.engines.local import load_engine

        revision = self._origins.revision("base")
        return load_engine(
            self._base,
            dtype=self._dtype,
            device=self._device,
            prompt_format=self._format,
            trust_remote_code=["base"] if self._origins.trusts("base") else [],
            revisions={"base": revision} if revision else {},
        )
