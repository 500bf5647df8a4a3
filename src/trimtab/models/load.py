"""Whole models, configs and tokenizers from folders, GGUF files and hub ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from trimtab.errors import (
    ConfigError,
    ModelLoadError,
    TrimtabError,
    first_line,
    is_out_of_memory,
)
from trimtab.models.classifiers import HEADS, LM_HEADS, is_classifier, require_language_model
from trimtab.models.complete import require_whole_model
from trimtab.models.dequantize import facts_folder, gguf_folder
from trimtab.models.devices import torch_dtype
from trimtab.models.folder import check_folder, is_adapter
from trimtab.models.gguf import is_gguf
from trimtab.models.protocols import Config, Tokenizer
from trimtab.models.types import DType

_HALF = "bfloat16"
"""What `auto` means on an accelerator for a GGUF file, whose own types are blocks of few bits."""


def load_model(
    name: str,
    *,
    dtype: DType = "auto",
    device: str = "cpu",
    trust_remote_code: bool = False,
    revision: str | None = None,
    auto_class: Any = transformers.AutoModelForCausalLM,
    fresh: Sequence[str] = (),
    unused: Sequence[str] = (),
    **options: Any,
) -> Any:
    """A whole model, in evaluation mode: safetensors only, and no weight missing or left over.

    Args:
        name: a folder, a GGUF file, or a hub id.
        dtype: of the weights.
        device: where to put them.
        trust_remote_code: run model code that comes with this checkpoint.
        revision: of a hub id: a branch, tag or commit.
        auto_class: what to load it as.
        fresh: parameters that may be missing, and then start at random.
        unused: tensors that may be left.
        **options: of transformers' `from_pretrained`.

    Raises:
        ModelLoadError: it cannot be loaded, or is no such model.
        MissingFileError: it is not there.
    """
    check_folder(name)
    if is_adapter(name):
        raise ModelLoadError(
            f"{name} is an adapter, not a whole model",
            "give it with --arm, or make a whole model of it: trimtab export --merge",
        )
    if auto_class is transformers.AutoModelForCausalLM:
        require_language_model(name)
    options |= _at(name, revision)
    kind = torch_dtype(dtype, device)
    source = name
    if is_gguf(name):
        source = gguf_folder(name, str(kind).removeprefix("torch.") if kind != "auto" else _HALF)
    try:
        model, report = auto_class.from_pretrained(
            source,
            dtype=kind,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **options,
        )
    except (torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ModelLoadError(
            f"cannot load the model {name} ({first_line(error)})",
            "name a folder with config.json and safetensors weights, or a hub id that has them",
        ) from error
    require_whole_model(name, report, fresh=fresh, unused=unused)
    return model.to(device).eval()


def load_scalar(name: str, **options: Any) -> Any:
    """A classifier with one output; of a language model, its backbone under a head at random.

    Args:
        name: as of `load_model`.
        **options: of `load_model`.
    """
    if not is_classifier(name):
        options |= {"fresh": HEADS, "unused": LM_HEADS}
    auto = transformers.AutoModelForSequenceClassification
    return load_model(name, auto_class=auto, num_labels=1, **options)


def _at(name: str, revision: str | None) -> dict[str, str]:
    """Options that pin a hub id."""
    if revision is None:
        return {}
    if Path(name).exists():
        raise ConfigError(f"a revision for {name}, which is on this machine", "leave it out")
    return {"revision": revision}


def load_tokenizer(
    name: str, *, trust_remote_code: bool = False, revision: str | None = None
) -> Tokenizer:
    """The tokenizer of a folder, GGUF file or hub id."""
    what, hint = "load a tokenizer from", "name a folder or hub id with a tokenizer"
    auto = transformers.AutoTokenizer
    tokenizer: Tokenizer = _facts(auto, name, trust_remote_code, revision, what, hint)
    return tokenizer


def load_config(
    name: str, *, trust_remote_code: bool = False, revision: str | None = None
) -> Config:
    """The model config of a folder, GGUF file or hub id; that of a causal model."""
    what, hint = "read the model config of", "name a folder written by save_pretrained, or a hub id"
    auto = transformers.AutoConfig
    config: Config = _facts(auto, name, trust_remote_code, revision, what, hint)
    if config.is_encoder_decoder:
        raise ModelLoadError(
            f"{name} is an encoder-decoder model", "Trimtab steers causal (decoder-only) models"
        )
    return config


def _facts(
    auto: Any, name: str, trust_remote_code: bool, revision: str | None, what: str, hint: str
) -> Any:
    """What an Auto class makes of the files beside the weights."""
    try:
        return auto.from_pretrained(
            facts_folder(name), trust_remote_code=trust_remote_code, **_at(name, revision)
        )
    except TrimtabError:
        raise
    except Exception as error:
        raise ModelLoadError(f"cannot {what} {name} ({first_line(error)})", hint) from error
