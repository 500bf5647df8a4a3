"""The vocabulary contract: which token of an ARM speaks for which token of the base.

Log-probs can only be fused token by token, so the two tokenizers are compared id by id, never by
size: LM heads are padded, and two vocabularies of equal size may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trimtab.errors import VocabularyError
from trimtab.models.protocols import Tokenizer


@dataclass(frozen=True)
class VocabularyMap:
    """How one stream's vocabulary lines up with the base's.

    Attributes:
        size: V, the number of ids that are fused (the base's).
        own_size: the number of ids that the stream's own softmax runs over.
        own_id: base id -> the stream's id, where they differ (end-of-turn tokens).
    """

    size: int
    own_size: int
    own_id: tuple[tuple[int, int], ...] = ()

    @property
    def is_identity(self) -> bool:
        """Whether every id means the same in both and nothing has to be moved."""
        return not self.own_id and self.size == self.own_size


def vocabulary_of(tokenizer: Tokenizer) -> dict[int, str]:
    """id -> token string, added tokens included."""
    return {index: token for token, index in tokenizer.get_vocab().items()}


def match_vocabularies(
    base: Tokenizer,
    arm: Tokenizer,
    *,
    base_head: int,
    arm_head: int,
    base_ends: Sequence[int] = (),
    arm_name: str = "the ARM",
) -> VocabularyMap:
    """Line an ARM's vocabulary up with the base's, or say why it cannot be done.

    Allowed differences: padded LM heads; tokens that only the ARM has, behind the base's last id
    (they are cut before its softmax); an end-of-turn token of the base that the ARM spells
    differently or lacks (it is mapped to the ARM's own).

    Args:
        base: the base's tokenizer.
        arm: the ARM's tokenizer.
        base_head: rows of the base's LM head.
        arm_head: rows of the ARM's LM head.
        base_ends: ids at which the base ends a turn.
        arm_name: how to call the ARM in an error.

    Raises:
        VocabularyError: any other difference, the differing tokens named.
    """
    base_tokens, arm_tokens = vocabulary_of(base), vocabulary_of(arm)
    size = min(base_head, max(base_tokens) + 1)
    own_size = min(arm_head, max(arm_tokens) + 1)
    differing = [
        i
        for i, token in base_tokens.items()
        if i < size and (arm_tokens.get(i) != token or i >= own_size)
    ]
    ends = {i for i in (*base_ends, base.eos_token_id) if i is not None}
    moved = {}
    if arm.eos_token_id is not None:
        moved = {i: int(arm.eos_token_id) for i in differing if i in ends}
    broken = sorted(i for i in differing if i not in moved)
    if broken:
        raise VocabularyError(
            f"{arm_name} cannot be fused with the base: {len(broken)} of {size} tokens differ ("
            + ", ".join(
                f"id {i}: base {base_tokens[i]!r}, ARM {arm_tokens.get(i)!r}" for i in broken[:4]
            )
            + (", …)" if len(broken) > 4 else ")"),
            "train the ARM on a model with the base's tokenizer",
        )
    used = max((i for i in base_tokens if i < size and i not in moved), default=-1) + 1
    reached = max([min(own_size, used), *(i + 1 for i in moved.values())])
    return VocabularyMap(size, reached, tuple(sorted(moved.items())))
