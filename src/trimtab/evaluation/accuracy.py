"""Pairwise accuracy of a reward model on held-out pairs, beside the floors."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trimtab.arms.objectives import conditioned_on
from trimtab.arms.sidecar import Sidecar
from trimtab.data.loading import read_pairs
from trimtab.data.pairs import Pair, split_of
from trimtab.data.reading import Reading
from trimtab.data.sources import fingerprint
from trimtab.data.tally import RowTally
from trimtab.data.tokenize import tokenize_pair
from trimtab.errors import ConfigError, DataError, ModelLoadError
from trimtab.evaluation.floors import bag_of_words, longer_is_better
from trimtab.models.folder import fetch
from trimtab.models.templates import TemplateError
from trimtab.models.types import PromptFormat
from trimtab.stats import Estimate, ranked_right, share

if TYPE_CHECKING:
    from trimtab.arms.reward_model import RewardModel
    from trimtab.arms.reward_reader import RewardReader
    from trimtab.models.types import DType

logger = logging.getLogger(__name__)

EvalSplit = Literal["test", "validation", "train", "all"]


@dataclass(frozen=True)
class AccuracyReport:
    """Shares of pairs ranked right, each with its 95 % Wilson interval.

    Attributes:
        arm: the reward model; as everywhere, a tie counts one half (`ranked_right`).
        longer: prefer the longer response.
        bag_of_words: a linear model over uni- and bigrams, fitted on the training split of the same
            data; None when there is no training split apart from the measured pairs, or too little.
        objective: what was measured; "" where neither model nor data name it.
        split: which pairs were measured.
        rows: what became of the rows of the data.
    """

    arm: Estimate
    longer: Estimate
    bag_of_words: Estimate | None
    objective: str
    split: EvalSplit
    rows: RowTally


def accuracy(
    arm: str,
    data: str | Sequence[str],
    *,
    objective: str | None = None,
    split: EvalSplit = "test",
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
    """Measure a reward model on one split of the data.

    Args:
        arm: folder of an ARM or a trajectory-level reward model.
        data: files or hub ids of preference pairs.
        objective: the objective measured; by default the one the model was trained for. A
            conditioned ARM is measured with all of the preference on it.
        split: by prompt hash; `all` takes every row as held out.
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
        DataError: no pair in the split, several objectives, or none that the model can read.
        ModelLoadError: a reward model that gives NaN.
    """
    if batch_size < 1:
        raise ConfigError(f"--batch-size is {batch_size}", "it must be 1 or more")
    data = [data] if isinstance(data, str) else list(data)
    arm = fetch(arm, what="reward model", revision=revision)
    reading = Reading.of(columns, pairs_per_prompt)
    sidecar = Sidecar.load(arm)
    if sidecar.split == "none" and sidecar.data_sha256 == fingerprint(data):
        logger.warning("%s was trained on every row of these data: nothing is held out", arm)
    name = sidecar.objective if objective is None else objective
    preference = _all_on(name, conditioned_on(arm))
    pairs, tally = read_pairs(data, name, skip_bad_rows=skip_bad_rows, reading=reading)
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
    n = len(measured)
    floor = bag_of_words(fitted, measured) if fitted else None
    return AccuracyReport(
        arm=share(_ranked_right(model, measured, batch_size, preference), n),
        longer=share(longer_is_better(measured), n),
        bag_of_words=None if floor is None else share(floor, n),
        objective=name or measured[0].objective or "",
        split=split,
        rows=tally,
    )


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


def _ranked_right(
    model: RewardModel,
    pairs: Sequence[Pair],
    batch_size: int,
    preference: dict[str, float] | None,
) -> float:
    """Pairs whose chosen side has the higher reward."""
    prompts = [pair.prompt for pair in pairs]
    style = model.reader.sidecar.prompt_format
    styles: list[PromptFormat] = ["raw" if pair.verbatim else style for pair in pairs]
    texts = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    scored = model.score(
        prompts * 2,
        texts,
        batch_size=batch_size,
        prompt_format=styles * 2,
        preference=preference,
    )
    chosen, rejected = scored[: len(pairs)], scored[len(pairs) :]
    right = ranked_right(a.reward - b.reward for a, b in zip(chosen, rejected, strict=True))
    if math.isnan(right):
        raise ModelLoadError("the reward model gives NaN", "it cannot be measured: train it again")
    return right
