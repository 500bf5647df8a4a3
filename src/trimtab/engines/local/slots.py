"""What a group has computed of every request: its streams' rows in a slot cache, prefixes reused.

B requests (slots) of S streams are B · S rows, request by request. T new tokens, V vocabulary,
M positions whose log-probs are wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trimtab import fusion
from trimtab.engines.local import attention
from trimtab.engines.local.cache import SlotCache
from trimtab.engines.local.streams import Group
from trimtab.models.lm_head import head_logits
from trimtab.models.renamed import cache_name
from trimtab.models.vocabulary import VocabularyMap

Tokens = Sequence[Sequence[Sequence[int]]]
"""Per slot, per stream: the stream's own token ids, of any lengths."""


class SlotCaches:
    """The rows of one group.

    Args:
        group: its streams.
        slots: requests that can run at once.
        length: tokens each may have.
    """

    can_rewind = True

    def __init__(self, group: Group, slots: int, length: int) -> None:
        self.group = group
        self.computed = [[0] * len(group.streams) for _ in range(slots)]
        self._cached: list[list[list[int]]] = [[[] for _ in group.streams] for _ in range(slots)]
        # what a stream has read depends on how it took the adapters' columns
        self._coefficients = group.coefficients().repeat(slots, 1, 1)  # [slots, S, J]
        self._cached_with = self._coefficients.clone()  # how what is cached was computed
        self._coefficients_NJ = self._coefficients.flatten(0, 1).to(group.device)
        # what a stream has read also depends on whether it was read as a long row
        self._long = [[False] * len(group.streams) for _ in range(slots)]
        self._cached_long = [[False] * len(group.streams) for _ in range(slots)]
        self._config = group.lm.config.get_text_config()
        # on a CPU attention over half-precision keys takes several times as long as over float32
        dtype = torch.float32 if group.device.type == "cpu" else group.lm.dtype
        self._cache = SlotCache(slots * len(group.streams), length, dtype)

    def condition(self, slot: int, conditions: Mapping[str, Sequence[float]]) -> None:
        """Set the preferences inside the conditioned ARMs of the request in a slot."""
        self._set_coefficients(slot, self.group.coefficients(conditions))

    def _set_coefficients(self, slot: int, coefficients_SJ: Tensor) -> None:
        streams = len(self.group.streams)
        self._coefficients[slot] = coefficients_SJ
        self._coefficients_NJ[slot * streams : (slot + 1) * streams] = coefficients_SJ.to(
            self.group.device
        )

    def outgrown(self, slot: int, sequences: Sequence[Sequence[int]]) -> bool:
        """Whether a stream's sequence is now of a length that changes what was read of it.

        Then the stream has read nothing of it yet. Called whenever sequences have grown.
        """
        ropes, changed = self.group.ropes, False
        if ropes is None:
            return False
        for stream, sequence in enumerate(sequences):
            long = len(sequence) > ropes.original
            if long != self._long[slot][stream]:
                self._long[slot][stream], changed = long, True
                self.computed[slot][stream] = 0
        return changed

    def room(self, sequences: Sequence[Sequence[int]]) -> int | None:
        """Tokens that may follow before a stream is outgrown; None without a limit."""
        if not self.group.ropes:
            return None
        left = [self.group.ropes.original - len(sequence) for sequence in sequences]
        return min((n for n in left if n >= 0), default=None)

    def forward(
        self, first: int, tokens: Tokens, wanted: Sequence[int], *, positions: int | None = None
    ) -> dict[str, Tensor]:
        """Append tokens to some slots' streams.

        Args:
            first: the first of the slots; the others follow.
            tokens: what to append; a stream may get none.
            wanted: per slot, how many of its last new tokens' successors are wanted; M is the
                largest. All zero skips the LM head.
            positions: M, where it is to be larger.

        Returns:
            Stream name -> log-probs over the base's ids, [slots, M, V]; behind a slot's own count
            they mean nothing.
        """
        width = max(1, *(len(ids) for slot in tokens for ids in slot))
        ids = [
            [*stream_tokens, *[0] * (width - len(stream_tokens))]
            for slot in tokens
            for stream_tokens in slot
        ]
        before = [n for slot in self.computed[first : first + len(tokens)] for n in slot]
        new = [len(stream_tokens) for slot in tokens for stream_tokens in slot]
        hidden_NTH = self._forward(first, ids, before, new)
        for slot, appended in enumerate(tokens, start=first):
            for stream, stream_tokens in enumerate(appended):
                cached, n = self._cached[slot][stream], self.computed[slot][stream]
                if stream_tokens:
                    cached[n:] = stream_tokens
                    self._cached_with[slot, stream] = self._coefficients[slot, stream]
                    self._cached_long[slot][stream] = self._long[slot][stream]
                self.computed[slot][stream] += len(stream_tokens)
        if not any(wanted):
            return {}
        pairs = zip(tokens, wanted, strict=True)
        firsts = [
            max(len(stream_tokens) - count, 0) for slot, count in pairs for stream_tokens in slot
        ]
        count = positions or max(wanted)
        index = [[min(at + m, width - 1) for m in range(count)] for at in firsts]
        return log_probs(self.group, hidden_NTH, index, self._rows(first, len(tokens)))

    def _rows(self, first: int, slots: int) -> Tensor:
        """How the rows of some slots take the adapters' columns, [N, J]."""
        streams = len(self.group.streams)
        return self._coefficients_NJ[first * streams : (first + slots) * streams]

    def _forward(
        self, first: int, ids: list[list[int]], before: list[int], new: list[int]
    ) -> Tensor:
        device = self.group.device
        streams, width = len(self.group.streams), len(ids[0])
        ids_NT = torch.tensor(ids, device=device)
        before_N1, new_N1 = torch.tensor([before, new], device=device)[..., None]
        step_T = torch.arange(width, device=device)
        at_NT = before_N1 + step_T
        upto = min(max(before) + width, self._cache.length)
        real_NT = step_T < new_N1
        written_NT = at_NT.where(real_NT, self._cache.length)  # padding is thrown away
        self._cache.open(first * streams, written_NT, upto)
        self.group.open_rows(self._rows(first, len(ids) // streams))
        if self.group.ropes:
            slots = self._long[first : first + len(ids) // streams]
            self.group.ropes.open([long for slot in slots for long in slot])
        # padding could lie beyond the model's last position, or where ropes turn otherwise
        positions_NT = at_NT.where(real_NT, 0)
        hidden: Tensor = self.group.lm.base_model(
            input_ids=ids_NT,
            position_ids=positions_NT,
            attention_mask=attention.masks(self._config, positions_NT, upto, self._cache.dtype),
            use_cache=True,
            **{cache_name(self.group.parameters): self._cache},
        ).last_hidden_state
        return hidden

    def pending(
        self, slot: int, sequences: Sequence[Sequence[int]], drafts: Sequence[int] = ()
    ) -> list[list[int]]:
        """What each stream of a slot has still to read of its sequence and of drafts after it.

        Args:
            slot: where the request runs.
            sequences: per stream, its own ids.
            drafts: base ids.
        """
        return pending(self.group, self.computed[slot], sequences, drafts)

    def rewind(self, slot: int, lengths: Sequence[int]) -> None:
        """Forget what a slot's streams read beyond these lengths."""
        self.computed[slot] = [*map(min, self.computed[slot], lengths)]

    def reuse_prefix(self, slot: int, stream: int, ids: Sequence[int]) -> None:
        """Let an empty stream take over the longest beginning of `ids` that any slot still has.

        What a finished request left in its slot counts until it is overwritten. The last id is
        always left to be read, because its successor is wanted.
        """
        lengths = [
            common_prefix(cached[stream], ids[:-1])
            if torch.equal(self._cached_with[i, stream], self._coefficients[slot, stream])
            and self._cached_long[i][stream] == self._long[slot][stream]
            else 0
            for i, cached in enumerate(self._cached)
        ]
        best = max(range(len(lengths)), key=lambda i: (lengths[i], i == slot))
        if lengths[best]:
            self._copy(best, slot, stream, lengths[best])

    def move(self, source: int, target: int) -> None:
        """Continue a request in another slot."""
        self._set_coefficients(target, self._coefficients[source])
        self._long[target] = list(self._long[source])
        for stream, length in enumerate(self.computed[source]):
            if length:  # else what the target holds can still be reused
                self._copy(source, target, stream, length)
        self.clear(source)

    def _copy(self, source: int, target: int, stream: int, length: int) -> None:
        streams = len(self.group.streams)
        if source != target:
            self._cache.copy_row(source * streams + stream, target * streams + stream, length)
        self._cached[target][stream] = self._cached[source][stream][:length]
        self._cached_with[target, stream] = self._cached_with[source, stream]
        self._cached_long[target][stream] = self._cached_long[source][stream]
        self.computed[target][stream] = length

    def clear(self, slot: int) -> None:
        """Empty a slot; what it holds can still be reused."""
        self.computed[slot] = [0] * len(self.group.streams)


def log_probs(
    group: Group, hidden_NTH: Tensor, index: Sequence[Sequence[int]], coefficients_NJ: Tensor
) -> dict[str, Tensor]:
    """One LM-head product for all streams, and each stream's log-probs over the base's ids.

    Args:
        group: its streams.
        hidden_NTH: last hidden states of slots x streams rows.
        index: per row, the M positions that are wanted.
        coefficients_NJ: how the rows take the adapters' columns.

    Returns:
        Stream name -> [slots, M, V].
    """
    at_NM1 = torch.tensor(index, device=hidden_NTH.device)[..., None]
    wanted_NMH = hidden_NTH.gather(1, at_NM1.expand(-1, -1, hidden_NTH.shape[-1]))
    group.open_rows(coefficients_NJ)
    logits_NMV = head_logits(group.lm, wanted_NMH)
    logits_BSMV = logits_NMV.view(-1, len(group.streams), *logits_NMV.shape[1:])
    own = [
        to_base(fusion.log_softmax(logits_BSMV[:, i], s.vocabulary.own_size), s.vocabulary)
        for i, s in enumerate(group.streams)
    ]
    return {name: own[i] for name, i in group.index.items()}


def pending(
    group: Group,
    read: Sequence[int],
    sequences: Sequence[Sequence[int]],
    drafts: Sequence[int] = (),
) -> list[list[int]]:
    """Per stream, what lies behind the tokens it has read."""
    return [
        [*sequence[n:], *own_ids(drafts, stream.vocabulary)[max(n - len(sequence), 0) :]]
        for stream, sequence, n in zip(group.streams, sequences, read, strict=True)
    ]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    return next(i for i in range(length) if a[i] != b[i])


def own_ids(ids: Sequence[int], vocabulary: VocabularyMap) -> list[int]:
    """Base ids as the stream's own."""
    if not vocabulary.own_id:
        return list(ids)
    moved = dict(vocabulary.own_id)
    return [moved.get(i, i) for i in ids]


def to_base(logp_BV: Tensor, vocabulary: VocabularyMap) -> Tensor:
    """A stream's log-probs over its own ids, rearranged to the base's ids."""
    if vocabulary.is_identity:
        return logp_BV
    missing = vocabulary.size - logp_BV.shape[-1]
    if missing > 0:
        logp_base_BV = torch.nn.functional.pad(logp_BV, (0, missing), value=fusion.NEVER)
    else:
        logp_base_BV = logp_BV[..., : vocabulary.size].clone()
    for base_id, own_id in vocabulary.own_id:
        logp_base_BV[..., base_id] = logp_BV[..., own_id]
    return logp_base_BV
