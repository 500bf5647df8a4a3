"""Pairwise accuracy of a reward model on held-out pairs, beside the floors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trimtab.data.formats import read_pairs
from trimtab.data.pairs import Pair, RowReport, split_of
from trimtab.errors import DataError
from trimtab.evaluation.floors import bag_of_words, longer_is_better
from trimtab.evaluation.scoring import RewardModel
from trimtab.evaluation.stats import Estimate, share

EvalSplit = Literal["test", "validation", "train", "all"]


@dataclass(frozen=True)
class AccuracyReport:
    """Shares of pairs ranked right, each with its 95 % Wilson interval.

    Attributes:
        arm: the reward model.
        longer: prefer the longer response.
        bag_of_words: a linear model over uni- and bigrams, fitted on the training split of the same
            data; None when there is no training split apart from the measured pairs.
        split: which pairs were measured.
        rows: what became of the rows of the data.
    """

    arm: Estimate
    longer: Estimate
    bag_of_words: Estimate | None
    split: EvalSplit
    rows: RowReport


def measure_accuracy(
    arm: str,
    data: Sequence[str],
    *,
    objective: str | None = None,
    split: EvalSplit = "test",
    train_data: Sequence[str] = (),
    skip_bad_rows: bool = False,
    batch_size: int = 16,
) -> AccuracyReport:
    """Measure a reward model on one split of the data.

    Args:
        arm: folder of an ARM or a trajectory-level reward model.
        data: files or hub ids of preference pairs.
        objective: the objective measured; by default the one the model was trained for.
        split: by prompt hash; `all` takes every row as held out.
        train_data: what the bag-of-words floor is fitted on, where it is not `data`'s own training
            split.
        skip_bad_rows: leave malformed rows out, counted.
        batch_size: rows in one forward pass.

    Raises:
        DataError: no pair in the split.
    """
    from trimtab.arms.folder import check_folder
    from trimtab.arms.sidecar import Sidecar

    check_folder(arm, what="reward model")
    name = Sidecar.load(arm).objective if objective is None else objective
    pairs, report = read_pairs(data, name, skip_bad_rows=skip_bad_rows)
    measured = [p for p in pairs if split in ("all", split_of(p.prompt))]
    if not measured:
        raise DataError(
            f"the {split} split is empty ({len(pairs)} usable pairs in all)",
            "pass --split all to measure every row",
        )
    if train_data:
        fitted, _ = read_pairs(train_data, name, skip_bad_rows=skip_bad_rows)
    else:
        fitted = [
            p for p in pairs if split in ("test", "validation") and split_of(p.prompt) == "train"
        ]
    n = len(measured)
    return AccuracyReport(
        arm=share(_ranked_right(RewardModel(arm), measured, batch_size), n),
        longer=share(longer_is_better(measured), n),
        bag_of_words=share(bag_of_words(fitted, measured), n) if fitted else None,
        split=split,
        rows=report,
    )


def _ranked_right(model: RewardModel, pairs: Sequence[Pair], batch_size: int) -> float:
    """Pairs whose chosen side has the higher reward; a tie counts one half."""
    prompts = [pair.prompt for pair in pairs]
    texts = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    scored = model.score(prompts * 2, texts, batch_size=batch_size)
    gaps = [
        a.reward - b.reward for a, b in zip(scored[: len(pairs)], scored[len(pairs) :], strict=True)
    ]
    return sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps)
