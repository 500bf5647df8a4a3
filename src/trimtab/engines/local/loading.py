"""An engine from folders and hub ids. What cannot be fused is refused before weights are loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from trimtab.arms.folder import canonical, check_folder, fetch, is_adapter
from trimtab.arms.load import (
    DType,
    arm_facts,
    default_device,
    load_config,
    load_model,
    load_tokenizer,
    require_device,
    same_backbone,
)
from trimtab.arms.quantization import Quantization, quantized_loading
from trimtab.arms.sidecar import Sidecar
from trimtab.arms.vocab import VocabularyMap, match_vocabularies
from trimtab.data.tokenize import PromptFormat
from trimtab.engines.local.check import check_groups, expected_logits
from trimtab.engines.local.drafting import NGRAM
from trimtab.engines.local.engine import LocalEngine
from trimtab.engines.local.guides import load_guides
from trimtab.engines.local.streams import BASE, DRAFT, Stream
from trimtab.errors import ConfigError
from trimtab.steering import Combine

logger = logging.getLogger(__name__)


def load_engine(
    base: str,
    arms: Mapping[str, str] | None = None,
    *,
    dtype: DType = "auto",
    device: str | None = None,
    prompt_format: PromptFormat = "auto",
    trust_remote_code: bool = False,
    draft: str | None = None,
    max_length: int | None = None,
    quantization: Quantization | None = None,
    combine: Combine = "fusion",
    describe: Mapping[str, str] | None = None,
) -> LocalEngine:
    """Load a frozen base and the ARMs that steer it.

    Args:
        base: folder or hub id of a causal LM.
        arms: objective -> folder or hub id of its ARM (a whole model or a LoRA). A LoRA trained on
            the base shares its weights in memory. A conditioned ARM (PARM, UniARM) brings its own
            objectives; its key is only its name in reports.
        dtype: of the weights; `auto` is float32 on a CPU, the checkpoint's own type on a GPU.
        device: `cpu`, `cuda`, …; the GPU by default where there is one.
        prompt_format: how plain-text prompts are read.
        trust_remote_code: run model code that comes with a checkpoint.
        draft: what proposes tokens when speculating: folder or hub id of a small model with the
            base's vocabulary, or `ngram` for the text so far. By default a small ARM, or else the
            text so far.
        max_length: tokens a request may have, prompt and response; the models' limit by default.
        quantization: load the base, and so the LoRA ARMs on it, with weights of so many bits
            (needs optimum-quanto). A base that was saved quantised needs no option.
        combine: `fusion` runs every ARM; `soup` averages LoRA ARMs into one, request by request
            (rewarded soups).
        describe: further objectives of a UniARM that it was not trained for, name -> description.
            Experimental.

    Raises:
        VocabularyError: an ARM whose tokens are not the base's, named.
        ModelLoadError, MissingFileError: a folder that cannot be loaded.
    """
    for taken in {BASE, DRAFT} & {*(arms or {})}:
        raise ConfigError(f"an ARM is called {taken!r}", "that name is taken: give it another")
    base, arms = str(base), {name: fetch(str(folder)) for name, folder in (arms or {}).items()}
    draft = _checked_draft(draft)
    device = require_device(device) if device else default_device()
    options: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    check_folder(base, what="base model")
    facts = {objective: arm_facts(folder) for objective, folder in arms.items()}
    readers = {**arms, DRAFT: draft} if draft and draft != NGRAM else arms
    tokenizers, vocabularies = _vocabularies(base, readers, trust_remote_code)
    if combine == "soup" and len({tokenizers[name].chat_template for name in arms}) > 1:
        raise ConfigError("the ARMs of a soup have different chat templates", "train them alike")
    quantized = quantized_loading(quantization, dtype) if quantization else {}
    backbones = {base: load_model(base, **{**options, **quantized})}
    guides = load_guides(arms, facts, backbones, options, combine=combine, describe=describe)

    def stream(name: str, model: Any, adapter: Any = None, source: str | None = None) -> Stream:
        source = source or name
        facts_of = facts.get(source)
        own_format = facts_of.prompt_format if facts_of and prompt_format == "auto" else None
        return Stream(
            name,
            model,
            tokenizers[source],
            vocabularies[source],
            own_format or prompt_format,
            facts_of.scale if facts_of else 1.0,
            adapter,
        )

    _warn_of_other_objectives(arms, facts)
    guided = [stream(g.name, g.model, g.adapter, g.source) for g in guides]
    drafter: Any = draft
    if draft and draft != NGRAM:
        same = next((name for name in backbones if canonical(name) == canonical(draft)), None)
        drafter = stream(DRAFT, backbones[same] if same else load_model(draft, **options))
    return _checked_engine(stream(BASE, backbones[base]), guided, drafter, max_length)


def _checked_engine(
    base: Stream, arms: Sequence[Stream], draft: Any, max_length: int | None
) -> LocalEngine:
    """The engine, once every architecture has been seen to decode as it should."""
    drafters = [draft] if isinstance(draft, Stream) else []
    models = {id(stream.model): stream.model for stream in (base, *arms, *drafters)}
    expected = {key: expected_logits(model) for key, model in models.items()}
    engine = LocalEngine(
        base, arms, draft=draft, max_length=max_length, pack=_may_pack([*models.values()])
    )
    plain = [s for s in engine.streams if s.adapter is None and id(s.model) in expected]
    check_groups(engine.groups, {s.name: expected[id(s.model)] for s in plain})
    return engine


def _checked_draft(draft: str | None) -> str | None:
    if draft is None or draft == NGRAM:
        return draft
    check_folder(draft, what="draft model")
    if is_adapter(draft):
        raise ConfigError(
            f"the draft model {draft} is an adapter", "name a whole model; an ARM drafts by itself"
        )
    return draft


def _may_pack(models: Sequence[Any]) -> bool:
    """Whether the weights may be rearranged: not while PEFT works on the same ones."""
    return not any(
        hasattr(model, "get_base_model") or model.dtype != torch.bfloat16 for model in models
    )


def _warn_of_other_objectives(arms: Mapping[str, str], facts: Mapping[str, Sidecar]) -> None:
    for objective, folder in arms.items():
        trained_for = facts[objective].objective
        if trained_for not in ("", objective) and not facts[objective].preference:
            logger.warning(
                "the ARM %s was trained for %r and is used as %r", folder, trained_for, objective
            )


def check_vocabularies(base: str, arms: Mapping[str, str], trust_remote_code: bool = False) -> None:
    """Whether ARMs' tokens are the base's, from configs and tokenizers alone.

    Raises:
        VocabularyError: an ARM whose tokens are not, named.
    """
    _vocabularies(base, arms, trust_remote_code)


def _vocabularies(
    base: str, arms: Mapping[str, str], trust_remote_code: bool
) -> tuple[dict[str, Any], dict[str, VocabularyMap]]:
    """Tokenizer and vocabulary map of every stream, from configs and tokenizers alone."""
    folders = {BASE: base, **arms}
    of_folder = {
        folder: load_tokenizer(folder, trust_remote_code=trust_remote_code)
        for folder in {*folders.values()}
    }
    tokenizers = {name: of_folder[folder] for name, folder in folders.items()}
    heads = {
        name: _head_size(
            base if is_adapter(folder) and same_backbone(folder, base) else folder,
            trust_remote_code,
        )
        for name, folder in folders.items()
    }
    ends = _end_ids(base, trust_remote_code)
    maps = {
        name: match_vocabularies(
            tokenizers[BASE],
            tokenizers[name],
            base_head=heads[BASE],
            arm_head=heads[name],
            base_ends=ends,
            arm_name=f"the draft model ({folder})"
            if name == DRAFT
            else f"the ARM {name} ({folder})",
        )
        for name, folder in arms.items()
    }
    size = min(heads[BASE], max(tokenizers[BASE].get_vocab().values()) + 1)
    return tokenizers, {BASE: VocabularyMap(size, size), **maps}


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
