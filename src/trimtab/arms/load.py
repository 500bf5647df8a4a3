"""Models and tokenizers from folders or the hub; adapters on a backbone already in memory."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from peft import PeftModel
from torch import nn

from trimtab.arms.conditioned_files import with_conditioned_adapter
from trimtab.arms.folder import check_folder, is_adapter, is_conditioned
from trimtab.arms.sidecar import arm_facts as arm_facts
from trimtab.arms.sidecar import require_base as require_base
from trimtab.arms.sidecar import same_backbone as same_backbone
from trimtab.errors import ConfigError, ModelLoadError

logger = logging.getLogger(__name__)

DType = Literal["auto", "float32", "bfloat16", "float16"]


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
            f"cannot use device {name!r} ({_first_line(error)})",
            "use cpu, or cuda where there is one",
        ) from None
    return name


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model or an ARM; an adapter folder without one uses its base's."""
    source = name
    if is_adapter(name) and not (Path(name) / "tokenizer_config.json").is_file():
        source = require_base(name)
    try:
        return transformers.AutoTokenizer.from_pretrained(
            source, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        raise ModelLoadError(
            f"cannot load a tokenizer from {source} ({_first_line(error)})",
            "name a folder or hub id with a tokenizer",
        ) from error


def load_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """The model config of a folder or hub id; of an adapter, its backbone's."""
    source = name
    if is_adapter(name):
        source = require_base(name)
    try:
        config = transformers.AutoConfig.from_pretrained(
            source, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        raise ModelLoadError(
            f"cannot read the model config of {source} ({_first_line(error)})",
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
    auto_class: Any = transformers.AutoModelForCausalLM,
    **options: Any,
) -> Any:
    """A whole model from a folder or the hub, in evaluation mode. safetensors only."""
    check_folder(name)
    try:
        model = auto_class.from_pretrained(
            name,
            dtype=torch_dtype(dtype, device),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            **options,
        )
    except (torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ModelLoadError(
            f"cannot load the model {name} ({_first_line(error)})",
            "name a folder with config.json and safetensors weights, or a hub id that has them",
        ) from error
    return model.to(device).eval()


def load_arm(
    name: str,
    *,
    dtype: DType = "auto",
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """An ARM as one model of its own: a whole causal LM, or an adapter on its backbone."""
    arm_facts(name)
    options: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    if not is_adapter(name):
        return load_model(name, **options)
    carrier = load_model(require_base(name), **options)
    return (
        with_conditioned_adapter(carrier, name)
        if is_conditioned(name)
        else with_adapter(carrier, name)
    )


def with_adapter(carrier: Any, name: str) -> Any:
    """A model with PEFT's adapter put into it (the carrier is changed)."""
    device = carrier.device
    try:
        model = PeftModel.from_pretrained(carrier, name)
    except Exception as error:
        raise ModelLoadError(
            f"cannot load the adapter {name} ({_first_line(error)})", "train or copy it again"
        ) from error
    return model.to(device).eval()


def share_weights(model: nn.Module) -> Any:
    """A second module tree over the *same* tensors: adapters on it leave the first alone."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
