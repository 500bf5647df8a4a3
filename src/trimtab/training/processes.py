"""The processes that train together, as `torchrun` or `accelerate launch` starts them."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import reduce


def processes() -> PartialState:
    """Who this process is among them. The group is formed on the first call.

    It has to be told of a machine without an accelerator: else every process takes itself for the
    only one.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


def any_process(flag: bool) -> bool:
    """Whether any process says so. Every process has to ask."""
    state = processes()
    if state.num_processes == 1:
        return flag
    any_flag: float = reduce(torch.tensor([float(flag)], device=state.device), "sum").item()
    return any_flag > 0
