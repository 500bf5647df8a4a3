"""Best-of-n: the response with the highest reward of n samples."""

from __future__ import annotations

from dataclasses import dataclass

from trimtab.methods.protocol import COUNT, Draw, Found, Method, Search, Task, option, rated


@dataclass(frozen=True, kw_only=True)
class BestOfN(Method):
    """Best-of-n (Stiennon et al., arXiv 2009.01325; Nakano et al., arXiv 2112.09332).

    `argmax_i r(x, y_i)` over n samples y_i. They are those that `generate` gives with `n` answers
    and the same seed. The KL divergence from the base is at most log n − (n − 1) / n (Beirami et
    al., arXiv 2401.01879). `details["rewards"]` has all rewards, for the best of fewer.

    Attributes:
        n: samples.
    """

    name = "best-of-n"
    guides_score = True

    n: int = option(16, COUNT)

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        drawn = yield [Draw(number=i) for i in range(self.n)]
        rewards = yield from rated(task, drawn)
        best = max(range(self.n), key=rewards.__getitem__)
        return Found(drawn[best], rewards[best], {"rewards": rewards})
