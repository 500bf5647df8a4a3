"""Objectives as vectors made of their descriptions, for UniARM's affine core.

A reconstruction: the paper (arXiv 2602.09538) says that objectives are represented by the model's
own embeddings of their descriptions; how is not public. Here:

1. the mean of the frozen input embeddings of the description's tokens, [H];
2. standardised entry by entry with the mean and the deviation of all embeddings of the model;
3. less the mean of the objectives that are trained: what their texts share tells none apart, and
   any two texts share much (cosines of .7 to .9 without this);
4. projected on Q fixed orthonormal directions, first those in which the objectives differ, then
   random ones, turned at random, and scaled to length √Q.

Q keeps the number of trained parameters at PARM's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.models.protocols import CausalLM, Tokenizer

_ROUNDING = 1e-4
"""Share of a text's embedding that float32 may leave where it says nothing of its own. Made longer,
that would be a vector of noise, another one on every processor."""


@torch.no_grad()
def fit_projection(
    model: CausalLM,
    tokenizer: Tokenizer,
    descriptions: Mapping[str, str],
    features: int,
    *,
    seed: int = 0,
) -> Tensor:
    """What makes vectors of standardised embeddings: directions and, last, an offset, [Q, H + 1].

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        descriptions: of the K objectives that are trained.
        features: Q; K − 1 or more keep all differences between the objectives.
        seed: of the random directions.
    """
    standard_KH = _standardised(model, tokenizer, descriptions)
    mean_H = standard_KH.mean(0)
    generator = torch.Generator().manual_seed(seed)
    features = min(features, len(mean_H))
    random_HQ = torch.randn(len(mean_H), features, generator=generator)
    apart_HK = (standard_KH - mean_H)[:-1].t()  # the last one is the others' negative sum
    basis_HQ: Tensor = torch.linalg.qr(torch.cat([apart_HK, random_HQ], 1)[:, :features])[0]
    turn_QQ: Tensor = torch.linalg.qr(torch.randn(features, features, generator=generator))[0]
    directions_QH = turn_QQ @ basis_HQ.t()
    offset_Q1: Tensor = -(directions_QH @ mean_H)[:, None]
    return torch.cat([directions_QH, offset_Q1], 1)


@torch.no_grad()
def objective_vectors(
    model: CausalLM, tokenizer: Tokenizer, descriptions: Mapping[str, str], projection: Tensor
) -> Tensor:
    """One vector per description, [K, Q].

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        descriptions: objective -> text.
        projection: from `fit_projection`, [Q, H + 1].

    Raises:
        ConfigError: a description without tokens, or two that come to the same vector.
    """
    standard_KH = _standardised(model, tokenizer, descriptions)
    seen_KQ = standard_KH @ projection[:, :-1].t() + projection[:, -1]
    length_K1 = seen_KQ.norm(dim=1, keepdim=True)
    told_apart_K1 = length_K1 > _ROUNDING * standard_KH.norm(dim=1, keepdim=True)
    unit_KQ = torch.where(told_apart_K1, seen_KQ / length_K1, 0.0)
    vectors: Tensor = unit_KQ * seen_KQ.shape[1] ** 0.5
    names = list(descriptions)
    for i, name in enumerate(names):
        for j, other in enumerate(names[:i]):
            if torch.allclose(vectors[i], vectors[j], atol=1e-3):
                raise ConfigError(
                    f"{name!r} and {other!r} are described alike", "say what tells them apart"
                )
    return vectors


def _standardised(model: CausalLM, tokenizer: Tokenizer, descriptions: Mapping[str, str]) -> Tensor:
    """Steps 1 and 2, [K, H]."""
    embeddings_VH = model.get_input_embeddings().weight.float().cpu()
    mean_H, deviation_H = embeddings_VH.mean(0), embeddings_VH.std(0).clamp(min=1e-6)
    rows = []
    for name, text in descriptions.items():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConfigError(f"the description of {name!r} has no tokens", "describe it in words")
        rows.append((embeddings_VH[ids].mean(0) - mean_H) / deviation_H)
    return torch.stack(rows)
