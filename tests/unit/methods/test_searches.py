"""Every search method against brute force or a closed form, in a language of 27 responses.

A test of sampling compares 2,500 answers with their distribution; it fails by chance once in a
thousand million runs (`toy_search.excess`).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from toy_search import LENGTH, TOKENS, WHOLE, Ids, Toy, answers, excess, normalised, play

from trimtab.methods.args import Args
from trimtab.methods.best_of_n import BestOfN
from trimtab.methods.cards import Cards
from trimtab.methods.cbs import ChunkBeamSearch
from trimtab.methods.controlled import BlockwiseDecoding, ControlledDecoding
from trimtab.methods.mcts import Mcts
from trimtab.methods.protocol import Draw, Partial
from trimtab.methods.rejection import Rejection
from trimtab.methods.transfer_q import TransferQ, transferred
from trimtab.methods.vas import Vas

COUNT = 2500
TABLES = range(6)


def highest(task: Toy) -> float:
    return max(task.reward(ids) for ids in WHOLE)


def test_the_yardstick_can_fail() -> None:
    """Samples of the base are not those of a base with the tokens turned round."""
    task = Toy()
    plain = answers(BestOfN(n=1), COUNT)
    assert excess(plain, normalised((ids, task.base(ids)) for ids in WHOLE)) < 1
    assert excess(plain, normalised((ids, task.base(ids[::-1])) for ids in WHOLE)) > 1
    assert excess(plain, {WHOLE[0]: 1.0}) == math.inf


class TestBestOfN:
    @pytest.mark.parametrize("n", [2, 5])
    def test_the_distribution_of_the_best(self, n: int) -> None:
        """P(y) = F(r(y))^n − F(r(y)−)^n with F the base's distribution of rewards."""
        task = Toy()
        below = {
            y: sum(task.base(z) for z in WHOLE if task.reward(z) < task.reward(y)) for y in WHOLE
        }
        expected = {y: (below[y] + task.base(y)) ** n - below[y] ** n for y in WHOLE}
        assert excess(answers(BestOfN(n=n), COUNT), expected) < 1

    def test_all_rewards_are_told(self) -> None:
        found = play(BestOfN(n=8), Toy(1))
        assert found.reward == max(found.details["rewards"])
        assert len(found.details["rewards"]) == 8

    def test_a_guide_scores(self) -> None:
        task = Toy(2, by_guides=True)
        found = play(BestOfN(n=6), task)
        drawn = [task.reply(Draw(number=i)).ids for i in range(6)]
        assert found.response.ids == max(drawn, key=task.gain)
        assert found.reward == pytest.approx(task.gain(found.response.ids))
        assert task.asked["Rate"] == 0


class TestRejection:
    def test_accepted_answers_are_the_optimum(self) -> None:
        """π_b(y) exp(r(y) / β) / Z, with a threshold that no reward exceeds."""
        task, beta = Toy(), 0.8
        method = Rejection(beta=beta, threshold=highest(task), tries=400)
        expected = normalised((y, task.base(y) * math.exp(task.reward(y) / beta)) for y in WHOLE)
        assert excess(answers(method, COUNT), expected) < 1

    @pytest.mark.parametrize("at_once", [1, 2, 7])
    def test_how_many_at_once_changes_nothing(self, at_once: int) -> None:
        one = Rejection(threshold=2.0, tries=9, at_once=3)
        other = Rejection(threshold=2.0, tries=9, at_once=at_once)
        assert answers(one, 50) == answers(other, 50)

    def test_the_best_is_kept_when_none_is_accepted(self) -> None:
        task = Toy(3)
        found = play(Rejection(threshold=1e5, beta=0.1, tries=6), task)
        drawn = [task.reply(Draw(number=i)).ids for i in range(6)]
        assert found.response.ids == max(drawn, key=task.reward)
        assert found.details == {"accepted": False, "tries": 6}


