"""An ARM in a user's own `generate` loop: a `transformers` logits processor.

For everything else (several ARMs in one pass, a prompt in each model's own template, speculation)
there is `trimtab.load`.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from trimtab import fusion
from trimtab.arms.conditioned_files import with_conditioned_adapter
from trimtab.arms.load import (
    config_of,
    has_tokenizer,
    load_arm_and_start,
    tokenizer_of,
)
from trimtab.arms.objectives import conditioned_on, is_conditioned
from trimtab.arms.peft_adapter import with_adapter
from trimtab.arms.sidecar import arm_facts, same_backbone
from trimtab.arms.starts import has_start
from trimtab.engines.growing import GrowingBatch
from trimtab.engines.local.group_cache import to_base
from trimtab.errors import ConfigError
from trimtab.models.classifiers import require_language_model
from trimtab.models.folder import fetch, is_adapter
from trimtab.models.limits import configured_ends, context_limit
from trimtab.models.probe import PROMPT, probe_ids, switching_ids
from trimtab.models.prompts import prompt_ids
from trimtab.models.protocols import Tokenizer
from trimtab.models.shared import share_weights
from trimtab.models.types import PromptFormat
from trimtab.models.vocabulary import match_vocabularies
from trimtab.steering import PreferenceLike, Steering

logger = logging.getLogger(__name__)


class ArmLogitsProcessor(LogitsProcessor):
    """Steers `model.generate` by one ARM.

        guide = trimtab.ArmLogitsProcessor("arms/helpful", model, tokenizer, strength=1.0)
        model.generate(**inputs, logits_processor=[guide], do_sample=True, temperature=0.7)

    It has a cache of its own. `generate` calls it before its temperature, top-k and top-p, so that
    these act on the fused distribution, as everywhere in Trimtab. Greedy decoding, sampling, beam
    search and left-padded batches are right; a new prompt is noticed. Several processors in one
    list fuse their ARMs, each with its strength. The ARM reads the prompt that the base reads,
    without the pad tokens that lead a row (`generate` tells a processor no attention mask).
    One that was trained with `--reference start` is measured against that start, which is read
    beside it: one more forward of that model (`trimtab.load` shares it with the base).

    Args:
        arm: folder, GGUF file or hub id of an ARM. A LoRA trained on the model shares its weights.
        model: the base, a transformers causal LM.
        tokenizer: the base's.
        strength: how hard the ARM pulls; 0 is the base exactly.
        preference: of a conditioned ARM (PARM, UniARM); by default all objectives alike.
        revision: of the ARM's hub id: a branch, tag or commit.
        trust_remote_code: run model code that comes with the ARM's checkpoint.

    Raises:
        VocabularyError: an ARM whose tokens are not the base's, named.
        PreferenceError: a strength or a preference that has no meaning.
        ModelLoadError, MissingFileError: an ARM that cannot be loaded.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        arm: str,
        model: Any,
        tokenizer: Tokenizer,
        *,
        strength: float = 1.0,
        preference: PreferenceLike | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        folder = fetch(str(arm), revision=revision)
        facts = arm_facts(folder)
        require_language_model(folder)
        names = conditioned_on(folder)
        if preference is not None and not names:
            raise ConfigError(f"{folder} takes no preference", "leave it out, or set the strength")
        steering = Steering.of(names or [facts.objective or "arm"], preference, strength)
        weight, inner = steering.share([*steering.preference], facts.scale)
        on_base = _is_on(model, folder)  # the base is here, wherever the adapter says it is
        arm_tokenizer, config = tokenizer, model.config
        if not on_base or has_tokenizer(folder):
            arm_tokenizer = tokenizer_of(folder, trust_remote_code=trust_remote_code)
        if not on_base:
            config = config_of(folder, trust_remote_code=trust_remote_code)
        self._vocabulary = match_vocabularies(
            tokenizer,
            arm_tokenizer,
            base_head=model.config.get_text_config().vocab_size,
            arm_head=config.get_text_config().vocab_size,
            base_ends=configured_ends(model.generation_config),
            arm_name=f"the ARM {folder}",
        )
        self._name, self._weight = folder, weight
        self._context = context_limit(config)
        self._pad_id = tokenizer.pad_token_id
        self._begins_padded = _begins_with(tokenizer, self._pad_id)
        _warn_of_another_template(folder, tokenizer, arm_tokenizer, facts.prompt_format)
        loaded, start = _beside(model, folder, trust_remote_code=trust_remote_code)
        if names:
            loaded.conditioning.open(torch.tensor([inner], device=loaded.device))
        switch = switching_ids(loaded)
        probe = probe_ids(arm_tokenizer, facts.prompt_format, limit=self._context, condition=switch)
        self._batch = GrowingBatch(loaded, probe, folder)
        self._start = None
        if start is not None:
            self._start = GrowingBatch(start, probe, f"the model that {folder} started from")

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Fused log-probs in the place of the base's scores.

        Args:
            input_ids: all rows so far, [N, T].
            scores: the base's logits or log-probs, [N, V] with V of its LM head.

        Returns:
            [N, V] float32; −inf where the LM head is only padding.

        Raises:
            ConfigError: rows longer than the ARM reads, padding that cannot be told from a prompt,
                or an ARM whose logits are not numbers.
        """
        if self._context and input_ids.shape[1] > self._context:
            raise ConfigError(
                f"the rows have {input_ids.shape[1]} tokens, the ARM {self._name} reads "
                f"{self._context}",
                "shorten the prompt or lower max_new_tokens; nothing is cut in silence",
            )
        vocabulary = self._vocabulary
        logp_base_BV = fusion.log_softmax(scores, vocabulary.size)
        own_BV = self._reward(self._own(input_ids), self._mask(input_ids), scores.device)
        if bool(own_BV[:, 0].isnan().any()):  # one NaN among the logits makes all log-probs NaN
            raise ConfigError(
                f"the logits of the ARM {self._name} are not numbers (NaN)",
                "load the models in float32; if that is no help, its weights are damaged",
            )
        weights_B1 = own_BV.new_full((len(own_BV), 1), self._weight)
        fused_BV = fusion.fuse(logp_base_BV, to_base(own_BV, vocabulary)[None], weights_B1)
        beyond = scores.shape[-1] - vocabulary.size
        return torch.nn.functional.pad(fused_BV, (0, beyond), value=fusion.NEVER)

    def _reward(self, own_NT: Tensor, mask_NT: Tensor, device: torch.device) -> Tensor:
        """What the ARM gives for each of its own tokens, [N, V]."""
        size = self._vocabulary.own_size
        batches = [self._batch, *([self._start] if self._start else [])]
        logp_BV, *reference = (
            fusion.log_softmax(batch.next_logits(own_NT, mask_NT).to(device), size)
            for batch in batches
        )
        return fusion.contrast(logp_BV, reference[0]) if reference else logp_BV

    def reset(self) -> None:
        """Free the memory of what was read. A new prompt needs no reset."""
        self._batch.forget()
        if self._start:
            self._start.forget()

    def _own(self, ids_NT: Tensor) -> Tensor:
        """Base ids as the ARM's."""
        own_NT = ids_NT
        for base_id, own_id in self._vocabulary.own_id:
            own_NT = own_NT.masked_fill(ids_NT == base_id, own_id)
        return own_NT

    def _mask(self, ids_NT: Tensor) -> Tensor:
        """1 for tokens, 0 for the pad tokens that lead a row, [N, T]."""
        if self._pad_id is None:
            return torch.ones_like(ids_NT)
        mask_NT: Tensor = (ids_NT != self._pad_id).int().cummax(-1).values
        mask_NT[:, -1] = 1
        if self._begins_padded:
            if torch.equal(mask_NT, mask_NT[:1].expand_as(mask_NT)):  # rows of one length
                return torch.ones_like(ids_NT)
            raise ConfigError(
                "prompts begin with the padding token, so padding cannot be told from them",
                "give the tokenizer another pad_token, or generate row by row",
            )
        return mask_NT


