"""Monte-Carlo tree search over tokens, with a bounded number of simulations for each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from trimtab.methods.protocol import (
    COUNT,
    EMPTY,
    NATURAL,
    WIDTH,
    Found,
    Method,
    Next,
    Partial,
    Search,
    Steps,
    Task,
    children,
    option,
    rated,
)
from trimtab.methods.transfer_q import completed


@dataclass(eq=False)
class Node:
    """A response in the tree.

    Attributes:
        response: so far.
        prior: of its last token, among the candidates.
        value: what whoever scores thinks of it.
        visits: simulations that went through it.
        total: of the values that they found.
        children: once it is expanded.
    """

    response: Partial
    prior: float = 1.0
    value: float = 0.0
    visits: int = 0
    total: float = 0.0
    children: list[Node] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Of the values found through it; its own before the first."""
        return self.total / self.visits if self.visits else self.value


@dataclass(frozen=True, kw_only=True)
class Mcts(Method):
    """PUCT search (after AlphaZero; for text PPO-MCTS, Liu et al., arXiv 2309.15028).

    No single paper: the variant here is ours. A simulation descends to a node without children by
    `Q + c · p(v) · √N / (1 + n)`, Q scaled to [0, 1] over the tree (MuZero, arXiv 1911.08265). Its
    value goes up the path, and it gets its k likeliest tokens as children, whose values (the reward
    of each unfinished response, or after some greedy tokens more) are found together. After so many
    simulations the most visited token comes, and its part of the tree stays.

    Attributes:
        simulations: for each token.
        candidates: k.
        exploration: c.
        rollout: greedy tokens before a value is asked for; 0 asks at once.
    """

    name = "mcts"
    guides_score = True

    simulations: int = option(8, COUNT)
    candidates: int = option(5, COUNT)
    exploration: float = option(1.0, WIDTH)
    rollout: int = option(0, NATURAL)

    def answer(self, task: Task) -> Search:
        """As `Method.answer`."""
        root = Node(EMPTY)
        while not root.response.ended:
            while root.visits < self.simulations or not root.children:
                yield from self._simulate(task, root)
            root = max(root.children, key=lambda child: (child.visits, child.mean))
        return Found(root.response, root.value)

    def _simulate(self, task: Task, root: Node) -> Steps[None]:
        path = [root]
        while path[-1].children:
            path.append(self._next(path[-1], root))
        leaf = path[-1]
        if not leaf.response.ended:
            yield from self._expand(task, leaf)
        for node in path:
            node.visits += 1
            node.total += leaf.value

    def _next(self, node: Node, root: Node) -> Node:
        """The child to look into."""
        means = [one.mean for one in _below(root)]
        low, width = min(means), max(max(means) - min(means), 1e-9)
        pull = self.exploration * math.sqrt(node.visits)

        def worth(child: Node) -> float:
            return (child.mean - low) / width + pull * child.prior / (1 + child.visits)

        return max(node.children, key=worth)

    def _expand(self, task: Task, leaf: Node) -> Steps[None]:
        [successors] = yield [Next(leaf.response)]
        some = children(task, leaf.response, successors, self.candidates)
        mass = sum(math.exp(logp) for _, logp in some)
        ones = [child for child, _ in some]
        if self.rollout:
            ones = yield from completed(ones, self.rollout)
        values = yield from rated(task, ones)
        leaf.children = [
            Node(child, math.exp(logp) / mass, value)
            for (child, logp), value in zip(some, values, strict=True)
        ]


def _below(root: Node) -> Iterator[Node]:
    for child in root.children:
        yield child
        yield from _below(child)
