"""One stream of one request: a row of its group."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.models.vocabulary import VocabularyMap


class StreamRow:
    """One stream of one request: what it reads, and how much of that its group has computed.

    Attributes:
        stream: its place in the group.
        sequence: its prompt and all that was generated, in its own ids.
        coefficients: how it takes the adapters' columns; what is computed depends on them.
        computed: tokens of the sequence, and of drafts behind it, that went through the model.
        long: whether it is read as a long row, where rotary positions depend on the length.
        place: where its group keeps what is computed: (length of the shelf, slot).
        registered: keys under which the beginnings of what is computed can be found again.
    """

    __slots__ = (
        "coefficients",
        "computed",
        "long",
        "place",
        "registered",
        "sequence",
        "stream",
        "vocabulary",
    )

    def __init__(
        self,
        stream: int,
        prompt: Sequence[int],
        vocabulary: VocabularyMap,
        coefficients: tuple[float, ...],
    ) -> None:
        self.stream, self.vocabulary, self.coefficients = stream, vocabulary, coefficients
        self.sequence = list(prompt)
        self.computed, self.long = 0, False
        self.place: tuple[int, int] | None = None
        self.registered: list[int] = []

    def pending(self, drafts: Sequence[int] = ()) -> list[int]:
        """What is not computed yet of the sequence, and of drafts (base ids) after it."""
        behind = own_ids(drafts, self.vocabulary) if drafts else ()
        return [
            *self.sequence[self.computed :],
            *behind[max(self.computed - len(self.sequence), 0) :],
        ]

    @property
    def unread(self) -> int:
        """Tokens of the sequence that are not computed yet."""
        return max(len(self.sequence) - self.computed, 0)


def own_ids(ids: Sequence[int], vocabulary: VocabularyMap) -> list[int]:
    """Base ids as the stream's own."""
    if not vocabulary.own_id:
        return list(ids)
    moved = dict(vocabulary.own_id)
    return [moved.get(i, i) for i in ids]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    return next(i for i in range(length) if a[i] != b[i])
