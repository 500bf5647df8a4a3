"""Chunk-level beam search: the best few of many continuations, chunk after chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trimtab.methods.protocol import COUNT, EMPTY, Draw, Found, Method, Search, Task, option, rated


@dataclass(frozen=True, kw_only=True)
class ChunkBeamSearch(Method):
    """CBS, weak-to-strong search (Zhou et al., arXiv 2405.19262, algorithm 1).

    W beams have K continuations of L tokens each; the W best of all stay. The score is
    `log π_tuned − log π_untuned` of a small pair (`--contrast NAME=TUNED:UNTUNED`), the reward of
    an ARM, or a reward model's. The first step has W · K continuations of the prompt. Beams that
    are over stay among the others; the search ends when the W best are.

    Attributes:
        beams: W.
        samples: K.
        chunk: L, tokens.
    """

    name = "cbs"
    defaults: ClassVar = {"temperature": 0.7, "top_k": 50}
    guides_score = True

    beams: int = option(4, COUNT)
    samples: int = option(4, COUNT)
    chunk: int = option(10, COUNT)

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        beams = [(EMPTY, 0.0)] * self.beams
        while not all(beam.ended for beam, _ in beams):
            over = [(beam, score) for beam, score in beams if beam.ended]
            longer = yield [
                Draw(beam, self.chunk, number=b * self.samples + k)
                for b, (beam, _) in enumerate(beams)
                if not beam.ended
                for k in range(self.samples)
            ]
            scores = yield from rated(task, longer)
            every = [*over, *zip(longer, scores, strict=True)]
            beams = sorted(every, key=lambda one: -one[1])[: self.beams]
        return Found(*beams[0])
