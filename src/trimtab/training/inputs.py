"""What a training run needs before weights are loaded: checked, split and tokenised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.arms.folder import check_folder, is_adapter
from trimtab.arms.load import load_config, load_tokenizer
from trimtab.data.formats import read_pairs
from trimtab.data.pairs import Pair, RowReport, split_of
from trimtab.data.tokenize import TokenPair, load_chat_template, require_template, tokenize_pairs
from trimtab.errors import ConfigError, DataError
from trimtab.training.callbacks import Progress
from trimtab.training.config import TrainConfig
from trimtab.training.lora import lora_targets

WORTH_TELLING = 2000  # pairs: fewer are tokenised in a few seconds


@dataclass(frozen=True)
class Inputs:
    """Everything about one reward model that is known before its weights are.

    Attributes:
        tokenizer: the model's, with a padding token and the chat template asked for.
        targets: layers that get a LoRA; "" for full fine-tuning.
        splits: `train` and, when there is one, `validation`.
        report: what became of the rows of the data.
    """

    tokenizer: Any
    targets: list[str] | str
    splits: dict[str, list[TokenPair]]
    report: RowReport


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
        if Path(path).is_dir():
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
    parts, report = _read_splits(config, objective)
    splits = _tokenize(config, parts, tokenizer, report, progress)
    _check_context(model_config, splits)
    return Inputs(tokenizer, targets, splits, report)


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
    parts: dict[str, list[Pair]] = {"train": pairs}
    if config.split == "hash":
        parts = {name: [] for name in ("train", "validation", "test")}
        for pair in pairs:
            parts[split_of(pair.prompt)].append(pair)
        parts.pop("test")
    if config.eval_data:
        parts["validation"], more = read_pairs(
            config.eval_data, objective, skip_bad_rows=config.skip_bad_rows
        )
        report.rows += more.rows
        for reason, places in more.unusable.items():
            report.unusable.setdefault(reason, []).extend(places)
    for name, part in parts.items():
        if not part:
            raise DataError(
                f"the {name} split is empty ({len(pairs)} usable pairs in all)",
                "add data, or pass --split none to train on every row",
            )
    return parts, report


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