class TestArgs:
    @pytest.mark.parametrize("candidates", [1, 2, 3])
    @pytest.mark.parametrize("table", TABLES)
    def test_greedy(self, table: int, candidates: int) -> None:
        task, ids = Toy(table=table, temperature=0), ()
        for _ in range(LENGTH):
            some = sorted(range(TOKENS), key=lambda v: -float(task.logp[ids][v]))[:candidates]
            ids = (
                *ids,
                max(some, key=lambda v: float(task.logp[ids][v]) + 1.5 * task.reward((*ids, v))),
            )
        found = play(Args(candidates=candidates), task)
        assert found.response.ids == ids
        assert found.reward == task.reward(ids)

    def test_stochastic(self) -> None:
        """Token by token softmax((log π_b + w r) / T) over the candidates."""
        task, temperature = Toy(), 0.7

        def chance(ids: Ids) -> float:
            found = 1.0
            for t in range(LENGTH):
                some = sorted(range(TOKENS), key=lambda v: -float(task.logp[ids[:t]][v]))[:2]
                weigh = {
                    v: math.exp(
                        (float(task.logp[ids[:t]][v]) + 1.5 * task.reward((*ids[:t], v)))
                        / temperature
                    )
                    for v in some
                }
                found *= weigh.get(ids[t], 0.0) / sum(weigh.values())
            return found

        drawn = answers(Args(candidates=2), COUNT, temperature=temperature)
        assert excess(drawn, {ids: chance(ids) for ids in WHOLE}) < 1


class TestTransferQ:
    @pytest.mark.parametrize("rollout", [1, 2, 3])
    @pytest.mark.parametrize("table", TABLES)
    def test_greedy(self, table: int, rollout: int) -> None:
        """Each candidate is completed greedily before it is judged."""
        task, ids = Toy(table=table, temperature=0), ()

        def completed(ids: Ids) -> Ids:
            for _ in range(min(rollout, LENGTH - len(ids))):
                ids = (*ids, int(task.logp[ids].argmax()))
            return ids

        for _ in range(LENGTH):
            scores = [
                float(task.logp[ids][v]) + 2.0 * task.reward(completed((*ids, v)))
                for v in range(TOKENS)
            ]
            ids = (*ids, max(range(TOKENS), key=scores.__getitem__))
        assert play(TransferQ(weight=2.0, rollout=rollout), task).response.ids == ids

    def test_the_indirect_form(self) -> None:
        """exp((r − r_bl) / 2) r, at numbers worked out by hand: e^.5 · 3 and e^-1 · 2."""
        assert transferred(3.0, 2.0) == pytest.approx(4.946164)
        assert transferred(2.0, 4.0) == pytest.approx(0.735759)
        assert math.isfinite(transferred(1e6, 0.0))

    def test_it_asks_both_models(self) -> None:
        task = Toy(temperature=0)
        task.baseline = True
        play(TransferQ(), task)
        assert task.asked["Rate"] == 2 * LENGTH


