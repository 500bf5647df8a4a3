"""Token by token from a guide to an ARM: the teacher, its inputs and the trainer.

The teacher is the base under the guide at strength 1, π_T ∝ π_b exp(w log π_i / π_ref); the student
is the base with a LoRA. N responses, M tokens of all of them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trimtab import fusion
from trimtab.arms.load import load_arm
from trimtab.arms.logprobs import response_hidden
from trimtab.arms.rewards import Batch, response_rewards
from trimtab.arms.sidecar import Sidecar, language_model_facts
from trimtab.data.samples import TokenSample
from trimtab.engines.guides import REFERENCE, Contrast, Instruction, models_of
from trimtab.engines.local.group_cache import to_base
from trimtab.engines.local.tokenization import Tokenization, load_tokenizations
from trimtab.jobs import Progress
from trimtab.models.devices import default_device
from trimtab.models.folder import canonical, fetch
from trimtab.models.instructions import instructed
from trimtab.models.lm_head import causal_lm, head_logits
from trimtab.models.messages import Prompt
from trimtab.models.origins import Origins
from trimtab.models.padding import pad_rows
from trimtab.models.prompts import prompt_ids
from trimtab.models.types import PromptFormat
from trimtab.models.vocabulary import VocabularyMap
from trimtab.training.config import TrainConfig
from trimtab.training.inputs import Inputs, prepare_inputs
from trimtab.training.losses import LossOptions
from trimtab.training.reading import TrainData
from trimtab.training.trainer import PreferenceTrainer

GUIDED, OPPOSED = "guided_", "opposed_"
"""Before the names of a batch's columns: what the guide reads, and its reference."""
Row = tuple[list[int], list[int]]  # ids of the prompt and of the response


@dataclass(frozen=True)
class TaughtSample(TokenSample):
    """A response, and how the guide's models read it and its prompt.

    Attributes:
        guided: prompt and response as the guide's model reads them.
        opposed: as its reference does; None where that is the base itself.
    """

    guided: Row = ([], [])
    opposed: Row | None = None


@dataclass(frozen=True)
class TaughtCollator:
    """Taught samples as one batch of N rows: of the base, the guide, perhaps its reference."""

    pad_id: int

    def __call__(self, samples: Sequence[TaughtSample]) -> Batch:
        """The columns of `pad_rows`, [N, T], each reader's with its own prefix and width."""
        columns = pad_rows([(s.prompt_ids, s.response_ids) for s in samples], self.pad_id)
        readers = {GUIDED: [s.guided for s in samples]}
        opposed = [s.opposed for s in samples if s.opposed is not None]
        readers |= {OPPOSED: opposed} if opposed else {}
        for prefix, rows in readers.items():
            columns |= {f"{prefix}{n}": c for n, c in pad_rows(rows, self.pad_id).items()}
        return columns


