"""Rotary positions that depend on a row's length (LongRoPE): each row by its own.

M tokens of any number of rows, packed. transformers decides for a whole forward: once its last
position lies beyond the length that the model was first trained for, every row's every position is
turned by the long factors. Reading one row from the start, without a cache, that is right; so a row
that grows beyond is read anew.

Dynamic NTK changes only beyond `max_position_embeddings`, where no request may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError
from trimtab.models.protocols import CausalLM

_KIND = "longrope"


class RowLengths:
    """Which tokens of the current forward belong to long rows.

    Args:
        original: tokens up to which a row is short.
    """

    def __init__(self, original: int) -> None:
        self.original = original
        self._long: Sequence[bool] = ()

    def open(self, long: Sequence[bool]) -> None:
        """Set the M tokens of the next forward."""
        self._long = long

    def turn(self, rope: Any, x: Tensor, positions_1M: Tensor, *args: Any, **options: Any) -> Any:
        """What a rotary module gives for positions, each by the length of its row."""
        if not any(self._long):  # then no position lies beyond
            return rope(x, positions_1M, *args, **options)
        # one more position, beyond, tells the module that the rows are long
        beyond_11 = positions_1M.new_full((1, 1), self.original)
        far_1M = torch.cat([positions_1M, beyond_11], 1)
        long = [part[:, :-1] for part in rope(x, far_1M, *args, **options)]
        if all(self._long):
            return tuple(long)
        long_1M1 = torch.tensor(self._long, device=positions_1M.device)[None, :, None]
        near_1M = positions_1M.where(~long_1M1[..., 0], 0)
        short = rope(x, near_1M, *args, **options)
        return tuple(torch.where(long_1M1, a, b) for a, b in zip(long, short, strict=True))


class RowRope(nn.Module):
    """A rotary module in its place in the model, asked for each row by its length."""

    def __init__(self, inner: nn.Module, lengths: RowLengths) -> None:
        super().__init__()
        self.inner, self._lengths = inner, lengths

    def forward(self, x: Tensor, position_ids: Tensor, *args: Any, **options: Any) -> Any:
        """As the module's: (cos, sin), each [1, M, D]."""
        return self._lengths.turn(self.inner, x, position_ids, *args, **options)


def by_row(lm: nn.Module) -> RowLengths | None:
    """Let a model's rotary modules, in place, go by each row's length; None if none needs to.

    Raises:
        ConfigError: they differ in the length at which they change.
    """
    ropes = {name: m for name, m in lm.named_modules() if originals(m)}
    if not ropes:
        return None
    lengths = {length for module in ropes.values() for length in originals(module)}
    if len(lengths) > 1:
        raise ConfigError(
            f"{type(lm).__name__} has LongRoPE layers of several lengths", "it cannot be run here"
        )
    rows = RowLengths(*lengths)
    for name, module in ropes.items():
        lm.set_submodule(name, RowRope(module, rows))
    return rows


def originals(module: Any) -> set[int]:
    """Lengths up to which a rotary module's LongRoPE is short."""
    kinds = getattr(module, "rope_type", None)
    if not isinstance(kinds, str | dict) or _KIND not in (
        kinds.values() if isinstance(kinds, dict) else [kinds]
    ):
        return set()
    given = module.config.rope_parameters
    layers = [given] if isinstance(kinds, str) else [given[k] for k in kinds if kinds[k] == _KIND]
    return {int(layer["original_max_position_embeddings"]) for layer in layers}


def rows_alike(model: CausalLM, mask_NT: Tensor, *, may_split: bool = True) -> list[Tensor]:
    """Rows of a batch that one forward of transformers' turns as each would be alone.

    Args:
        model: as transformers made it.
        mask_NT: 1 for tokens.
        may_split: whether the batch can be read in two forwards.

    Returns:
        Row numbers, in one group or two.

    Raises:
        ConfigError: two groups, where the batch must be read at once.
    """
    original = min((n for m in model.modules() for n in originals(m)), default=None)
    every = torch.arange(len(mask_NT), device=mask_NT.device)
    long_N = mask_NT.sum(-1) > (original or mask_NT.shape[-1])
    if original is None or bool(long_N.all()) or not bool(long_N.any()):
        return [every]
    if not may_split:
        raise ConfigError(
            f"rows of more and of fewer than {original} tokens, at which this model's LongRoPE "
            "changes, cannot be trained together over several processes or under gradient "
            "checkpointing",
            f"pass --max-length {original}",
        )
    return [every[~long_N], every[long_N]]