class TestCards:
    def test_segments_of_one_token(self) -> None:
        """Each token is accepted with min(1, exp((r − τ) / β)), τ by the response's length."""
        task, beta, top = Toy(), 0.6, 1.0
        method = Cards(threshold=top, beta=beta, entropy=1e-6, shortest=1, longest=1, tries=300)
        start = 0.5 * task.reward(()) + 0.5 * top

        def chance(ids: Ids) -> float:
            found = 1.0
            for t in range(LENGTH):
                threshold = min(start + (t + 1) / LENGTH * (top - start), top)
                accepted = [
                    math.exp(float(task.logp[ids[:t]][v]))
                    * min(1.0, math.exp((task.reward((*ids[:t], v)) - threshold) / beta))
                    for v in range(TOKENS)
                ]
                found *= accepted[ids[t]] / sum(accepted)
            return found

        assert excess(answers(method, COUNT), {ids: chance(ids) for ids in WHOLE}) < 1

    def test_a_segment_ends_where_the_base_is_unsure(self) -> None:
        """With the threshold between the entropies of two places only one of them ends it."""
        task = Toy()
        [likely] = answers(BestOfN(n=1), 1, temperature=0.0)
        entropies = [
            float(-(task.logp[likely[:t]].exp() * task.logp[likely[:t]]).sum()) for t in (1, 2)
        ]
        low, high = sorted(entropies)
        assert high - low > 0.01
        drawn = task.reply(Draw(Partial(), 3, entropy=(low + high) / 2, greedy=True))
        assert len(drawn.ids) == 1 + entropies.index(high)

    @pytest.mark.parametrize("at_once", [2, 5, 40])
    def test_how_many_at_once_changes_nothing(self, at_once: int) -> None:
        options: dict[str, Any] = {"threshold": 1.5, "entropy": 1e-6, "shortest": 1, "longest": 2}
        one, other = Cards(**options), Cards(**options, at_once=at_once)
        for seed in range(30):
            assert play(one, Toy(seed)).response == play(other, Toy(seed)).response

    def test_the_best_is_kept_after_so_many_rejections(self) -> None:
        """Nothing is accepted: of each segment's 5 rejected ones and a last one the best stays."""
        task = Toy(4)
        found = play(Cards(threshold=1e5, beta=0.1, entropy=9.0, shortest=1, tries=5), task)
        drawn = [task.reply(Draw(number=i)).ids for i in range(6)]
        assert found.response.ids == max(drawn, key=task.reward)
        assert found.details == {"segments_drawn": 6}


class TestValues:
    """VAS and controlled decoding."""

    def test_an_exact_value_gives_the_optimum(self) -> None:
        """With V(x) = log E_b[exp r | x] and λ = 1 controlled decoding draws from π_b exp(r) / Z,
        token by token (the optimum of KL-regularised reward)."""
        table = Toy()

        def value(ids: Ids) -> float:
            endings = itertools.product(range(TOKENS), repeat=LENGTH - len(ids))
            whole = [(*ids, *ending) for ending in endings]
            total = sum(table.base(y) * math.exp(table.reward(y)) for y in whole)
            return math.log(total / table.base(ids))

        expected = normalised((y, table.base(y) * math.exp(table.reward(y))) for y in WHOLE)
        for method in (ControlledDecoding(), Vas()):
            assert excess(answers(method, COUNT, reward=value), expected) < 1

    def test_vas_leaves_the_others_at_the_mean(self) -> None:
        """Of two candidates: the third token keeps its log-prob, the two are tilted about 0."""
        task = Toy()

        def chance(ids: Ids) -> float:
            found = 1.0
            for t in range(LENGTH):
                logp = [float(x) for x in task.logp[ids[:t]]]
                some = sorted(range(TOKENS), key=lambda v: -logp[v])[:2]
                mean = sum(task.reward((*ids[:t], v)) for v in some) / 2
                for v in some:
                    logp[v] += 0.9 * (task.reward((*ids[:t], v)) - mean)
                found *= math.exp(logp[ids[t]]) / sum(map(math.exp, logp))
            return found

        drawn = answers(Vas(weight=0.9, candidates=2), COUNT)
        assert excess(drawn, {ids: chance(ids) for ids in WHOLE}) < 1

    def test_blocks_as_long_as_the_response_are_best_of_k(self) -> None:
        for seed in range(20):
            blocks = play(BlockwiseDecoding(samples=5, block=LENGTH), Toy(seed))
            assert blocks.response == play(BestOfN(n=5), Toy(seed)).response

    @pytest.mark.parametrize("seed", range(8))
    def test_block_after_block(self, seed: int) -> None:
        task, best = Toy(seed), Partial()
        for _ in range(2):
            drawn = [task.reply(Draw(best, 2, number=i)) for i in range(3)]
            best = max(drawn, key=lambda one: task.reward(one.ids))
        assert play(BlockwiseDecoding(samples=3, block=2), task).response == best