def _is_on(model: Any, folder: str) -> bool:
    """Whether an ARM is an adapter that was trained on this model."""
    return (
        is_adapter(folder)
        and not hasattr(model, "peft_config")  # else it is not what the ARM was trained on
        and same_backbone(folder, model.name_or_path)
    )


def _beside(model: Any, folder: str, *, trust_remote_code: bool) -> tuple[Any, Any]:
    """The ARM as a model of its own, over the base's weights where it was trained on them.

    And the model that its rewards are measured against, or None.
    """
    kind = str(model.dtype).removeprefix("torch.")
    if not _is_on(model, folder):
        options: dict[str, Any] = {"dtype": kind, "device": str(model.device)}
        return load_arm_and_start(folder, trust_remote_code=trust_remote_code, **options)
    start = share_weights(model).eval() if has_start(folder) else None
    if not is_conditioned(folder):
        return with_adapter(model, folder), start
    trained = [p for p in model.parameters() if p.requires_grad]
    loaded = with_conditioned_adapter(share_weights(model), folder)
    for parameter in trained:  # freezing the ARM's backbone is not to freeze the caller's model
        parameter.requires_grad_(True)
    return loaded, None


def _begins_with(tokenizer: Tokenizer, pad_id: int | None) -> bool:
    """Whether prompts, plain or in the chat template, begin with the padding token."""
    styles: tuple[PromptFormat, ...] = ("raw", "auto")
    return any(prompt_ids(tokenizer, PROMPT, style)[:1] == [pad_id] for style in styles)


def _warn_of_another_template(
    folder: str, base: Any, arm_tokenizer: Any, style: PromptFormat
) -> None:
    if prompt_ids(base, PROMPT, "auto") != prompt_ids(arm_tokenizer, PROMPT, style):
        logger.warning(
            "%s was trained on prompts of another form; here it reads the base's (trimtab.load "
            "gives each model its own)",
            folder,
        )
