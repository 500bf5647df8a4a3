"""Whether an architecture does with our caches what it does without: asked once, when it is loaded.

transformers has hundreds of architectures. One that keeps state where we do not see it, or changes
its logits after the LM head, would give wrong tokens in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local.open_slots import open_slots
from trimtab.engines.local.slots import to_base
from trimtab.engines.local.streams import Group
from trimtab.errors import ConfigError, is_out_of_memory

_TOKENS, _FIRST = 6, 4
_FAR = 0.1
"""Nats of divergence; half precision and other kernels give a hundredth of it."""


@torch.no_grad()
def expected_logits(model: Any) -> Tensor:
    """The model's own logits after a few tokens, without any cache, [V]."""
    ids = torch.arange(1, 1 + _TOKENS, device=model.device)[None]
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, -1]
    return logits


@torch.no_grad()
def check_groups(groups: Sequence[Group], expected: Mapping[str, Tensor]) -> None:
    """Compare with what the groups give when they read the same tokens in two pieces.

    Args:
        groups: of an engine.
        expected: `expected_logits` of streams without an adapter, by name.

    Raises:
        ConfigError: an architecture that cannot be decoded here.
    """
    for group in groups:
        names = [name for name in group.index if name in expected]
        if not names:
            continue
        name = type(group.lm).__name__
        try:
            found = _found(group)
        except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            raise _unsupported(name, type(error).__name__) from error
        for stream in names:
            vocabulary = group.streams[group.index[stream]].vocabulary
            logp_V = fusion.log_softmax(expected[stream], vocabulary.own_size)
            theirs_V = to_base(logp_V, vocabulary)
            gap = float(fusion.divergence(theirs_V, found[stream].to(theirs_V.device)))
            if not gap < _FAR:
                raise _unsupported(name, f"off by {gap:.2g} nats")


def _found(group: Group) -> dict[str, Tensor]:
    ids = list(range(1, 1 + _TOKENS))
    state = open_slots(group, 1, 2 * _TOKENS)
    streams = len(group.streams)
    state.read(0, [[ids[:_FIRST]] * streams], [0])
    last: dict[str, Tensor] = state.read(0, [[ids[_FIRST:]] * streams], [1])
    return {name: logp[0, 0] for name, logp in last.items()}


def _unsupported(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"{name} cannot be decoded token by token here ({what})",
        "please report this architecture",
    )
