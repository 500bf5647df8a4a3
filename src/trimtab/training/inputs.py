"""What a training run needs before weights are loaded: checked, split and tokenised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.arms.folder import check_folder, is_adapter
from trimtab.arms.load import load_config, load_tokenizer
from trimtab.data.comparisons import read_comparisons
from trimtab.data.formats import read_pairs
from trimtab.data.pairs import Pair, RowReport, split_of
from trimtab.data.sources import split_name
from trimtab.data.templates import load_chat_template, require_template
from trimtab.data.tokenize import TokenPair, tokenize_pairs
from trimtab.errors import ConfigError, DataError
from trimtab.training.adapt import lora_targets
from trimtab.training.callbacks import Progress
from trimtab.training.config import TrainConfig

WORTH_TELLING = 2000  # pairs: fewer are tokenised in a few seconds


@dataclass(frozen=True)
class Inputs:
    """Everything about one reward model that is known before its weights are.

    Attributes:
        tokenizer: the model's, with a padding token and the chat template asked for.
        targets: layers that get a LoRA; "" for full fine-tuning.
        splits: `train` and, when there is one, `validation`.
        report: what became of the rows of the data.
        objectives: of a conditioned ARM, in their order.
    """

    tokenizer: Any
    targets: list[str] | str
    splits: dict[str, list[TokenPair]]
    report: RowReport
    objectives: list[str] = field(default_factory=list)


def prepare_inputs(config: TrainConfig, objective: str, progress: Progress | None = None) -> Inputs:
    """Check everything that can be checked without weights, and tokenise the pairs.

    Raises:
        TrimtabError: a model folder, a LoRA target, data or a length that cannot work.
    """
    check_folder(config.model)
    if is_adapter(config.model):
        raise ConfigError(
            f"{config.model} is an adapter",
            "train on a whole model (merge the adapter into it first)",
        )
    for path in (*config.data, *config.eval_data):
        if Path(split_name(path)[1]).is_dir():
            raise DataError(f"{path} is a folder", "name the data files in it")
    model_config = load_config(config.model, trust_remote_code=config.trust_remote_code)
    lora = config.finetuning == "lora"
    targets = (
        lora_targets(
            model_config, config.lora_target_modules, trust_remote_code=config.trust_remote_code
        )
        if lora
        else ""
    )
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    load_chat_template(tokenizer, config.chat_template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    objectives: list[str] = []
    if config.conditions:
        parts, objectives, report = _read_comparisons(config)
    else:
        parts, report = _read_splits(config, objective)
    splits = _tokenize(config, parts, tokenizer, report, progress)
    _require_objectives(objectives, splits["train"])
    _check_context(model_config, splits)
    return Inputs(tokenizer, targets, splits, report, objectives)


def _read_splits(config: TrainConfig, objective: str) -> tuple[dict[str, list[Pair]], RowReport]:
    """Training and validation pairs of one objective; the test split stays untouched."""
    pairs, report = read_pairs(config.data, objective, skip_bad_rows=config.skip_bad_rows)
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
                config.eval_data, objective, skip_bad_rows=config.skip_bad_rows
            )
        report.add(more)
    _require_pairs(parts)
    return parts, report


def _read_comparisons(
    config: TrainConfig,
) -> tuple[dict[str, list[Pair]], list[str], RowReport]:
    """Training and validation pairs of all objectives, and the objectives."""
    wanted = [name for name in config.objective_names if name]
    pairs, objectives, report = read_comparisons(
        config.data, wanted, skip_bad_rows=config.skip_bad_rows
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
                config.eval_data, objectives, skip_bad_rows=config.skip_bad_rows
            )
        parts["validation"] = list(more_pairs)
        report.add(more)
    _require_pairs(parts)
    return parts, objectives, report


@contextmanager
def _of_eval_data() -> Iterator[None]:
    """Let an error about data say that it is the evaluation data."""
    try:
        yield
    except DataError as error:
        raise DataError(f"--eval-data: {error.args[0]}", error.hint) from None


def _require_objectives(objectives: Sequence[str], pairs: Sequence[TokenPair]) -> None:
    for name in objectives:
        if not any(name in pair.verdicts for pair in pairs):
            raise DataError(
                f"no training pair is judged on {name!r}",
                "add data, raise --max-length, or pass --split none to train on every row",
            )


def _split(config: TrainConfig, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Pairs by the hash of their prompt, without the test split; or all for training."""
    if config.split == "none":
        return {"train": list(pairs)}
    parts: dict[str, list[Pair]] = {name: [] for name in ("train", "validation", "test")}
    for pair in pairs:
        parts[split_of(pair.prompt)].append(pair)
    parts.pop("test")
    return parts


def _require_pairs(parts: Mapping[str, Sequence[Pair]]) -> None:
    for name, part in parts.items():
        if not part:
            raise DataError(
                f"the {name} split is empty ({sum(map(len, parts.values()))} usable pairs in all)",
                "add data, or pass --split none to train on every row",
            )


def _tokenize(
    config: TrainConfig,
    parts: dict[str, list[Pair]],
    tokenizer: Any,
    report: RowReport,
    progress: Progress | None,
) -> dict[str, list[TokenPair]]:
    def told(name: str, total: int) -> Callable[[int], None] | None:
        if progress is None or total < WORTH_TELLING:
            return None
        return lambda done: progress(f"reading {name} pairs", done, total)

    if any(not isinstance(pair.prompt, str) for part in parts.values() for pair in part):
        require_template(tokenizer)
    return {
        name: tokenize_pairs(
            tokenizer,
            part,
            max_length=config.max_length,
            prompt_format=config.prompt_format,
            report=report,
            progress=told(name, len(part)),
        )
        for name, part in parts.items()
    }


def _check_context(model_config: Any, splits: dict[str, list[TokenPair]]) -> None:
    longest = max(len(pair) for pairs in splits.values() for pair in pairs)
    context = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if context and longest > context:
        raise ConfigError(
            f"the longest pair has {longest} tokens, the model reads {context}",
            f"pass --max-length {context} or less",
        )
