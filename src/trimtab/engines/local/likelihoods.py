"""Responses that are given: nothing is drawn, every token is looked at in its place.

A row with a given response reads it as it would verify drafts, a piece at a time, and keeps them
all. N places that are looked at, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from trimtab.engines.local.choosing import Fused
from trimtab.engines.local.drawing import Drawn
from trimtab.engines.local.rows import Row, RowPlan, Seen
from trimtab.engines.types import Likelihood
from trimtab.errors import ConfigError

LOGITS = 2**24
"""Log-probs of one stream in one step, at most: 64 MiB."""


def given_responses(
    responses: Iterable[str | Sequence[int]], prompts: int
) -> list[str | Sequence[int]]:
    """Responses, of which there must be as many as prompts.

    Raises:
        ConfigError: one text in place of a list, or another number of them.
    """
    if isinstance(responses, str):
        raise ConfigError("responses is one text", "give a list: log_likelihoods([prompt], [text])")
    found = list(responses)
    if len(found) != prompts:
        raise ConfigError(
            f"there are {prompts} prompts and {len(found)} responses", "give one for each"
        )
    return found


def pieces(
    rows: Sequence[Row], rooms: Sequence[int | None], tokens: int, positions: int
) -> list[Sequence[int]]:
    """The given tokens that each row is asked about in a step; none for a row that draws its own.

    Args:
        rows: that get tokens.
        rooms: tokens that each may read ahead, where there is a limit.
        tokens: that all streams of all rows may read for it; a row has one of its own in any case.
        positions: M, the most that any row may have.
    """
    left = [row.plan.given[len(row.ids) :] for row in rows]
    streams = sum(
        len(streams) for row, ids in zip(rows, left, strict=True) if ids for streams in row.streams
    )
    most = max(1, min(tokens // max(streams, 1), positions))
    return [
        ids[: most if room is None else min(most, room + 1)]
        for ids, room in zip(left, rooms, strict=True)
    ]


def judged(
    rows: Sequence[Row],
    tokens: Sequence[Sequence[int]],
    fused: Fused,
    kl: Sequence[Sequence[float]],
) -> dict[int, Seen]:
    """What base and guides say of new tokens that were given, by the row's number.

    Args:
        rows: B requests.
        tokens: per row, its new tokens.
        fused: of rows x positions.
        kl: per row, of each of its tokens.
    """
    positions = len(fused.logp_BV) // max(len(rows), 1)
    given = [i for i, row in enumerate(rows) if row.plan.given]
    places = [(i * positions + m, token) for i in given for m, token in enumerate(tokens[i])]
    if not places:
        return {}
    at_N, token_N = torch.tensor(places, device=fused.logp_BV.device).t()
    fused_NV, base_NV = fused.logp_BV[at_N], fused.logp_base_BV[at_N]
    logp_N, logp_base_N = (
        logp_NV.gather(-1, token_N[:, None])[:, 0] for logp_NV in (fused_NV, base_NV)
    )
    greedy_N = fused_NV.argmax(-1) == token_N
    columns = torch.stack([logp_N, logp_base_N, greedy_N]).double().tolist()
    nats_N = [nats for i in given for nats in kl[i]]
    likelihoods_N4 = list(zip(*columns[:2], nats_N, columns[2], strict=True))
    wanted = any(watch.rewards for i in given if (watch := rows[i].plan.watch))
    rewards_NK: list[list[float]] = [[] for _ in places]
    if wanted:
        rewards_NK = fused.logp_arms_KBV[:, at_N, token_N].t().tolist()
    found, start = {}, 0
    for i in given:
        end = start + len(tokens[i])
        found[i] = Seen(rewards_NK[start:end], likelihoods_N4=likelihoods_N4[start:end])
        start = end
    return found


def likelihoods(
    plans: Sequence[RowPlan], drawn: Iterable[Drawn], guides: Sequence[str]
) -> list[Likelihood]:
    """What was found of given responses.

    Args:
        plans: with the responses.
        drawn: what was seen of each that has tokens; of others there is nothing.
        guides: their names, in the order of the rewards.
    """
    found = iter(drawn)
    return [_likelihood(plan, next(found) if plan.given else None, guides) for plan in plans]


def _likelihood(plan: RowPlan, drawn: Drawn | None, guides: Sequence[str]) -> Likelihood:
    rows = drawn.likelihoods_T4 if drawn else []
    logp_fused, logp_base, kl, greedy = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Likelihood(
        tuple(plan.given),
        logp_fused,
        logp_base,
        tuple(map(bool, greedy)),
        kl,
        plan.steering.preference,
        plan.steering.strength,
        _rewards(plan, drawn, guides),
    )


def _rewards(plan: RowPlan, drawn: Drawn | None, guides: Sequence[str]) -> dict[str, list[float]]:
    if drawn is None:  # no token
        return {name: [] for name in guides}
    if not (plan.watch and plan.watch.rewards):
        return {}
    columns = zip(*drawn.rewards_TK, strict=True)
    return {name: list(column) for name, column in zip(guides, columns, strict=True)}
