"""An engine from folders and hub ids. What cannot be fused is refused before weights are loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import transformers

from trimtab.arms.folder import check_folder, is_adapter
from trimtab.arms.load import (
    DType,
    default_device,
    load_arm,
    load_config,
    load_model,
    load_tokenizer,
    require_device,
    same_backbone,
)
from trimtab.arms.vocab import VocabularyMap, match_vocabularies
from trimtab.data.tokenize import PromptFormat
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.streams import Voice

logger = logging.getLogger(__name__)


def load_engine(
    base: str,
    arms: Mapping[str, str] | None = None,
    *,
    dtype: DType = "auto",
    device: str | None = None,
    prompt_format: PromptFormat = "auto",
    trust_remote_code: bool = False,
) -> LocalEngine:
    """Load a frozen base and the ARMs that steer it.

    Args:
        base: folder or hub id of a causal LM.
        arms: objective -> folder or hub id of its ARM (a whole model or a LoRA). A LoRA trained on
            the base shares its weights in memory.
        dtype: of the weights; `auto` is float32 on a CPU, the checkpoint's own type on a GPU.
        device: `cpu`, `cuda`, …; the GPU by default where there is one.
        prompt_format: how plain-text prompts are read.
        trust_remote_code: run model code that comes with a checkpoint.

    Raises:
        VocabularyError: an ARM whose tokens are not the base's, named.
        ModelLoadError, MissingFileError: a folder that cannot be loaded.
    """
    base, arms = str(base), {name: str(folder) for name, folder in (arms or {}).items()}
    device = require_device(device) if device else default_device()
    check_folder(base, what="base model")
    for folder in arms.values():
        check_folder(folder, what="ARM")
    tokenizers = {
        name: load_tokenizer(name, trust_remote_code=trust_remote_code)
        for name in [base, *arms.values()]
    }
    ends = _end_ids(base, trust_remote_code)
    heads = {
        name: _head_size(
            base if is_adapter(name) and same_backbone(name, base) else name, trust_remote_code
        )
        for name in tokenizers
    }
    maps = {
        objective: match_vocabularies(
            tokenizers[base],
            tokenizers[folder],
            base_head=heads[base],
            arm_head=heads[folder],
            base_ends=ends,
            arm_name=f"the ARM {objective} ({folder})",
        )
        for objective, folder in arms.items()
    }
    options: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    backbone = load_model(base, **options)
    size = min(heads[base], max(tokenizers[base].get_vocab().values()) + 1)
    base_voice = Voice("base", backbone, tokenizers[base], VocabularyMap(size, size), prompt_format)
    voices = []
    for objective, folder in arms.items():
        model, sidecar = load_arm(folder, backbone=backbone, backbone_name=base, **options)
        style = sidecar.prompt_format if prompt_format == "auto" else prompt_format
        voice = Voice(objective, model, tokenizers[folder], maps[objective], style, sidecar.scale)
        voices.append(voice)
        if sidecar.objective not in ("", objective):
            logger.warning(
                "the ARM %s was trained for %r and is used as %r",
                folder,
                sidecar.objective,
                objective,
            )
    return LocalEngine(base_voice, voices)


def _head_size(name: str, trust_remote_code: bool) -> int:
    config = load_config(name, trust_remote_code=trust_remote_code)
    return int(config.get_text_config().vocab_size)


def _end_ids(name: str, trust_remote_code: bool) -> list[int]:
    """The base's end-of-turn ids, from its generation config (a folder without one has none)."""
    try:
        config = transformers.GenerationConfig.from_pretrained(
            name, trust_remote_code=trust_remote_code
        )
    except OSError:
        return []
    ends = config.eos_token_id
    return list(ends) if isinstance(ends, list) else [] if ends is None else [ends]
