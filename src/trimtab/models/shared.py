"""A second module tree over one model's weights."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def share_weights(model: nn.Module) -> Any:
    """A second module tree over the *same* tensors: adapters on it leave the first alone."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
