"""Adapters as PEFT runs them: on a module tree of their own, over weights that stay as they are.

Some kinds of adapter change the base's weights when they are loaded (PiSSA, OLoRA, CorDA), some
files hold weights of the base. Neither may reach the base's own tensors.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from trimtab.arms.adapter import PREFIX, WEIGHTS
from trimtab.errors import ConfigError, ModelLoadError, first_line
from trimtab.models.complete import some
from trimtab.models.folder import adapter_config
from trimtab.models.weight_files import tensor_names


def with_adapter(carrier: Any, folder: str) -> Any:
    """A model with PEFT's adapter, over the carrier's weights; the carrier stays as it is.

    Raises:
        ModelLoadError: PEFT cannot load it, or not all of it, or makes something else of it each
            time.
        ConfigError: it would change weights that are quantised.
    """
    beside = _begins_beside_the_base(folder)
    if not beside and any(type(p.data) is not torch.Tensor for p in carrier.parameters()):
        raise ConfigError(
            f"the adapter {folder} may change its base's weights, which are quantised here",
            "load without --quantization, or merge it into its base first",
        )
    model = _load(carrier, folder)
    if not beside and changes_base(model, carrier):
        again = _load(carrier, folder, seed=1)
        pairs = zip(model.parameters(), again.parameters(), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise ModelLoadError(
                f"PEFT begins the adapter {folder} at random (init_lora_weights), so that it is "
                "another one at each load",
                "save it with path_initial_model_for_weight_conversion, as a plain LoRA",
            )
    return model


def _load(carrier: Any, folder: str, seed: int = 0) -> Any:
    tree, origins = _own_tree(carrier, folder)
    try:
        with _own_random_numbers(carrier.device), warnings.catch_warnings():
            torch.manual_seed(seed)
            warnings.simplefilter("ignore")  # of keys: what is wrong is an error below
            model = PeftModel.from_pretrained(tree, folder, torch_device=str(carrier.device))
    except (torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ModelLoadError(
            f"cannot load the adapter {folder} ({first_line(error)})", "train or copy it again"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a bias has one axis
        wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    _require_whole(model, folder, wanted)
    _reunite(model, origins)
    return model.to(carrier.device).eval()


def _own_random_numbers(device: torch.device) -> AbstractContextManager[None]:
    """What PEFT draws before it reads the file must not move the caller's generator."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def changes_base(model: Any, carrier: Any) -> bool:
    """Whether PEFT replaced weights of the base when it loaded an adapter."""
    ids = {id(tensor) for tensor in model.parameters()}
    return any(id(tensor) not in ids for tensor in carrier.parameters())


Origins = dict[int, tuple[nn.Parameter, nn.Parameter]]
"""id of a new parameter -> itself, and the carrier's that it stands for."""


def _own_tree(model: Any, folder: str) -> tuple[Any, Origins]:
    """A copy of the module tree with parameters of its own.

    A new parameter over the carrier's memory can be given other data without the carrier's
    noticing. What may be written in place gets memory of its own: what the adapter's file holds of
    the base's weights, and every weight where the adapter may begin by changing the base.
    """
    path = Path(folder) / WEIGHTS
    in_file = {key.removeprefix(PREFIX) for key in tensor_names(path)} if path.is_file() else set()
    named = model.named_parameters(remove_duplicate=False)  # tied ones by each of their names
    written = {id(parameter) for name, parameter in named if name in in_file}
    apart = not _begins_beside_the_base(folder)
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    origins: Origins = {}
    for parameter in model.parameters():
        if type(parameter.data) is not torch.Tensor:  # quantised: no adapter writes to it
            memo[id(parameter)] = parameter
            continue
        copied = id(parameter) in written or apart
        new = nn.Parameter(
            parameter.data.clone() if copied else parameter.data, requires_grad=False
        )
        memo[id(parameter)] = new
        origins[id(new)] = (new, parameter)
    return copy.deepcopy(model, memo), origins


def _begins_beside_the_base(folder: str) -> bool:
    """Whether an adapter is known to leave the base's weights alone when it is made.

    Of any other a copy is made while it is loaded: this saves memory and decides nothing, for the
    base is compared with itself once all ARMs are there.
    """
    config = adapter_config(folder)
    begins = config.get("init_lora_weights", True)
    return config.get("peft_type") == "LORA" and begins in (True, False, "gaussian", "orthogonal")


def _reunite(tree: nn.Module, origins: Origins) -> None:
    """Let the tree have the carrier's own parameters wherever they are still the same.

    It costs no memory, and the engine may move those to another place, which both trees must see.
    """
    for module in tree.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or id(parameter) not in origins:
                continue
            _, theirs = origins[id(parameter)]
            same = parameter.data_ptr() == theirs.data_ptr() and parameter.shape == theirs.shape
            if same or torch.equal(parameter, theirs):
                module._parameters[name] = theirs


@torch.no_grad()
def _require_whole(model: Any, folder: str, wanted: Mapping[str, torch.Tensor]) -> None:
    """Every tensor of the file is in the model, and every tensor of the adapter is in the file.

    PEFT warns of missing keys only, and of left-over ones not at all.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ModelLoadError(f"{folder} has no {WEIGHTS}", "save the adapter again (safetensors)")
    saved = load_file(path)
    missing = sorted(key for key in wanted if key not in saved)
    inside = dict(model.named_parameters(remove_duplicate=False))
    left_over = sorted(
        key
        for key, tensor in saved.items()
        if (expected := wanted.get(key, inside.get(key))) is None
        or expected.shape != tensor.shape
        or not torch.equal(expected.cpu().nan_to_num(), tensor.to(expected.dtype).nan_to_num())
    )
    if missing or left_over:
        parts = [f"lacks {some(missing)}"] if missing else []
        parts += [f"holds {some(left_over)}, which fit nothing"] if left_over else []
        raise ModelLoadError(
            f"the weights of the adapter {folder} do not fit its config and base: it "
            + " and ".join(parts),
            "name the base it was trained on; names changed by another program are not guessed",
        )
