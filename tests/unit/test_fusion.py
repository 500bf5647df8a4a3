"""The fusion rules on numbers worked out by hand. The maths stands in each docstring."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from scipy import stats

from trimtab import fusion

NEVER = float("-inf")
LAST = math.nextafter(1.0, 0.0)  # the largest number a draw can be decided by


def logp(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows).log()


def probs(logp_BV: torch.Tensor) -> list[list[float]]:
    return [pytest.approx(row, abs=1e-6) for row in logp_BV.exp().tolist()]


def shape(
    logp_BV: torch.Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> torch.Tensor:
    rows = len(logp_BV)
    return fusion.shape(
        logp_BV,
        torch.full((rows,), temperature),
        torch.full((rows,), top_k),
        torch.full((rows,), top_p),
        torch.full((rows,), min_p),
    )


BASE = (1 / 2, 1 / 4, 1 / 4)
ARM = (1 / 4, 1 / 4, 1 / 2)


class TestContrast:
    def test_zeros(self) -> None:
        """Tuned (½, ½, 0, 0) against untuned (¼, 0, ¾, 0): log 2; nothing to compare with; never;
        nothing again."""
        tuned, untuned = logp((1 / 2, 1 / 2, 0, 0)), logp((1 / 4, 0, 3 / 4, 0))
        found = fusion.contrast(tuned, untuned)
        assert found.tolist() == [[pytest.approx(math.log(2)), 0.0, NEVER, 0.0]]

    @pytest.mark.parametrize(("weight", "expected"), [(1.0, [2, 1, 0]), (-1.0, [1 / 2, 1, 1])])
    def test_signs(self, weight: float, expected: list[float]) -> None:
        """A base of thirds: times 2, 1 and 0 at w = 1; what the tuned model cannot give is left
        alone at w = −1."""
        reward = fusion.contrast(logp((1 / 2, 1 / 2, 0)), logp((1 / 4, 0, 3 / 4)))
        thirds = logp((1 / 3, 1 / 3, 1 / 3))
        found = fusion.fuse(thirds, reward[None], torch.tensor([[weight]]))
        total = sum(expected)
        assert probs(found) == [[share / total for share in expected]]

    def test_a_broken_stream_is_seen(self) -> None:
        for one, other in ((math.nan, -1.0), (-1.0, math.nan)):
            assert fusion.contrast(torch.tensor([[one]]), torch.tensor([[other]])).isnan().all()


class TestLogSoftmax:
    def test_cuts_before_the_softmax(self) -> None:
        """Logits ln 1, ln 2, ln 5 and a padding of 50: over three tokens p = (1, 2, 5) / 8.

        Cut after the softmax, the padding would have taken all of the mass.
        """
        logits = torch.tensor([[math.log(1), math.log(2), math.log(5), 50.0]])
        assert probs(fusion.log_softmax(logits, 3)) == [[1 / 8, 2 / 8, 5 / 8]]

    def test_whole_without_a_size(self) -> None:
        """Equal logits over four tokens: a quarter each."""
        assert probs(fusion.log_softmax(torch.full((1, 4), 7.0))) == [[0.25] * 4]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_read_in_float32(self, dtype: torch.dtype) -> None:
        """1000 equal logits: every log-prob is −ln 1000 = −6.907755; bfloat16 knows −6.90625."""
        found = fusion.log_softmax(torch.ones(1, 1000, dtype=dtype))
        assert found.dtype == torch.float32
        assert found[0, 0].item() == pytest.approx(-math.log(1000), abs=1e-5)


class TestFuse:
    def test_strength_one(self) -> None:
        """(1/2·1/4, 1/4·1/4, 1/4·1/2) = (2, 1, 2)/16, Z = 5/16: (2, 1, 2)/5."""
        fused = fusion.fuse(logp(BASE), logp(ARM)[None], torch.tensor([[1.0]]))
        assert probs(fused) == [[2 / 5, 1 / 5, 2 / 5]]

    def test_strength_two(self) -> None:
        """ARM² = (1, 1, 4)/16: (1/2·1, 1/4·1, 1/4·4)/16 = (2, 1, 4)/64, so (2, 1, 4)/7."""
        fused = fusion.fuse(logp(BASE), logp(ARM)[None], torch.tensor([[2.0]]))
        assert probs(fused) == [[2 / 7, 1 / 7, 4 / 7]]

    def test_two_arms(self) -> None:
        """A second ARM (1, 4, 4)/9 at weight ½ multiplies by (1, 2, 2)/3.

        (2, 1, 2)/16 · (1, 2, 2)/3 = (2, 2, 4)/48, so (1, 1, 2)/4.
        """
        arms = torch.stack([logp(ARM), logp((1 / 9, 4 / 9, 4 / 9))])
        assert probs(fusion.fuse(logp(BASE), arms, torch.tensor([[1.0, 0.5]]))) == [
            [1 / 4, 1 / 4, 1 / 2]
        ]

    def test_each_row_has_its_own_weights(self) -> None:
        """The same row at weights 0, 1 and 2 in one batch: the three answers above."""
        three = logp(BASE, BASE, BASE)
        arm = logp(ARM, ARM, ARM)[None]
        fused = fusion.fuse(three, arm, torch.tensor([[0.0], [1.0], [2.0]]))
        assert [list(BASE), [2 / 5, 1 / 5, 2 / 5], [2 / 7, 1 / 7, 4 / 7]] == probs(fused)
        assert torch.equal(fused[0], three[0])

    def test_no_arm_is_the_base(self) -> None:
        base = logp(BASE)
        assert torch.equal(fusion.fuse(base, torch.zeros(0, 1, 3), torch.zeros(1, 0)), base)

    def test_an_impossible_token(self) -> None:
        """Base (0, 1/2, 1/2) with the ARM: (0, 1/8, 1/4), so (0, 1, 2)/3."""
        fused = fusion.fuse(logp((0, 1 / 2, 1 / 2)), logp(ARM)[None], torch.tensor([[1.0]]))
        assert probs(fused) == [[0, 1 / 3, 2 / 3]]
        assert fused[0, 0] == NEVER

    def test_an_arm_of_weight_zero_cannot_forbid(self) -> None:
        """0 · (−inf) is NaN; an ARM that does not count leaves (2, 1, 2)/5 alone."""
        arms = torch.stack([logp(ARM), logp((0, 1 / 2, 1 / 2))])
        fused = fusion.fuse(logp(BASE), arms, torch.tensor([[1.0, 0.0]]))
        assert probs(fused) == [[2 / 5, 1 / 5, 2 / 5]]

    def test_no_token_in_common_is_the_base(self) -> None:
        """The ARM allows only what the base forbids; with an even second ARM it is no better."""
        base, arm, even = (0.25, 0.75, 0.0), (0.0, 0.0, 1.0), (1 / 3, 1 / 3, 1 / 3)
        fused = fusion.fuse(logp(base, base), logp(arm, arm)[None], torch.tensor([[1.0], [0.0]]))
        assert probs(fused) == [list(base)] * 2
        two = fusion.fuse(logp(base), torch.stack([logp(arm), logp(even)]), torch.ones(1, 2))
        assert probs(two) == [list(base)]

    def test_each_row_has_its_own_support(self) -> None:
        """Row 1 shares one token with its ARM, which takes all; row 2 shares none."""
        fused = fusion.fuse(
            logp((0.5, 0.5, 0.0), (0.5, 0.5, 0.0)),
            logp((0.2, 0.0, 0.8), (0.0, 0.0, 1.0))[None],
            torch.ones(2, 1),
        )
        assert probs(fused) == [[1, 0, 0], [0.5, 0.5, 0]]

    def test_a_negative_weight(self) -> None:
        """p = base / ARM: (½, ¼, ¼) / (¼, ½, ·) = (2, ½, ¼) / 2.75: π_i = 0 has no say."""
        fused = fusion.fuse(logp(BASE), logp((0.25, 0.5, 0.0))[None], torch.tensor([[-1.0]]))
        assert probs(fused) == [[2 / 2.75, 0.5 / 2.75, 0.25 / 2.75]]
        none = fusion.fuse(logp(BASE), logp((0.0, 0.0, 0.0))[None], torch.tensor([[-1.0]]))
        assert probs(none) == [list(BASE)]


class TestShape:
    def test_cold(self) -> None:
        """T = ½ squares: (4, 1, 1)/16, so (4, 1, 1)/6."""
        assert probs(shape(logp(BASE), temperature=0.5)) == [[2 / 3, 1 / 6, 1 / 6]]

    def test_hot(self) -> None:
        """T = 2 takes roots of (4, 4, 1)/9: (2, 2, 1)/3, so (2, 2, 1)/5."""
        assert probs(shape(logp((4 / 9, 4 / 9, 1 / 9)), temperature=2.0)) == [[0.4, 0.4, 0.2]]

    def test_greedy_rows_pass_through(self) -> None:
        """A row at temperature 0 is not divided by 0."""
        assert [list(BASE)] == probs(shape(logp(BASE), temperature=0.0))

    def test_top_k(self) -> None:
        """(.2, .5, .3), k = 2: .2 goes, .5 and .3 over .8."""
        assert probs(shape(logp((0.2, 0.5, 0.3)), top_k=2)) == [[0, 0.625, 0.375]]

    def test_top_k_beyond_the_vocabulary(self) -> None:
        assert [list(BASE)] == probs(shape(logp(BASE), top_k=99))

    def test_top_p_keeps_the_token_that_crosses(self) -> None:
        """.5 is short of .6, .5 + .3 is not: both stay, over .8."""
        assert probs(shape(logp((0.2, 0.5, 0.3)), top_p=0.6)) == [[0, 0.625, 0.375]]

    @pytest.mark.parametrize(
        ("top_p", "kept"), [(0.4999, 1), (0.5001, 2), (0.7499, 2), (0.8749, 3)]
    )
    def test_top_p_just_met_keeps_no_more(self, top_p: float, kept: int) -> None:
        """(1/2, 1/4, 1/8, 1/8): the smallest sets of .499, .501, .749, .874 have 1, 2, 2, 3.

        Not of ½ itself: whether that is met is up to the last bit of an exponential.
        """
        found = shape(logp((1 / 2, 1 / 4, 1 / 8, 1 / 8)), top_p=top_p)
        assert int(found.isfinite().sum()) == kept

    def test_a_tiny_top_p_keeps_the_likeliest(self) -> None:
        assert probs(shape(logp((0.2, 0.5, 0.3)), top_p=1e-9)) == [[0, 1, 0]]

    def test_min_p(self) -> None:
        """Half of the largest (.5) is .25: .2 goes."""
        assert probs(shape(logp((0.2, 0.5, 0.3)), min_p=0.5)) == [[0, 0.625, 0.375]]

    def test_top_k_comes_before_top_p(self) -> None:
        """(.4, .3, .2, .1), k = 2 gives (4/7, 3/7); 4/7 > .55, so p = .55 leaves one token.

        Were p taken of the whole distribution, .4 < .55 would leave two.
        """
        assert probs(shape(logp((0.4, 0.3, 0.2, 0.1)), top_k=2, top_p=0.55)) == [[1, 0, 0, 0]]

    def test_temperature_comes_before_top_p(self) -> None:
        """T = ½ turns (½, ¼, ¼) into (2/3, 1/6, 1/6): p = .6 leaves one token, untempered two."""
        assert probs(shape(logp(BASE), temperature=0.5, top_p=0.6)) == [[1, 0, 0]]

    def test_each_row_has_its_own_settings(self) -> None:
        """Six copies of (.2, .5, .3), each with another filter, answered in one call."""
        rows = logp(*[(0.2, 0.5, 0.3)] * 6)
        found = fusion.shape(
            rows,
            torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
            torch.tensor([0, 2, 0, 0, 1, 1]),
            torch.tensor([1.0, 1.0, 0.4, 1.0, 1.0, 1.0]),
            torch.tensor([0.0, 0.0, 0.0, 0.5, 0.0, 0.0]),
        )
        only = [0, 1, 0]
        two = [0, 0.625, 0.375]
        assert [[0.2, 0.5, 0.3], two, only, two, only, only] == probs(found)

    def test_impossible_tokens_stay_so(self) -> None:
        found = shape(logp((0, 0.5, 0.5)), temperature=3.0, top_k=3, top_p=0.999, min_p=0.0)
        assert probs(found) == [[0, 0.5, 0.5]]


class TestUniform:
    def test_published_numbers(self) -> None:
        """The first outputs of SplitMix64 from state 0, as published (53 high bits)."""
        published = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
        assert [fusion.uniform(0, i) for i in range(3)] == [(x >> 11) / 2**53 for x in published]

    def test_between_zero_and_one_and_repeatable(self) -> None:
        seeds = (0, 1, -1, 2**63, 2**64 - 1, 2**70)
        first = [fusion.uniform(s, i) for s in seeds for i in range(200)]
        assert first == [fusion.uniform(s, i) for s in seeds for i in range(200)]
        assert all(0 <= u < 1 for u in first)

    @pytest.mark.parametrize("axis", ["positions of one seed", "neighbouring seeds"])
    def test_uniform(self, axis: str) -> None:
        """10,000 numbers in 20 bins, and neighbours in 5 × 5. A uniform source fails 1 in 10⁶."""
        along_seeds = axis == "neighbouring seeds"
        numbers = [
            fusion.uniform(i, 0) if along_seeds else fusion.uniform(7, i) for i in range(10_000)
        ]
        bins = Counter(int(20 * u) for u in numbers)
        assert stats.chisquare([bins[i] for i in range(20)]).pvalue > 1e-6
        pairs = Counter(
            (int(5 * u), int(5 * v)) for u, v in zip(numbers[::2], numbers[1::2], strict=True)
        )
        assert stats.chisquare([pairs[i, j] for i in range(5) for j in range(5)]).pvalue > 1e-6


class TestDraw:
    def test_shares_are_the_probabilities(self) -> None:
        """u = .0005, .0015, … .9995 cuts [0, 1) into thousandths: .2, .5, .3 get 200, 500, 300."""
        u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        tokens = fusion.draw(logp((0.2, 0.5, 0.3)).expand(1000, 3), u)
        assert tokens.bincount(minlength=3).tolist() == [200, 500, 300]
        assert tokens.dtype == torch.int64

    @pytest.mark.parametrize(("u", "token"), [(0.0, 1), (0.4999, 1), (0.5, 3), (LAST, 3)])
    def test_zero_probability_is_never_drawn(self, u: float, token: int) -> None:
        """(0, ½, 0, ½, 0): the CDF's steps are at .5 and 1, also at the very ends of [0, 1)."""
        found = fusion.draw(logp((0, 0.5, 0, 0.5, 0)), torch.tensor([u], dtype=torch.float64))
        assert found.tolist() == [token]

    @pytest.mark.parametrize("size", [7, 1000, 50_000])
    def test_the_last_number_draws_the_last_possible_token(self, size: int) -> None:
        """Rounding in a long CDF must not run over its end into tokens that cannot occur."""
        logits = torch.randn(1, size, generator=torch.Generator().manual_seed(size))
        logits[0, -3:] = NEVER
        u = torch.tensor([LAST], dtype=torch.float64)
        assert fusion.draw(logits.log_softmax(-1), u).item() == size - 4

    def test_the_only_token(self) -> None:
        only = logp((0, 1, 0), (0, 1, 0))
        assert fusion.draw(only, torch.tensor([0.0, LAST], dtype=torch.float64)).tolist() == [1, 1]


