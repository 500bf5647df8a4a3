"""The data of a training run, read and split; nothing here needs PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from trimtab.data.loading import read_comparisons, read_pairs
from trimtab.data.pairs import Pair, split_of
from trimtab.data.samples import Sample, read_samples, split_samples
from trimtab.data.sources import saved_folder, split_name
from trimtab.data.tally import RowTally
from trimtab.errors import ConfigError, DataError
from trimtab.models.folder import check_folder, is_adapter
from trimtab.training.config import TrainConfig


@dataclass(frozen=True)
class TrainData:
    """The pairs of one reward model.

    Attributes:
        splits: `train` and, when there is one, `validation`.
        tally: what became of the rows of the data.
        objectives: of a conditioned ARM, in their order.
        samples: scored responses in place of pairs, of a value model.
    """

    splits: dict[str, list[Pair]]
    tally: RowTally
    objectives: list[str] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)


def read_data(config: TrainConfig, objective: str) -> TrainData:
    """Check the model's folder and read the data.

    Raises:
        TrimtabError: a model folder or data that cannot work.
    """
    check_folder(config.model)
    if is_adapter(config.model):
        raise ConfigError(
            f"{config.model} is an adapter",
            "train on a whole model (merge the adapter into it first)",
        )
    for path in (*config.data, *config.eval_data):
        source = split_name(path)[1]
        if Path(source).is_dir() and saved_folder(source) is None:
            raise DataError(f"{path} is a folder", "name the data files in it")
    if config.method == "value":
        return _read_samples(config)
    return _read_comparisons(config) if config.conditions else _read_splits(config, objective)


def _read_samples(config: TrainConfig) -> TrainData:
    """Scored responses for training and validation."""
    samples, tally = read_samples(config.data, skip_bad_rows=config.skip_bad_rows)
    parts = split_samples(samples, config.split)
    if config.eval_data:
        with _of_eval_data():
            parts["validation"], more = read_samples(
                config.eval_data, skip_bad_rows=config.skip_bad_rows
            )
        tally.add(more)
    _require_some(parts, "row")
    return TrainData({}, tally, samples=parts)


def _read_splits(config: TrainConfig, objective: str) -> TrainData:
    """Training and validation pairs of one objective; the test split stays untouched."""
    skip, reading = config.skip_bad_rows, config.reading
    pairs, tally = read_pairs(config.data, objective, skip_bad_rows=skip, reading=reading)
    named = sorted({pair.objective for pair in pairs})
    if len(named) > 1:
        raise ConfigError(
            f"the data hold several objectives: {', '.join(named)}",
            f"choose with --objectives {named[-1]}, or name several for one ARM each",
        )
    if len(config.objective_names) > 1 and named == [""]:
        raise ConfigError(
            f"the data name no objective: the ARMs for {config.objectives} would be the same",
            "train one at a time, or give the rows `objective` or `labels`",
        )
    parts = _split(config, pairs)
    if config.eval_data:
        with _of_eval_data():
            parts["validation"], more = read_pairs(
                config.eval_data, objective, skip_bad_rows=skip, reading=reading
            )
        tally.add(more)
    _require_some(parts)
    return TrainData(parts, tally)


def _read_comparisons(config: TrainConfig) -> TrainData:
    """Training and validation pairs of all objectives, and the objectives."""
    wanted = [name for name in config.objective_names if name]
    skip, reading = config.skip_bad_rows, config.reading
    pairs, objectives, tally = read_comparisons(
        config.data, wanted, skip_bad_rows=skip, reading=reading
    )
    if len(objectives) < 2:
        raise ConfigError(
            f"--method {config.method} with the one objective {objectives[0]}",
            "name several, or use --method genarm",
        )
    if config.method == "uniarm":
        config.descriptions_of(objectives)
    parts = _split(config, pairs)
    if config.eval_data:
        with _of_eval_data():
            more_pairs, _, more = read_comparisons(
                config.eval_data, objectives, skip_bad_rows=skip, reading=reading
            )
        parts["validation"] = list(more_pairs)
        tally.add(more)
    _require_some(parts)
    return TrainData(parts, tally, objectives)


@contextmanager
def _of_eval_data() -> Iterator[None]:
    """Let an error about data say that it is the evaluation data."""
    try:
        yield
    except DataError as error:
        raise DataError(f"--eval-data: {error.args[0]}", error.hint) from None


def _split(config: TrainConfig, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Pairs by the hash of their prompt, without the test split; or all for training."""
    if config.split == "none":
        return {"train": list(pairs)}
    parts: dict[str, list[Pair]] = {name: [] for name in ("train", "validation", "test")}
    for pair in pairs:
        parts[split_of(pair.prompt)].append(pair)
    parts.pop("test")
    return parts


def _require_some(parts: Mapping[str, Sequence[object]], unit: str = "pair") -> None:
    for name, part in parts.items():
        if not part:
            total = sum(map(len, parts.values()))
            raise DataError(
                f"the {name} split is empty ({total} usable {unit}s in all)",
                "add data, or pass --split none to train on every row",
            )
