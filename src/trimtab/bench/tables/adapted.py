"""Bring a model that lacks its last layers near the whole one, by the latter's own answers.

B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import get_cosine_schedule_with_warmup

from trimtab.bounds import TINY, Bound
from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Text:
    """Token ids of a prompt, and of an answer to it."""

    prompt: Sequence[int]
    answer: Sequence[int]


@dataclass(frozen=True)
class Adaptation:
    """How a model is adapted; names and meanings are those of `trimtab train`.

    Attributes:
        num_train_epochs: how often each text is read.
        learning_rate: AdamW's highest, after a tenth of all steps; it falls to 0 as a cosine.
        per_device_train_batch_size: texts in a step.
        bf16: compute in bfloat16; the weights are float32.
    """

    num_train_epochs: int = 3
    learning_rate: float = 1e-3
    per_device_train_batch_size: int = 8
    bf16: bool = False

    def __post_init__(self) -> None:
        _WHOLE.require("weak.num_train_epochs", self.num_train_epochs)
        _WHOLE.require("weak.per_device_train_batch_size", self.per_device_train_batch_size)
        _RATE.require("weak.learning_rate", self.learning_rate)
        if not isinstance(self.bf16, bool):
            raise ConfigError(f"weak.bf16 is {self.bf16!r}", "it must be true or false")


_WHOLE = Bound(Integral, 1, 10_000, "1 to 10,000")
_RATE = Bound(Real, TINY, 1, "above 0, at most 1")


def adapt(
    model: Any, whole: Any, texts: Sequence[Sequence[Text]], how: Adaptation, seed: int = 0
) -> dict[str, Any]:
    """Train all weights towards the whole model's distribution after every token of the texts.

    The loss is KL(whole ‖ model) per token of prompts and answers. The order is drawn by `seed`;
    dropout is off, as elsewhere in evaluation mode.

    Args:
        model: changed in place; float32.
        whole: what it is cut from, on the same device.
        texts: what the whole model said, by prompt.
        how: the options.
        seed: of the order.

    Returns:
        Steps, tokens read, seconds, and the mean loss of the last epoch in nats per token.
    """
    rows = [*chain.from_iterable(texts)]
    size, generator = how.per_device_train_batch_size, torch.Generator().manual_seed(seed)
    steps = -(-len(rows) // size) * how.num_train_epochs
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    start, tokens, last = time.perf_counter(), 0, [0.0, 0.0]
    for _ in range(how.num_train_epochs):
        last = [0.0, 0.0]
        for batch in _batches(rows, torch.randperm(len(rows), generator=generator).tolist(), size):
            loss, count = _step(model, whole, batch, bf16=how.bf16)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            last = [last[0] + float(loss.detach()) * count, last[1] + count]
            tokens += count
    seconds = time.perf_counter() - start
    return {"steps": steps, "tokens": tokens, "adapting": seconds, "kl": last[0] / last[1]}


def _batches(rows: Sequence[Text], order: Sequence[int], size: int) -> Iterator[list[Text]]:
    for at in range(0, len(order), size):
        yield [rows[i] for i in order[at : at + size]]


def _step(model: Any, whole: Any, batch: Sequence[Text], *, bf16: bool) -> tuple[Tensor, int]:
    """The mean KL per token of a batch, and how many tokens there are."""
    ids_BT, mask_BT = _padded(batch, model.device)
    fed = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
    told_BT = mask_BT[:, 1:].bool()  # what follows each token but the last
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        with torch.no_grad():
            wanted_NV = whole(**fed).logits[:, :-1][told_BT].float().log_softmax(-1)
        found_NV = model(**fed).logits[:, :-1][told_BT].float().log_softmax(-1)
    return kl_div(found_NV, wanted_NV, reduction="batchmean", log_target=True), len(found_NV)


def _padded(batch: Sequence[Text], device: Any) -> tuple[Tensor, Tensor]:
    rows = [[*text.prompt, *text.answer] for text in batch]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows], device=device)
    return ids, mask


@torch.no_grad()
def nlls(model: Any, texts: Sequence[Text]) -> list[float]:
    """Nats per token of each answer."""
    found = []
    for text in texts:
        ids_BT, mask_BT = _padded([text], model.device)
        logits_TV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits[0]
        at = len(text.prompt)
        logp_AV = logits_TV[at - 1 : -1].float().log_softmax(-1)
        said_A = ids_BT[0, at:]
        found.append(-float(logp_AV.gather(-1, said_A[:, None]).mean()))
    return found