@dataclass(frozen=True)
class Teacher:
    """The base under one guide at strength 1.

    Attributes:
        size: V of the base.
        weight: w, the guide's own.
        guide: its model; None where it is the base.
        reference: likewise of its reference.
        vocabularies: of the two.
        chunk: tokens that go through the heads at once.
    """

    size: int
    weight: float
    vocabularies: tuple[VocabularyMap, VocabularyMap]
    folders: tuple[str, str] | None = None
    guide: Any = None
    reference: Any = None
    chunk: int = 256

    def load(self, model: Any, config: TrainConfig) -> Teacher:
        """With the guide's models in memory, frozen."""
        if self.folders is None:
            return replace(self, chunk=config.head_chunk_tokens)
        loaded = [self._loaded(folder, model, config) for folder in self.folders]
        return replace(self, guide=loaded[0], reference=loaded[1], chunk=config.head_chunk_tokens)

    def _loaded(self, folder: str, model: Any, config: TrainConfig) -> Any:
        if canonical(folder) == canonical(config.model):
            return None
        kind: Any = str(causal_lm(model).dtype).removeprefix("torch.")
        other = load_arm(folder, dtype=kind, device=default_device())
        return other.requires_grad_(False).eval()

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """Divergences of each response in nats per token, [N, 2].

        Of the student from the teacher, `KL(π_T || π_θ)`, and of the base from it.
        """
        with torch.no_grad(), _as_base(model):
            base_MH = response_hidden(model, batch)
            guide_MH = response_hidden(_or(self.guide, model), _columns(batch, GUIDED))
            opposed_MH = base_MH
            if f"{OPPOSED}input_ids" in batch:
                opposed_MH = response_hidden(_or(self.reference, model), _columns(batch, OPPOSED))
        hidden = (response_hidden(model, batch), base_MH, guide_MH, opposed_MH)
        chunks = zip(*(torch.split(h, self.chunk) for h in hidden), strict=True)
        parts = [checkpoint(self._divergences, model, *c, use_reentrant=False) for c in chunks]
        kl_M2 = torch.cat(parts)
        rows = batch["response_mask"][:, 1:].nonzero()[:, 0]
        count = len(batch["response_mask"])
        means = [response_rewards(k, rows, count, length_normalize=True) for k in kl_M2.unbind(-1)]
        return torch.stack(means, dim=-1)

    def _divergences(
        self, model: Any, own_MH: Tensor, base_MH: Tensor, guide_MH: Tensor, opposed_MH: Tensor
    ) -> Tensor:
        lm = causal_lm(model)
        with torch.no_grad(), _as_base(model):
            base_MV = fusion.log_softmax(head_logits(lm, base_MH), self.size)
            teacher_MV = self._logp(model, base_MV, guide_MH, opposed_MH)
        own_MV = fusion.log_softmax(head_logits(lm, own_MH), self.size)
        return torch.stack([_kl(teacher_MV, own_MV), _kl(teacher_MV, base_MV)], dim=-1)

    def _logp(self, model: Any, base_MV: Tensor, guide_MH: Tensor, opposed_MH: Tensor) -> Tensor:
        """log π_T, [M, V], by the rule that decoding follows."""
        models, hidden = (self.guide, self.reference), (guide_MH, opposed_MH)
        sides = zip(models, hidden, self.vocabularies, strict=True)
        logps = [
            to_base(fusion.log_softmax(head_logits(causal_lm(_or(own, model)), h), v.own_size), v)
            for own, h, v in sides
        ]
        weights_M1 = base_MV.new_full((len(base_MV), 1), self.weight)
        return fusion.fuse(base_MV, fusion.contrast(*logps)[None], weights_M1)


def _or(own: Any, model: Any) -> Any:
    return model if own is None else own


def _columns(batch: Batch, prefix: str) -> Batch:
    return {n.removeprefix(prefix): c for n, c in batch.items() if n.startswith(prefix)}


@contextmanager
def _as_base(model: Any) -> Iterator[None]:
    """The student without its LoRA and without dropout."""
    was_training = model.training
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        model.train(was_training)


def _kl(one_MV: Tensor, other_MV: Tensor) -> Tensor:
    """KL(one || other) of each row; a token that `one` cannot give counts nothing."""
    possible = one_MV > fusion.NEVER
    gap_MV = torch.where(possible, one_MV - other_MV, 0.0)
    return (one_MV.exp() * gap_MV).sum(-1)


class DistillTrainer(PreferenceTrainer):
    """Minimises `KL(π_T || π_θ)` at every token; each response counts alike.

    Logs `explained` (in evaluation `eval_explained`): the share of the guide's own divergence from
    the base that the student has learned, 1 − KL(π_T || π_θ) / KL(π_T || π_b).
    """

    def __init__(self, *, teacher: Teacher, **arguments: Any) -> None:
        super().__init__(
            rewards=teacher, loss=LossOptions(), compute_metrics=_explained, **arguments
        )

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Mean loss over the batch's responses."""
        kl_N2 = self.rewards(model, inputs)
        if model.training:
            learned, whole = kl_N2.detach().mean(0).tolist()
            self._window["explained"].append(1 - learned / max(whole, 1e-9))
        loss = kl_N2[:, 0].mean()
        return (loss, kl_N2) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: Batch, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and each response's divergences [N, 2]; the labels are a placeholder."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, kl_N2 = self.compute_loss(model, inputs, return_outputs=True)
        return loss, kl_N2, torch.zeros(len(kl_N2), device=kl_N2.device)


