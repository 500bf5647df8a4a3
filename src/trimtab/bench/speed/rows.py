"""The rows of the speed table, by name, for random models or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
from transformers import PreTrainedModel

from trimtab.arms.adapter import AdapterWeights
from trimtab.arms.conditioned import Core
from trimtab.bench.speed.contenders import Contender, Engine, Generate, TwoModels
from trimtab.bench.speed.models import (
    SHAPES,
    Numbers,
    random_conditioned,
    random_lora,
    random_model,
)
from trimtab.engines.local import LocalEngine, load_engine
from trimtab.engines.local.streams import BASE, Stream
from trimtab.engines.types import LoadSettings
from trimtab.errors import ConfigError
from trimtab.models.devices import default_device
from trimtab.models.load import load_model, load_tokenizer
from trimtab.models.quantization import quantized_loading
from trimtab.models.vocabulary import VocabularyMap

BASE_ROW = "base alone"
GENERATE_ROW = "base alone, transformers generate"
LOOP_ROW = "1 ARM, transformers loop over two models"


def fused_row(arms: int) -> str:
    """Name of the row of `arms` LoRA ARMs on the base's backbone."""
    return f"{arms} ARM{'s' * (arms > 1)} fused"


def separate_row(arms: int) -> str:
    """Name of the row of `arms` ARMs with weights of their own."""
    return f"{arms} ARM{'s' * (arms > 1)} as separate copies"


CONDITIONED_ROWS: dict[str, Core] = {
    "1 ARM fused, 2 objectives, PARM": "bilinear",
    "1 ARM fused, 2 objectives, UniARM": "affine",
}
SPECULATION_ROW = "1 ARM fused, n-gram speculation"


@dataclass(frozen=True)
class RandomModels:
    """Rows for a shape with random weights.

    Attributes:
        shape: one of `SHAPES`.
        dtype: of the weights, by name.
        device: where they are.
    """

    shape: str
    dtype: str
    device: str

    def makers(self) -> dict[str, Callable[[], Contender]]:
        """Row name -> what makes its contender. Every engine gets weights of its own."""
        rows: dict[str, Callable[[], Contender]] = {
            BASE_ROW: lambda: Engine(self.engine()),
            GENERATE_ROW: lambda: Generate(self._model()),
            LOOP_ROW: lambda: TwoModels(self._model(), self._model(1)),
        }
        for k in (1, 2, 4):
            rows[fused_row(k)] = lambda k=k: Engine(self.engine(fused=k))  # type: ignore[misc]
        for k in (1, 2, 4):
            rows[separate_row(k)] = lambda k=k: Engine(  # type: ignore[misc]
                self.engine(separate=k)
            )
        for name, core in CONDITIONED_ROWS.items():
            rows[name] = lambda core=core: Engine(self.conditioned(core))  # type: ignore[misc]
        rows[SPECULATION_ROW] = lambda: Engine(self.engine(fused=1, draft="ngram"), "on")
        return rows

    def prompts(self, batch: int, length: int) -> list[list[int]]:
        """Random prompts, no two alike."""
        generator = torch.Generator().manual_seed(batch * 10_000 + length)
        vocabulary = SHAPES[self.shape]["vocab_size"]
        return torch.randint(1, vocabulary, (batch, length), generator=generator).tolist()

    def _model(self, seed: int = 0) -> PreTrainedModel:
        return random_model(self.shape, getattr(torch, self.dtype), self.device, seed)

    def engine(
        self, fused: int = 0, separate: int = 0, draft: Literal["ngram"] | None = None
    ) -> LocalEngine:
        """A base with some ARMs on its backbone and some with weights of their own."""
        model = self._model()
        arms = [self._stream(f"fused{i}", model, random_lora(model, i)) for i in range(fused)]
        arms += [self._stream(f"own{i}", self._model(i + 1)) for i in range(separate)]
        return LocalEngine(self._stream(BASE, model), arms, draft=draft, pack=True)

    def conditioned(self, core: Core) -> LocalEngine:
        """A base with one conditioned ARM for two objectives on its backbone."""
        model = self._model()
        adapter = random_conditioned(model, 0, core, ("one", "two"))
        arm = self._stream("both", model, adapter)
        return LocalEngine(self._stream(BASE, model), [arm], pack=True)

    def _stream(
        self, name: str, model: PreTrainedModel, adapter: AdapterWeights | None = None
    ) -> Stream:
        size = SHAPES[self.shape]["vocab_size"]
        vocabulary = VocabularyMap(size, size)
        return Stream(name, model, Numbers(), vocabulary, "raw", 1.0, adapter)


class _Origin(TypedDict):
    """Of a base, as `load_model` and `load_tokenizer` take it."""

    trust_remote_code: bool
    revision: str | None


@dataclass(frozen=True)
class OwnModels:
    """Rows for a user's base and ARMs.

    Attributes:
        base: folder or hub id.
        arms: objective -> folder or hub id.
        options: for `load_engine`.
    """

    base: str
    arms: dict[str, str]
    options: LoadSettings

    def makers(self) -> dict[str, Callable[[], Contender]]:
        """As `RandomModels.makers`."""
        plain: LoadSettings = {**self.options, "draft": None}
        alone: LoadSettings = {
            **plain,
            "trust_remote_code": [BASE] if self._origin["trust_remote_code"] else [],
        }
        return {
            BASE_ROW: lambda: Engine(load_engine(self.base, **alone)),
            GENERATE_ROW: lambda: Generate(self._loaded()),
            "guided": lambda: Engine(load_engine(self.base, self.arms, **plain)),
            "guided, speculation on": lambda: Engine(
                load_engine(self.base, self.arms, **self.options), "on"
            ),
            "guided, speculation auto": lambda: Engine(
                load_engine(self.base, self.arms, **self.options), "auto"
            ),
        }

    def _loaded(self) -> PreTrainedModel:
        dtype, bits = self.options["dtype"], self.options["quantization"]
        quantized = quantized_loading(bits, dtype) if bits else {}
        kind = {"dtype": dtype, "device": self.options["device"] or default_device()}
        return load_model(self.base, **{**kind, **quantized}, **self._origin)

    @property
    def _origin(self) -> _Origin:
        return {
            "trust_remote_code": BASE in self.options["trust_remote_code"],
            "revision": (self.options.get("revisions") or {}).get(BASE),
        }

    def prompts(self, batch: int, length: int) -> list[list[int]]:
        """Prompts of ordinary tokens from the middle of the vocabulary, no two alike."""
        size = len(load_tokenizer(self.base, **self._origin))
        generator = torch.Generator().manual_seed(batch * 10_000 + length)
        return torch.randint(size // 8, size, (batch, length), generator=generator).tolist()


Models = RandomModels | OwnModels


def wanted(makers: dict[str, Callable[[], Contender]], names: Sequence[str]) -> list[str]:
    """Rows whose name contains one of `names`; all if there are none. The base always counts.

    Raises:
        ConfigError: a name that no row contains.
    """
    for name in names:
        if not any(name in row for row in makers):
            raise ConfigError(f"no row contains {name!r}", f"the rows are: {'; '.join(makers)}")
    chosen = [row for row in makers if not names or any(name in row for name in names)]
    return [BASE_ROW, *(row for row in chosen if row != BASE_ROW)]
