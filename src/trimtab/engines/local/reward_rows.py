"""Rows of a reward model, which is read piece by piece; asked once whether it can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimtab.arms.reward_model import RewardModel
from trimtab.engines.local import loading
from trimtab.engines.local.group_cache import Entry
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.local.shelves import CacheMemory
from trimtab.engines.local.stream_rows import StreamRow
from trimtab.engines.local.streams import Group, Stream
from trimtab.engines.local.transfer import on_device
from trimtab.errors import first_line, is_out_of_memory
from trimtab.models.lm_head import causal_lm
from trimtab.models.memory import free_bytes
from trimtab.models.probe import floor, probe_ids
from trimtab.models.vocabulary import VocabularyMap


class NoPiecesError(Exception):
    """A model that is not read piece by piece, and why."""


def open_rows(model: RewardModel) -> PackedRows:
    """Where a reward model's rows are kept. Its weights may be rearranged by this.

    Args:
        model: a sequence classifier with one output.

    Raises:
        NoPiecesError: pieces do not give what the library gives, or cannot be read at all.
    """
    if not hasattr(causal_lm(model.model), "score"):  # an encoder's head is on its own token
        raise NoPiecesError("it is no decoder")
    wanted, dtype = _expected(model), model.model.dtype
    try:
        group = _group(model)
        if not group.packable:
            raise NoPiecesError("its architecture keeps more than keys and values")
        gap = _gap(PackedRows(group, CacheMemory(), scalars), wanted, floor(dtype))
    except NoPiecesError:
        raise
    except Exception as error:  # third-party model code raises anything
        if is_out_of_memory(error):
            raise
        raise NoPiecesError(f"{type(error).__name__}: {first_line(error)}") from error
    if not gap <= 1:
        raise NoPiecesError(f"piece by piece it is {gap:.2g} times its bar off")
    return PackedRows(group, CacheMemory(free_bytes(str(group.device)) // 4), scalars)


def _group(model: RewardModel) -> Group:
    whole, tokenizer = _merged(model.model), model.reader.tokenizer
    size = len(tokenizer.get_vocab())
    stream = Stream("reward", whole, tokenizer, VocabularyMap(size, size))
    return Group([stream], pack=loading.may_pack([whole]))


def _expected(model: RewardModel) -> list[tuple[list[int], float]]:
    """Beginnings of ordinary text, each a little longer, and the library's rewards of them."""
    reader = model.reader
    ids, _ = probe_ids(reader.tokenizer, reader.sidecar.prompt_format, limit=reader.context)
    ends = sorted({max(1, len(ids) * n // 4) for n in (1, 2, 3, 4)})
    texts = [model.up_to_padding(ids[:end]) for end in ends]
    return [(text, model.rate_rows([text])[0]) for text in texts]


def _merged(model: Any) -> Any:
    """An adapter in its backbone's weights, where that loses nothing: one model, to be packed.

    Nobody else has these weights. In half precision the sum would be rounded.
    """
    if model.dtype != torch.float32 or not hasattr(model, "merge_and_unload"):
        return model
    try:
        return model.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError):  # of a kind that cannot be merged
        return model


def new_row(cache: PackedRows) -> StreamRow:
    """One that holds nothing."""
    coefficients = tuple(cache.group.coefficients()[0].tolist())
    return StreamRow(0, [], cache.group.streams[0].vocabulary, coefficients)


@torch.no_grad()
def _gap(cache: PackedRows, wanted: Sequence[tuple[list[int], float]], noise: float) -> float:
    """How far rewards of text that is read in pieces are from those that are wanted.

    Args:
        cache: reads the pieces.
        wanted: beginnings of a text, the shortest first, and their rewards.
        noise: that a type may be off, of a value of 1 or of a spread of 1 over the text.

    Returns:
        The largest difference, over what it may be.
    """
    row, gap = new_row(cache), 0.0
    for ids, reward in wanted:
        before, row.sequence = row.computed, ids
        own = cache.forward([Entry(row, ids[before:], 1)]) if len(ids) > before else None
        gap = max(gap, abs(float(own) - reward)) if own is not None else gap
    cache.drop(row)
    rewards = [reward for _, reward in wanted]
    spread = max(rewards) - min(rewards)
    return gap / (noise * max(1.0, spread, *map(abs, rewards)))


def scalars(
    group: Group, hidden_MH: Tensor, rows: Sequence[StreamRow], at: Sequence[Sequence[int]]
) -> Tensor:
    """The head's value at some places, float32, [E, M, 1]."""
    values: Tensor = group.lm.score(hidden_MH[on_device(at, hidden_MH.device)])
    return values.float()
