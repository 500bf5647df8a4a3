"""Objectives as vectors made of their descriptions, for UniARM's affine core.

A reconstruction: the paper (arXiv 2602.09538) says that objectives are represented by the model's
own embeddings of their descriptions; how is not public. Here:

1. the mean of the frozen input embeddings of the description's tokens, [H];
2. standardised entry by entry with the mean and the deviation of all embeddings of the model, so
   that what all texts share goes;
3. projected on Q fixed random orthonormal directions and scaled to length √Q. Q keeps the number
   of trained parameters at PARM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import ConfigError


def projection(features: int, hidden: int, *, seed: int = 0) -> Tensor:
    """Fixed random orthonormal directions, [Q, H]."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(hidden, features, generator=generator)
    directions: Tensor = torch.linalg.qr(square)[0].t().contiguous()
    return directions


@torch.no_grad()
def objective_vectors(
    model: Any, tokenizer: Any, descriptions: Mapping[str, str], projection_QH: Tensor
) -> Tensor:
    """One vector per description, [K, Q].

    Raises:
        ConfigError: a description without tokens, or two that come to the same vector.
    """
    embeddings_VH = model.get_input_embeddings().weight.float().cpu()
    mean_H, deviation_H = embeddings_VH.mean(0), embeddings_VH.std(0).clamp(min=1e-6)
    vectors = []
    for name, text in descriptions.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConfigError(f"the description of {name!r} has no tokens", "describe it in words")
        standard_H = (embeddings_VH[ids].mean(0) - mean_H) / deviation_H
        seen_Q = projection_QH @ standard_H
        vectors.append(seen_Q / seen_Q.norm().clamp(min=1e-6) * len(seen_Q) ** 0.5)
    found = torch.stack(vectors)
    for i, name in enumerate(descriptions):
        for j, other in enumerate(list(descriptions)[:i]):
            if torch.allclose(found[i], found[j], atol=1e-4):
                raise ConfigError(
                    f"{name!r} and {other!r} are described alike", "say what tells them apart"
                )
    return found