class TestChunkBeamSearch:
    def test_one_beam_of_one_sample_is_the_base(self) -> None:
        assert answers(ChunkBeamSearch(beams=1, samples=1, chunk=1), 200) == answers(
            BestOfN(n=1), 200
        )

    def test_one_chunk_is_best_of_all(self) -> None:
        for seed in range(20):
            found = play(ChunkBeamSearch(beams=2, samples=3, chunk=LENGTH), Toy(seed))
            assert found.response == play(BestOfN(n=6), Toy(seed)).response

    @pytest.mark.parametrize("by_guides", [False, True])
    @pytest.mark.parametrize("seed", range(8))
    def test_the_best_few_of_every_chunk(self, seed: int, by_guides: bool) -> None:
        task = Toy(seed, by_guides=by_guides)
        score = task.gain if by_guides else task.reward
        beams = [Partial()] * 2
        for _ in range(2):
            drawn = [
                task.reply(Draw(beam, 2, number=2 * b + k))
                for b, beam in enumerate(beams)
                for k in range(2)
            ]
            beams = sorted(drawn, key=lambda one: -score(one.ids))[:2]
        found = play(ChunkBeamSearch(beams=2, samples=2, chunk=2), task)
        assert found.response.ids == beams[0].ids
        assert found.reward == pytest.approx(score(beams[0].ids))


class TestMcts:
    @pytest.mark.parametrize("table", TABLES)
    def test_a_guide(self, table: int) -> None:
        """A guide's rewards add up: with enough simulations the best response is found."""
        task = Toy(table=table, by_guides=True)
        found = play(Mcts(simulations=2000, candidates=TOKENS), task)
        assert found.response.ids == max(WHOLE, key=task.gain)

    @pytest.mark.parametrize("table", TABLES)
    def test_an_exact_value(self, table: int) -> None:
        """Where every beginning is worth its best ending few simulations are enough."""
        rewards = Toy(table=table)

        def value(ids: Ids) -> float:
            return max(rewards.reward(y) for y in WHOLE if y[: len(ids)] == ids)

        task = Toy(table=table, reward=value)
        found = play(Mcts(simulations=60, candidates=TOKENS, exploration=0.1), task)
        assert found.response.ids == max(WHOLE, key=value)

    @pytest.mark.parametrize("table", TABLES)
    def test_only_whole_responses_count(self, table: int) -> None:
        """Unfinished ones are worth 0: the search has to look for itself. It ends at one of the two
        best of 27, though the best may stand in a branch that the base finds unlikely."""
        rewards = Toy(table=table)
        task = Toy(
            table=table, reward=lambda ids: rewards.reward(ids) if len(ids) == LENGTH else 0.0
        )
        found = play(Mcts(simulations=2000, candidates=TOKENS), task)
        assert found.response.ids in sorted(WHOLE, key=task.reward)[-2:]

    def test_one_simulation_takes_the_likeliest(self) -> None:
        """Without a visit to tell them apart the children's values decide."""
        task, ids = Toy(), ()
        for _ in range(LENGTH):
            ids = (*ids, max(range(TOKENS), key=lambda v: task.reward((*ids, v))))
        assert play(Mcts(simulations=1, candidates=TOKENS), task).response.ids == ids

    def test_the_budget_holds(self) -> None:
        """At most so many expansions for a token; a kept part of the tree counts."""
        task = Toy()
        play(Mcts(simulations=4, candidates=2), task)
        assert task.asked["Next"] <= 4 * LENGTH

    def test_a_rollout_looks_further(self) -> None:
        """With two tokens more every first token is judged by a whole response."""
        task = Toy()
        whole = {}
        for v in range(TOKENS):
            ids: Ids = (v,)
            while len(ids) < LENGTH:
                ids = (*ids, int(task.logp[ids].argmax()))
            whole[v] = task.reward(ids)
        found = play(Mcts(simulations=1, candidates=TOKENS, rollout=2), task)
        assert found.response.ids[0] == max(whole, key=whole.__getitem__)
