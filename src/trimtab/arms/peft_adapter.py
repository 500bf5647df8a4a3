"""Adapters as PEFT runs them: on a module tree of their own, over weights that stay as they are.

Some kinds of adapter change the base's weights when they are loaded (PiSSA, OLoRA, CorDA), some
files hold weights of the base. Neither may reach the base's own tensors.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from trimtab.errors import ModelLoadError
from trimtab.models.complete import some

WEIGHTS, PREFIX = "adapter_model.safetensors", "base_model.model."


def with_adapter(carrier: Any, folder: str) -> Any:
    """A model with PEFT's adapter, over the carrier's weights; the carrier stays as it is.

    Raises:
        ModelLoadError: PEFT cannot load it, or not all of it.
    """
    tree = _own_tree(carrier, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of missing keys: an error below
            model = PeftModel.from_pretrained(tree, folder, torch_device=str(carrier.device))
    except (torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        lines = (str(error).strip() or type(error).__name__).splitlines()
        reason = lines[min(1, len(lines) - 1)].strip()[:200]  # torch's first line says only where
        raise ModelLoadError(
            f"cannot load the adapter {folder} ({reason})", "train or copy it again"
        ) from error
    _require_whole(model, folder)
    _reunite(model.get_base_model(), carrier)
    return model.to(carrier.device).eval()


def changes_base(model: Any, carrier: Any) -> bool:
    """Whether PEFT replaced weights of the base when it loaded an adapter."""
    own = {id(tensor) for tensor in model.parameters()}
    return any(id(tensor) not in own for tensor in carrier.parameters())


def _own_tree(model: Any, folder: str) -> Any:
    """A copy of the module tree: new parameters over the same memory, copies of what a file sets.

    A new parameter can be given other data without the old one noticing. What the adapter's file
    holds of the base's weights, PEFT writes in place.
    """
    path = Path(folder) / WEIGHTS
    in_file = {key.removeprefix(PREFIX) for key in load_file(path)} if path.is_file() else set()
    named = model.named_parameters(remove_duplicate=False)  # tied ones by each of their names
    written = {id(parameter) for name, parameter in named if name in in_file}
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        data = parameter.data.clone() if id(parameter) in written else parameter.data
        plain = type(parameter.data) is torch.Tensor  # else quantised: no adapter writes to it
        memo[id(parameter)] = nn.Parameter(data, requires_grad=False) if plain else parameter
    return copy.deepcopy(model, memo)


def _reunite(tree: nn.Module, carrier: nn.Module) -> None:
    """Let the tree have the carrier's own parameters wherever it still has their memory.

    The engine may move those to another place; both trees must see it.
    """
    theirs = {p.data_ptr(): p for p in carrier.parameters() if type(p.data) is torch.Tensor}
    for module in tree.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or type(parameter.data) is not torch.Tensor:
                continue
            own = theirs.get(parameter.data_ptr())
            if own is not None and own.shape == parameter.shape and own.dtype == parameter.dtype:
                module._parameters[name] = own


@torch.no_grad()
def _require_whole(model: Any, folder: str) -> None:
    """Every tensor of the file is in the model, and every tensor of the adapter is in the file.

    PEFT warns of missing keys only, and of left-over ones not at all.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ModelLoadError(f"{folder} has no {WEIGHTS}", "save the adapter again (safetensors)")
    saved = load_file(path)
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing = sorted(key for key in wanted if key not in saved)
    inside = dict(model.named_parameters(remove_duplicate=False))
    left_over = sorted(
        key
        for key, tensor in saved.items()
        if (own := wanted.get(key, inside.get(key))) is None
        or own.shape != tensor.shape
        or not torch.equal(own.cpu().nan_to_num(), tensor.to(own.dtype).nan_to_num())
    )
    if missing or left_over:
        parts = [f"lacks {some(missing)}"] if missing else []
        parts += [f"holds {some(left_over)}, which fit nothing"] if left_over else []
        raise ModelLoadError(
            f"the weights of the adapter {folder} do not fit its config and base: it "
            + " and ".join(parts),
            "name the base it was trained on; names changed by another program are not guessed",
        )