class TestChoose:
    def test_greedy_and_sampled_rows_in_one_batch(self) -> None:
        """u = .1 falls to token 0 of (.2, .5, .3); the greedy row takes token 1."""
        rows = logp((0.2, 0.5, 0.3), (0.2, 0.5, 0.3))
        u = torch.tensor([0.1, 0.1], dtype=torch.float64)
        assert fusion.choose(rows, torch.tensor([0.0, 1.0]), u).tolist() == [1, 0]
        assert fusion.choose(rows, torch.tensor([0.0, 0.0]), u).tolist() == [1, 1]


class TestMeanUnder:
    def test_is_the_mean_of_the_streams_log_probs_under_the_base(self) -> None:
        base = torch.tensor([[0.5, 0.25, 0.25]]).log()
        arm = torch.tensor([[0.25, 0.5, 0.25]]).log()
        [mean] = fusion.mean_under(arm, base).tolist()
        assert mean == pytest.approx(0.75 * math.log(0.25) + 0.25 * math.log(0.5))

    def test_what_one_of_them_cannot_give_has_no_part(self) -> None:
        base = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log()
        arm = torch.tensor([[0.0, 0.5, 0.25, 0.25]]).log()
        [mean] = fusion.mean_under(arm, base).tolist()
        assert mean == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.25))
        apart = fusion.mean_under(
            torch.tensor([[0.0, 1.0]]).log(), torch.tensor([[1.0, 0.0]]).log()
        )
        assert apart.tolist() == [0.0]
