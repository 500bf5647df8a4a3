"""A causal LM reading a batch that grows by a token at a time, whoever chooses the tokens.

N rows, T tokens, V vocabulary. Nobody says what has changed since the last call: it is seen by
comparing ids. Rows that go on, in any order and any number, keep their cache; anything else (a new
prompt, tokens taken back) is read from the start.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import first_line, is_out_of_memory
from trimtab.models import ropes
from trimtab.models.lm_head import causal_lm
from trimtab.models.padding import position_ids
from trimtab.models.probe import forward, reference, rms_gap
from trimtab.models.renamed import cache_name

logger = logging.getLogger(__name__)

_PADDING = -1
"""Stands for padding where ids are compared: no token has it."""


class GrowingBatch:
    """The logits of a model after the last token of each row.

    A model that does not give with a cache, beside padding, what its own forward gives reads every
    row by itself and from its start: slow, and right. That is asked once.

    Args:
        model: a causal LM, with PEFT's adapter or without, in evaluation mode.
        probe: ids of ordinary text, and where its second piece begins.
        name: of the model, for messages.

    Raises:
        ModelLoadError: the model gives NaN.
    """

    def __init__(self, model: Any, probe: tuple[list[int], int], name: str) -> None:
        self._model = model
        self._parameters = inspect.signature(type(causal_lm(model)).forward).parameters
        self._cache: Any = None
        self._read_NT: Tensor | None = None
        self._caches = not _changes_with_length(model)
        ids, cut = probe
        wanted = reference(model, ids, cut, name=name, source="its own library")
        if self._caches and (why := self._differs(ids, wanted.logits_TV, wanted.bar)):
            logger.warning("%s reads each row from its start for every token: %s", name, why)
            self._caches = False
        self.forget()

    def forget(self) -> None:
        """Let go of what was read."""
        self._cache = self._read_NT = None

    @torch.no_grad()
    def next_logits(self, ids_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """Logits of the token after each row, [N, V] float32.

        Args:
            ids_NT: the model's own ids; padding stands on the left.
            mask_NT: 0 for padding.
        """
        ids_NT, mask_NT = ids_NT.to(self._model.device), mask_NT.to(self._model.device)
        if not self._caches:
            rows = zip(ids_NT, mask_NT.bool(), strict=True)
            return torch.stack([forward(self._model, row[real].tolist())[-1] for row, real in rows])
        marked_NT = ids_NT.masked_fill(mask_NT == 0, _PADDING)
        before_N = self._rows_before(marked_NT)
        self._read_NT = None  # until it has been read: it may fail
        if before_N is None:
            self._cache = None
        elif not torch.equal(before_N, torch.arange(len(before_N), device=before_N.device)):
            self._cache.reorder_cache(before_N)
        new = slice(None) if before_N is None else slice(-1, None)
        logits_NV = self._forward(ids_NT, mask_NT, new)
        self._read_NT = marked_NT
        return logits_NV

    def _rows_before(self, marked_NT: Tensor) -> Tensor | None:
        """Which row read so far each row goes on by one token, [N]; None where one goes on none."""
        if self._read_NT is None or marked_NT.shape[1] != self._read_NT.shape[1] + 1:
            return None
        same_NM = (marked_NT[:, None, :-1] == self._read_NT[None]).all(-1)
        if not bool(same_NM.any(-1).all()):
            return None
        if same_NM.shape[0] == same_NM.shape[1] and bool(same_NM.diagonal().all()):
            return torch.arange(len(same_NM), device=same_NM.device)
        return same_NM.int().argmax(-1)

    def _forward(self, ids_NT: Tensor, mask_NT: Tensor, new: slice) -> Tensor:
        name = cache_name(self._parameters)
        options: dict[str, Any] = {name: self._cache}
        if "position_ids" in self._parameters:  # ALiBi models take none
            options["position_ids"] = position_ids(mask_NT)[:, new]
        if "logits_to_keep" in self._parameters:
            options["logits_to_keep"] = 1
        output = self._model(
            input_ids=ids_NT[:, new], attention_mask=mask_NT, use_cache=True, **options
        )
        self._cache = output.get(name)
        if self._cache is None:
            raise NotImplementedError("it gives no cache")
        logits: Tensor = output.logits
        return logits[:, -1].float()

    def _differs(self, ids: list[int], logits_TV: Tensor, bar: float) -> str:
        """How ordinary text, read beside padding, token by token and in changing order, is not what
        the model's own forward gives; "" if it is.

        Args:
            ids: the text.
            logits_TV: after each token, by the model's own forward.
            bar: nats that may lie between.
        """
        shorter = ids[1:] if len(ids) > 4 else ids
        width, padding = len(ids), len(ids) - len(shorter)
        rows = torch.tensor([ids, [ids[0]] * padding + shorter], device=self._model.device)
        mask = torch.ones_like(rows)
        mask[1, :padding] = 0
        wanted = [logits_TV, forward(self._model, shorter)]
        order = [0, 1]
        try:
            for end in range(max(width - 3, padding + 1), width + 1):
                logits = self.next_logits(rows[order, :end], mask[order, :end])
                for row, logits_V in zip(order, logits, strict=True):
                    own_V = wanted[row][end - 1 - (padding if row else 0)]
                    gap = rms_gap(own_V[None].log_softmax(-1), logits_V[None].log_softmax(-1))
                    if not gap <= bar:
                        return f"with a cache it is {gap:.2g} nats off ({bar:.2g} are allowed)"
                order.reverse()
        except Exception as error:  # third-party model code raises anything
            if is_out_of_memory(error):
                raise
            return f"{type(error).__name__}: {first_line(error)}"
        return ""


def _changes_with_length(model: Any) -> bool:
    """Whether what was read can change as a row grows (LongRoPE), or PEFT puts tokens before it."""
    config = getattr(model, "peft_config", {}).get("default")
    if getattr(config, "is_prompt_learning", False):
        return True
    return any(ropes.originals(module) for module in causal_lm(model).modules())