def _explained(prediction: Any) -> dict[str, float]:
    learned, whole = prediction.predictions.mean(0).tolist()
    return {"explained": 1 - learned / max(whole, 1e-9)}


def prepare_teaching(
    config: TrainConfig,
    objective: str,
    progress: Progress | None,
    data: TrainData,
    *,
    name: str,
    guide: Instruction | Contrast,
) -> Inputs:
    """Inputs of a distillation: samples as the base reads them and as the guide's models do.

    Args:
        config: the options of the training.
        objective: what is trained for.
        progress: is told about what is tokenised.
        data: the samples.
        name: of the guide.
        guide: what is distilled.

    Raises:
        TrimtabError: models that do not fit together.
    """
    inputs = prepare_inputs(config, objective, progress, data)
    readers, teacher = _teacher(config, inputs, name, guide)
    taught: dict[str, list[TokenSample]] = {
        split: [_taught(sample, readers) for sample in samples]
        for split, samples in inputs.samples.items()
    }
    return replace(inputs, samples=taught, teacher=teacher)


@dataclass(frozen=True)
class _Reader:
    """How one of the guide's models reads prompts and responses."""

    tokenizer: Any
    style: PromptFormat
    vocabulary: VocabularyMap
    instruction: str = ""

    def row(self, sample: TokenSample) -> Row:
        prompt: Prompt = sample.sample.prompt
        if self.instruction:
            prompt = instructed(self.tokenizer, prompt, self.instruction, self.style)
        own = dict(self.vocabulary.own_id)
        return (
            prompt_ids(self.tokenizer, prompt, self.style),
            [own.get(i, i) for i in sample.response_ids],
        )


def _taught(sample: TokenSample, readers: Sequence[_Reader]) -> TaughtSample:
    guided, *opposed = [reader.row(sample) for reader in readers]
    return TaughtSample(
        sample.prompt_ids,
        sample.response_ids,
        sample.sample,
        guided,
        opposed[0] if opposed else None,
    )


def _teacher(
    config: TrainConfig, inputs: Inputs, name: str, guide: Instruction | Contrast
) -> tuple[list[_Reader], Teacher]:
    base, style = config.model, config.prompt_format
    trusted = ["base"] if config.trust_remote_code else []
    revisions = {"base": config.revision} if config.revision else {}
    models = {} if isinstance(guide, Instruction) else models_of({name: guide})
    origins = Origins.of(["base", *models], trusted, revisions)
    folders = {part: fetch(place, what=f"model of {name}") for part, place in models.items()}
    facts = {part: language_model_facts(folder) for part, folder in folders.items()}
    read = load_tokenizations(base, folders, origins)
    own = read["base"].vocabulary
    if isinstance(guide, Instruction):
        reader = _Reader(inputs.tokenizer, style, own, guide.text)
        return [reader], Teacher(own.size, guide.weight, (own, own))
    parts = [name, name + REFERENCE]
    readers = [_reader(read[part], facts[part], style) for part in parts]
    maps = (readers[0].vocabulary, readers[1].vocabulary)
    places = (folders[parts[0]], folders[parts[1]])
    return readers, Teacher(own.size, guide.weight, maps, places)


def _reader(tokenization: Tokenization, facts: Sidecar, style: PromptFormat) -> _Reader:
    own: PromptFormat = facts.prompt_format if style == "auto" else style
    return _Reader(tokenization.tokenizer, own, tokenization.vocabulary)
