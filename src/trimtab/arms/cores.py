"""What a preference does between the low-rank factors: `ΔW(p) x = s · B · core_p(A x)`.

`bilinear` is PARM's PBLoRA (arXiv 2505.06274), `affine` our reconstruction of UniARM's MoSLoRA
(arXiv 2602.09538; its equations are not public). N rows, T tokens, R rank, K objectives, Q features
of the mixed preference vector.

A preference reaches a core as `Mix`. Each core says the same thing three ways, which the tests
compare: per row (`apply`), for one preference folded into B (`fold`), and as columns with gains
that are linear in the preference (`columns`, for decoding).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trimtab.arms.adapter import LowRank


@dataclass(frozen=True)
class Mix:
    """The preferences of some rows.

    Attributes:
        preference: on the simplex, [N, K]; N = 1 holds for all rows.
        vector: `c(p) = Σ_i p_i o_i`, [N, Q]; Q = 0 where objectives have no vectors.
    """

    preference: Tensor
    vector: Tensor


class BilinearCore(nn.Module):
    """`core_p([z1; z2]) = [W1 z1; W2(p) z2]` and `W2(p) = Σ_i p_i U_i` (PBLoRA).

    Args:
        objectives: K.
        rank: R, of z1 and z2 together.
        preference_rank: of z2, the part that the preference acts on.
    """

    def __init__(self, objectives: int, rank: int, preference_rank: int) -> None:
        super().__init__()
        self.ranks = [rank - preference_rank, preference_rank]
        self.W1 = nn.Parameter(torch.empty(self.ranks[0], self.ranks[0]))
        self.U = nn.Parameter(torch.empty(objectives, preference_rank**2))
        for weight in self.parameters():
            if weight.numel():
                nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def _w2(self, preference_NK: Tensor) -> Tensor:
        """W2(p) per row, [N, r2, r2]."""
        return (preference_NK.to(self.U) @ self.U).view(-1, self.ranks[1], self.ranks[1])

    def apply_rows(self, z_NTR: Tensor, mix: Mix) -> Tensor:
        """`core_p(z)`, each row by its own preference, [N, T, R]."""
        z1, z2 = torch.split(z_NTR, self.ranks, -1)
        w2_NRR = self._w2(mix.preference).to(z2.dtype)
        return torch.cat([z1 @ self.W1.t().to(z1.dtype), z2 @ w2_NRR.mT], -1)

    def fold(self, b_OR: Tensor, mix: Mix) -> tuple[Tensor, None]:
        """`[B1 W1, B2 W2(p)]`: for one preference the adapter is a LoRA; it needs no bias."""
        b1, b2 = torch.split(b_OR, self.ranks, -1)
        return torch.cat([b1 @ self.W1, b2 @ self._w2(mix.preference)[0]], -1), None

    def columns(self, a_RI: Tensor, b_OR: Tensor, mixes: Mix) -> LowRank:
        """C = r1 + K · r2 columns: A2 once per objective i, up by B2 U_i, gained by p_i."""
        r1, r2 = self.ranks
        objectives = len(mixes.preference)
        b1, b2 = torch.split(b_OR, self.ranks, -1)
        w2_KRR = self._w2(mixes.preference)
        a = torch.cat([a_RI[:r1], a_RI[r1:].repeat(objectives, 1)])
        b = torch.cat([b1 @ self.W1, *(b2 @ w2 for w2 in w2_KRR)], -1)
        gains = torch.eye(objectives, device=a.device).repeat_interleave(r2, -1)
        return LowRank(a, b, torch.cat([gains.new_ones(objectives, r1), gains], -1))


class AffineCore(nn.Module):
    """`core_p(z) = (1 + G c(p)) ⊙ z + D c(p)`. No weight belongs to an objective.

    G starts at random, so that γ = G c has a deviation of 1 (objective vectors have length √Q), and
    D at zero. B starts at zero, so the model starts as it is all the same; with G at zero, too, the
    preference is hardly learned (docs/log.md, 2026-11-21).

    Args:
        features: Q.
        rank: R.
        shift: whether there is a D; without it the update stays linear in x.
    """

    def __init__(self, features: int, rank: int, *, shift: bool = True) -> None:
        super().__init__()
        self.G = nn.Parameter(torch.randn(rank, features) / max(features, 1) ** 0.5)
        self.D = nn.Parameter(torch.zeros(rank, features)) if shift else None

    def _gain(self, vector_NQ: Tensor) -> Tensor:
        return 1 + vector_NQ.to(self.G) @ self.G.t()

    def _shift(self, vector_NQ: Tensor) -> Tensor | None:
        return None if self.D is None else vector_NQ.to(self.D) @ self.D.t()

    def apply_rows(self, z_NTR: Tensor, mix: Mix) -> Tensor:
        """`core_p(z)`, each row by its own preference, [N, T, R]."""
        scaled = z_NTR * self._gain(mix.vector)[:, None].to(z_NTR.dtype)
        shift = self._shift(mix.vector)
        return scaled if shift is None else scaled + shift[:, None].to(z_NTR.dtype)

    def fold(self, b_OR: Tensor, mix: Mix) -> tuple[Tensor, Tensor | None]:
        """`B diag(1 + γ)` and the bias `B δ`: the adapter of one preference, [out, R] and [out]."""
        shift = self._shift(mix.vector)
        return b_OR * self._gain(mix.vector), None if shift is None else b_OR @ shift[0]

    def columns(self, a_RI: Tensor, b_OR: Tensor, mixes: Mix) -> LowRank:
        """C = R columns; γ and δ are linear in p because p sums to one."""
        return LowRank(a_RI, b_OR, self._gain(mixes.vector), self._shift(mixes.vector))
