"""Pairwise accuracy of a reward model on held-out pairs, beside the floors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.arms.objectives import conditioned_on
from trimtab.arms.sidecar import Sidecar
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import Pair, split_of
from trimtab.data.reading import Reading
from trimtab.data.sources import fingerprint
from trimtab.data.tally import RowTally
from trimtab.data.tokenize import tokenize_pair
from trimtab.errors import ConfigError, DataError
from trimtab.evaluation.floors import bag_of_words, longer_gaps
from trimtab.evaluation.length_bias import LengthBias, length_bias, matched
from trimtab.evaluation.pair_rewards import PairRewards, Rewarding, pair_rewards
from trimtab.evaluation.subsets import (
    Judgements,
    Ranked,
    by_subset,
    mean_of_subsets,
    numbered,
)
from trimtab.models.folder import fetch
from trimtab.models.messages import first_user_turn
from trimtab.models.templates import TemplateError

if TYPE_CHECKING:
    from trimtab.arms.reward_reader import RewardReader
    from trimtab.models.types import DType

logger = logging.getLogger(__name__)

EvalSplit = Literal["test", "validation", "train", "all"]


@dataclass(frozen=True)
class AccuracyReport(Ranked):
    """Shares of pairs ranked right: what `Ranked` has, of all measured pairs, and of some of them.

    Attributes:
        objective: what was measured; "" where neither model nor data name it.
        split: which pairs were measured.
        rows: what became of the rows of the data.
        rewards: what the model's own reward is, of the two of an ARM: `sum` or `mean`; or `head`.
        by: the column whose values are the subsets; "" where there are none.
        subsets: of each subset, in the order in which they come.
        subset_mean: their unweighted mean; None without subsets.
        absent: subsets in the data that have no pair among the measured ones.
        length_tolerance: the share of the longer answer by which the lengths (characters) of the
            two answers of a matched pair may differ.
        length_matched: of the pairs that are matched so; None where none is.
        lengths: `arm`, `arm_summed`, `arm_per_token` -> how those rewards go with length.
    """

    objective: str
    split: EvalSplit
    rows: RowTally
    rewards: Rewarding
    by: str
    subsets: dict[str, Ranked]
    subset_mean: Ranked | None
    absent: list[str]
    length_tolerance: float
    length_matched: Ranked | None
    lengths: dict[str, LengthBias]


def accuracy(
    arm: str,
    data: str | Sequence[str],
    *,
    objective: str | None = None,
    split: EvalSplit = "test",
    by: str | None = None,
    length_tolerance: float = 0.1,
    train_data: Sequence[str] = (),
    skip_bad_rows: bool = False,
    columns: str | Mapping[str, str] = "",
    pairs_per_prompt: int = 0,
    batch_size: int = 16,
    dtype: DType = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> AccuracyReport:
    """Measure a reward model on one split of the data, in all and in each subset.

    Args:
        arm: folder of an ARM or a trajectory-level reward model.
        data: files or hub ids of preference pairs.
        objective: the objective measured; by default the one the model was trained for. A
            conditioned ARM is measured with all of the preference on it.
        split: by prompt hash; `all` takes every row as held out.
        by: the column of the data that names a pair's subset, such as RewardBench's; by default
            `subset` where there is one, "" for none.
        length_tolerance: pairs are matched in length whose answers differ by at most this share of
            the longer one's characters.
        train_data: what the bag-of-words floor is fitted on, where it is not `data`'s own training
            split.
        skip_bad_rows: leave malformed rows out, counted.
        columns: which columns hold what, where no layout fits, as in training.
        pairs_per_prompt: of several answers to a prompt, that many pairs; 0 for all.
        batch_size: rows in one forward pass.
        dtype: of the weights.
        device: where to put them; the GPU by default where there is one.
        trust_remote_code: run model code that comes with the checkpoint.
        revision: of the model's hub id: a branch, tag or commit.

    Raises:
        DataError: no pair in the split, several objectives, no such column, or no pair that the
            model can read.
        ModelLoadError: a reward model that gives NaN.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "it must be 1 or more")
    if not 0 <= length_tolerance <= 1:
        raise ConfigError(
            f"--length-tolerance is {length_tolerance}",
            "it is a share of the longer answer: 0 to 1",
        )
    data = [data] if isinstance(data, str) else list(data)
    arm = fetch(arm, what="reward model", revision=revision)
    reading = Reading.of(columns, pairs_per_prompt)
    sidecar = Sidecar.load(arm)
    if sidecar.split == "none" and sidecar.data_sha256 == fingerprint(data):
        logger.warning("%s was trained on every row of these data: nothing is held out", arm)
    name = sidecar.objective if objective is None else objective
    preference = _all_on(name, conditioned_on(arm))
    named = replace(reading, subset="subset" if by is None else by)
    pairs, tally = read_pairs(data, name, skip_bad_rows=skip_bad_rows, reading=named)
    if by:
        _require_subsets(pairs, by, tally)
    measured = _of_split(pairs, split)
    if train_data:
        fitted, _ = read_pairs(train_data, name, skip_bad_rows=skip_bad_rows, reading=reading)
    else:
        fitted = [
            p for p in pairs if split in ("test", "validation") and split_of(p.prompt) == "train"
        ]
    from trimtab.arms.reward_model import RewardModel

    model = RewardModel(arm, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    measured = _readable(model.reader, measured, tally)
    rewards = pair_rewards(model, measured, batch_size=batch_size, preference=preference)
    judged = _judgements(measured, rewards, bag_of_words(fitted, measured) if fitted else None)
    subsets = by_subset(judged, [pair.subset for pair in measured])
    if subsets:
        for pair in measured:
            if not pair.subset:
                tally.note(f"no `{named.subset}`: in no subset", pair.source)
    lengths = np.array([[len(p.chosen), len(p.rejected)] for p in measured]).T
    alike = matched(lengths, length_tolerance)
    return AccuracyReport(
        **vars(judged.ranked()),
        objective=name or measured[0].objective or "",
        split=split,
        rows=tally,
        rewards=rewards.kind,
        by=named.subset if subsets else "",
        subsets=subsets,
        subset_mean=mean_of_subsets(list(subsets.values())) if subsets else None,
        absent=sorted({pair.subset for pair in pairs} - {"", *subsets}),
        length_tolerance=length_tolerance,
        length_matched=judged.ranked(alike) if alike.any() else None,
        lengths=_length_biases(rewards, lengths, judged.prompts),
    )


def _require_subsets(pairs: Sequence[Pair], by: str, tally: RowTally) -> None:
    """Refuse a column that no pair has."""
    if not any(pair.subset for pair in pairs):
        unread = ", ".join(tally.unused) or "none"
        raise DataError(
            f"no pair has the column `{by}`, which --by names",
            f"the columns that nothing reads are: {unread}",
        )


def _judgements(
    pairs: Sequence[Pair], rewards: PairRewards, words: Sequence[float] | None
) -> Judgements:
    """How the reward model and its floors rank the pairs."""
    gaps: dict[str, Sequence[float]] = {
        way: (better - worse).tolist() for way, (better, worse) in rewards.named.items()
    }
    gaps["longer"] = longer_gaps(pairs)
    if words is not None:
        gaps["bag_of_words"] = words
    return Judgements(gaps, numbered(first_user_turn(pair.prompt) for pair in pairs))


def _length_biases(
    rewards: PairRewards, lengths: NDArray[np.int64], prompts: NDArray[np.int64]
) -> dict[str, LengthBias]:
    """Of each kind of reward; the model's own is one of the two of an ARM."""
    kinds = {id(values): values for values in rewards.named.values()}
    biases = {key: length_bias(values, lengths, prompts) for key, values in kinds.items()}
    return {name: biases[id(values)] for name, values in rewards.named.items()}


def _all_on(objective: str, objectives: Sequence[str]) -> dict[str, float] | None:
    """The preference under which a conditioned ARM is measured on one objective."""
    if objectives and objective not in objectives:
        raise DataError(
            f"the ARM takes a preference over {', '.join(objectives)}",
            f"choose what to measure with --objective {objectives[0]}",
        )
    return {name: float(name == objective) for name in objectives} or None


def _of_split(pairs: Sequence[Pair], split: EvalSplit) -> list[Pair]:
    """The pairs of one split, which must be of one objective."""
    if len(named := sorted({pair.objective for pair in pairs})) > 1:
        raise DataError(
            f"the data hold several objectives: {', '.join(filter(None, named))}",
            f"choose with --objective {named[-1]}",
        )
    measured = [p for p in pairs if split in ("all", split_of(p.prompt))]
    if not measured:
        raise DataError(
            f"the {split} split is empty ({len(pairs)} usable pairs in all)",
            "pass --split all to measure every row",
        )
    return measured


def _readable(reader: RewardReader, pairs: Sequence[Pair], tally: RowTally) -> list[Pair]:
    """The pairs that the model can read; the others are left out and counted, never cut."""
    kept: list[Pair] = []
    for pair in pairs:
        try:
            tokens = tokenize_pair(reader.tokenizer, pair, reader.sidecar.prompt_format)
        except TemplateError as error:
            tally.leave_out(error.args[0], pair.source)
            continue
        if reader.context and len(tokens) > reader.context:
            tally.leave_out(f"longer than the {reader.context} tokens the model reads", pair.source)
        else:
            kept.append(pair)
    if not kept:
        raise DataError(f"none of {len(pairs)} pairs can be used", "; ".join(tally.reasons()))
    return kept
