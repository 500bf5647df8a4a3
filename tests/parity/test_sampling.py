"""Sampled tokens follow the specification's exact distribution: chi-square with stated odds."""

from __future__ import annotations

import itertools

import pytest
import torch
from oracle import engine_of, specified_logp
from scipy import stats
from torch import Tensor

from trimtab import fusion
from trimtab.engines.sampling import Sampling
from trimtab.engines.types import Request

ODDS = 1e-6  # a right engine fails one of these tests once in a million choices of the seed
V = 6
SETTINGS = {
    "plain": Sampling(max_new_tokens=2),
    "hot": Sampling(max_new_tokens=2, temperature=2.0),
    "filtered": Sampling(max_new_tokens=2, temperature=1.3, top_k=5, top_p=0.9, min_p=0.02),
}


def exact(engine: object, request: Request) -> Tensor:
    """Probability of every first pair of tokens, [V, V], from the uncached specification."""

    def next_probs(generated: list[int]) -> Tensor:
        s = request.sampling
        logp = specified_logp(engine, request, generated)[None]  # type: ignore[arg-type]
        row = [torch.tensor([float(x)]) for x in (s.temperature, s.top_p, s.min_p)]
        shaped = fusion.shape(logp, row[0], torch.tensor([s.top_k]), row[1], row[2])
        return shaped[0].double().exp()

    first = next_probs([])
    return torch.stack([p * next_probs([token]) for token, p in enumerate(first)])


def agrees(observed: Tensor, probabilities: Tensor) -> bool:
    """Pearson's chi-square; cells expected fewer than five times are counted together."""
    n = int(observed.sum())
    assert not bool(observed[probabilities == 0].any())
    expected = probabilities.flatten() * n / probabilities.sum()
    rare = expected < 5
    cells = [
        (float(o), float(e))
        for o, e in zip(observed.flatten()[~rare], expected[~rare], strict=True)
    ]
    if float(expected[rare].sum()) >= 5:
        cells.append((float(observed.flatten()[rare].sum()), float(expected[rare].sum())))
    found, wanted = zip(*cells, strict=True)
    scale = sum(found) / sum(wanted)
    return bool(stats.chisquare(found, [scale * e for e in wanted]).pvalue > ODDS)


@pytest.mark.parametrize("name", SETTINGS)
def test_distribution(name: str) -> None:
    """3000 rows of two tokens under two ARMs, in batches of 500 with every seed once."""
    engine = engine_of([11, 12, 13], size=V)
    preference, n = {"a": 0.3, "b": 0.7}, 3000
    request = Request("w1 w2 w3", preference, 1.5, SETTINGS[name])
    answers = engine.generate(
        [Request("w1 w2 w3", preference, 1.5, SETTINGS[name].but(seed=seed)) for seed in range(n)],
        batch_size=500,
    )
    observed = torch.zeros(V, V)
    for answer in answers:
        one, two = answer.token_ids
        observed[one, two] += 1
    joint = exact(engine, request)
    assert agrees(observed.sum(1), joint.sum(1))
    assert agrees(observed, joint)


def test_the_test_can_fail() -> None:
    """The same counts against a distribution at another strength are refused."""
    engine = engine_of([11, 12, 13], size=V)
    sampling = SETTINGS["plain"]
    answers = engine.generate(["w1 w2 w3"] * 3000, strength=1.5, batch_size=500, max_new_tokens=2)
    observed = torch.zeros(V, V)
    for one, two in (answer.token_ids for answer in answers):
        observed[one, two] += 1
    wrong = exact(engine, Request("w1 w2 w3", None, 1.2, sampling))
    right = exact(engine, Request("w1 w2 w3", None, 1.5, sampling))
    assert agrees(observed, right)
    assert not agrees(observed, wrong)


def test_greedy_is_the_mode() -> None:
    """Temperature 0 says the likeliest first token for each of many prompts, in one batch.

    Word 0 stays out: it is the padding, whose embedding is zero, so all tokens tie after it.
    """
    engine = engine_of([11, 12, 13], size=V)
    prompts = [f"w{i} w{j}" for i, j in itertools.product(range(1, V), repeat=2)]
    answers = engine.generate(prompts, temperature=0, max_new_tokens=1, batch_size=25)
    modes = [int(exact(engine, Request(p)).sum(1).argmax()) for p in prompts]
    assert [answer.token_ids[0] for answer in answers] == modes
    assert len(set(modes)) > 2
