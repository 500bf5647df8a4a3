"""The first layers of a decoder as a model of its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError, ModelLoadError


def first_layers(model: Any, count: int, name: str) -> Any:
    """A decoder with the first `count` layers of another; embeddings, last norm and head are kept.

    It is what transformers builds from the shortened config, so that saved and loaded again it is
    the same, and its layers are compared with the model's own on a few tokens.

    Args:
        model: a transformers causal LM whose layers are one `ModuleList`, as many as its config's
            `num_hidden_layers`.
        count: layers to keep, fewer than there are.
        name: of the model, for an error.

    Returns:
        A model with weights of its own, float32, on the CPU, in evaluation mode.

    Raises:
        ConfigError: not fewer layers than there are.
        ModelLoadError: an architecture that cannot be cut so.
    """
    require_fewer(model.config, count, name)
    place = _layers_place(model, name)
    config = _shortened(copy.deepcopy(model.config), count)
    weak = type(model)._from_config(config, dtype=torch.float32)
    own, kept = model.state_dict(), weak.state_dict()
    left = [key for key in own if key not in kept and not _is_beyond(key, place, count)]
    if left or kept.keys() - own.keys():
        raise _uncut(name, "weights that a shortened config does not place as its own")
    try:
        weak.load_state_dict({key: own[key] for key in kept})
    except RuntimeError as error:
        raise _uncut(name, "weights whose shape depends on how many layers there are") from error
    weak.generation_config = copy.deepcopy(model.generation_config)
    weak.eval()
    _require_same(model, weak, place, count, name)
    return weak


def require_fewer(config: Any, count: int, name: str) -> None:
    """Refuse a number of layers that is no part of a model's.

    Raises:
        ConfigError: it is none, or all.
        ModelLoadError: a config that does not say how many there are, or layers that share keys.
    """
    text = config.get_text_config()
    depth = getattr(text, "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise _uncut(name, "a config that does not say how many layers there are")
    if getattr(text, "num_kv_shared_layers", 0):
        raise _uncut(name, "layers that read the keys of others")
    if not 1 <= count < depth:
        raise ConfigError(
            f"the first {count} layers of {name}, which has {depth}", f"take 1 to {depth - 1}"
        )


def _layers_place(model: Any, name: str) -> str:
    """Where the one list of layers is."""
    depth = model.config.get_text_config().num_hidden_layers
    lists: list[str] = [
        place
        for place, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    outer = [one for one in lists if not any(one.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise _uncut(name, f"{len(outer)} lists of {depth} modules where its layers should be one")
    return outer[0]


def _shortened(config: Any, count: int) -> Any:
    """A config of so many layers, with what it says layer by layer cut, too."""
    text = config.get_text_config()
    depth = text.num_hidden_layers
    for key, value in list(vars(text).items()):
        if "layer" in key and isinstance(value, list | tuple) and len(value) == depth:
            setattr(text, key, value[:count])
    text.num_hidden_layers = count
    return config


def _is_beyond(key: str, place: str, count: int) -> bool:
    """Whether a weight is one of a layer that is left out."""
    head, _, rest = key.partition(f"{place}.")
    return not head and rest.partition(".")[0].isdigit() and int(rest.partition(".")[0]) >= count


@torch.no_grad()
def _require_same(model: Any, weak: Any, place: str, count: int, name: str) -> None:
    """Refuse a cut whose last layer does not say what the same layer of the whole model says."""
    ids = torch.arange(12)[None] % model.config.get_text_config().vocab_size
    whole, cut = (_after(one, place, count - 1, ids) for one in (model, weak))
    scale = float(whole.square().mean().sqrt())
    close = 1e-3 if model.dtype == torch.float32 else 0.1
    if not float((whole - cut).square().mean().sqrt()) <= close * scale:
        raise _uncut(name, "layers that do other things where fewer follow")


def _after(model: Any, place: str, layer: int, ids: Tensor) -> Tensor:
    """What leaves a layer."""
    seen: list[Tensor] = []

    def note(module: nn.Module, given: Any, found: Any) -> None:
        seen.append(found[0] if isinstance(found, tuple) else found)

    handle = model.get_submodule(place)[layer].register_forward_hook(note)
    try:
        model(input_ids=ids.to(model.device), use_cache=False)
    finally:
        handle.remove()
    return seen[0].float().cpu()


def _uncut(name: str, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"cannot cut {name} after some layers: it has {why}",
        "take a decoder whose layers are one list, such as Llama, Qwen or GPT-2",
    )
