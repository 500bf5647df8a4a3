"""The base and its guides as the one model that a scheduler runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trimtab.engines.local.group_cache import GroupCache
from trimtab.engines.local.own_caches import OwnCaches
from trimtab.engines.local.packed_rows import PackedRows
from trimtab.engines.local.shelves import CacheMemory
from trimtab.engines.local.streams import Group
from trimtab.engines.policies import Amateur
from trimtab.models.protocols import Tokenizer
from trimtab.models.token_texts import TokenTexts


@dataclass(frozen=True)
class GuidedModel:
    """The base and its guides, in groups that share weights.

    Attributes:
        groups: the base's first.
        arms: names of the guides, in the order of the weights.
        references: guide -> its reference, for those that have one.
        tokenizer: the base's.
        ends: ids that end a turn.
        amateurs: name -> what its stream is contrasted by.
        forward_kl: whether the guides are policies that the forward KL's mean joins.
    """

    groups: Sequence[Group]
    arms: Sequence[str]
    references: Mapping[str, str]
    tokenizer: Tokenizer
    ends: frozenset[int]
    amateurs: Mapping[str, Amateur] = field(default_factory=dict)
    forward_kl: bool = False

    @cached_property
    def token_texts(self) -> TokenTexts:
        """Texts of the base's tokens by their ids."""
        return TokenTexts(self.tokenizer)

    @property
    def vocabulary(self) -> int:
        """Ids of the base."""
        return self.groups[0].streams[0].vocabulary.size

    @property
    def quantized(self) -> bool:
        """Whether any weights are; some of their kernels bear no inference mode."""
        return any(group.quantized for group in self.groups)


def open_caches(groups: Sequence[Group], memory: CacheMemory) -> list[GroupCache]:
    """What the groups compute is kept in, each as its architecture lets it."""
    return [PackedRows(g, memory) if g.packable else OwnCaches(g) for g in groups]
