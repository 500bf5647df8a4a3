"""Models and tokenizers from folders or the hub; adapters on a backbone already in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn

from trimtab.arms.classifiers import HEADS, LM_HEADS, is_classifier
from trimtab.arms.classifiers import require_language_model as require_language_model
from trimtab.arms.conditioned_files import with_conditioned_adapter
from trimtab.arms.folder import (
    adapter_revision,
    check_folder,
    is_adapter,
    is_conditioned,
)
from trimtab.arms.peft_adapter import with_adapter
from trimtab.arms.sidecar import arm_facts as arm_facts
from trimtab.arms.sidecar import require_base as require_base
from trimtab.arms.sidecar import same_backbone as same_backbone
from trimtab.errors import (
    ConfigError,
    ModelLoadError,
    TrimtabError,
    first_line,
    is_out_of_memory,
)
from trimtab.models.complete import require_whole_model
from trimtab.models.dequantize import facts_folder, gguf_folder
from trimtab.models.gguf import is_gguf

DType = Literal["auto", "float32", "bfloat16", "float16"]
_HALF = "bfloat16"
"""What `auto` means on an accelerator for a GGUF file, whose own types are blocks of few bits."""


def torch_dtype(dtype: DType, device: str) -> torch.dtype | str:
    """`auto` is the checkpoint's own type on an accelerator and float32 on a CPU."""
    if dtype == "auto":
        return torch.float32 if device == "cpu" else "auto"
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def require_device(name: str) -> str:
    """A device that is there, by its torch name.

    Raises:
        ConfigError: a name that means nothing here.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"cannot use device {name!r} ({first_line(error)})",
            "use cpu, or cuda where there is one",
        ) from None
    return name


def has_tokenizer(name: str) -> bool:
    """Whether a model or an ARM brings its own; an adapter's folder need not."""
    return not is_adapter(name) or (Path(name) / "tokenizer_config.json").is_file()


def load_tokenizer(
    name: str, *, trust_remote_code: bool = False, revision: str | None = None
) -> Any:
    """The tokenizer of a model or an ARM; an adapter folder without one uses its base's."""
    source = name
    if not has_tokenizer(name):
        source, revision = backbone_of(name)
    try:
        return transformers.AutoTokenizer.from_pretrained(
            facts_folder(source),
            trust_remote_code=trust_remote_code,
            **_at(source, revision),
        )
    except TrimtabError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f"cannot load a tokenizer from {source} ({first_line(error)})",
            "name a folder or hub id with a tokenizer",
        ) from error


def load_config(name: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """The model config of a folder, GGUF file or hub id; of an adapter, its backbone's."""
    source = name
    if is_adapter(name):
        source, revision = backbone_of(name)
    try:
        config = transformers.AutoConfig.from_pretrained(
            facts_folder(source),
            trust_remote_code=trust_remote_code,
            **_at(source, revision),
        )
    except TrimtabError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f"cannot read the model config of {source} ({first_line(error)})",
            "name a folder written by save_pretrained, or a hub id",
        ) from error
    if config.is_encoder_decoder:
        raise ModelLoadError(
            f"{source} is an encoder-decoder model", "Trimtab steers causal (decoder-only) models"
        )
    return config


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


def load_backbone(adapter: str, **options: Any) -> Any:
    """The model that an adapter was trained on, at the revision that its config names."""
    base, revision = backbone_of(adapter)
    return load_model(base, revision=revision, **options)


def backbone_of(adapter: str) -> tuple[str, str | None]:
    """The model that an adapter was trained on, and the revision of its hub id."""
    base = require_base(adapter)
    return base, None if Path(base).exists() else adapter_revision(adapter)


def load_arm(
    name: str,
    *,
    dtype: DType = "auto",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """An ARM as one model of its own: a whole causal LM, or an adapter on its backbone."""
    arm_facts(name)
    require_language_model(name)
    options: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    if not is_adapter(name):
        return load_model(name, **options)
    carrier = load_backbone(name, **options)
    return (
        with_conditioned_adapter(carrier, name)
        if is_conditioned(name)
        else with_adapter(carrier, name)
    )


def share_weights(model: nn.Module) -> Any:
    """A second module tree over the *same* tensors: adapters on it leave the first alone."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
