"""What a training run needs before weights are loaded: checked, split and tokenised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

from trimtab.arms.load import config_of, tokenizer_of
from trimtab.data.pairs import Pair
from trimtab.data.samples import TokenSample, tokenize_samples
from trimtab.data.tally import RowTally
from trimtab.data.tokenize import TokenPair, tokenize_pairs
from trimtab.errors import ConfigError, DataError
from trimtab.jobs import Progress
from trimtab.models.limits import context_limit
from trimtab.models.prompts import require_embedded
from trimtab.models.protocols import Config, Tokenizer
from trimtab.models.templates import load_chat_template, require_template
from trimtab.training.config import TrainConfig
from trimtab.training.reading import TrainData, read_data
from trimtab.training.targets import lora_targets

WORTH_TELLING = 2000  # pairs: fewer are tokenised in a few seconds


@dataclass(frozen=True)
class Inputs:
    """Everything about one reward model that is known before its weights are.

    Attributes:
        tokenizer: the model's, with a padding token (an ARM's may lack one) and the chat template
            asked for.
        targets: layers that get a LoRA; "" for full fine-tuning.
        splits: `train` and, when there is one, `validation`.
        tally: what became of the rows of the data.
        objectives: of a conditioned ARM, in their order.
        samples: responses in place of pairs, of a value model or a distillation.
        teacher: whose distributions a distillation learns.
    """

    tokenizer: Tokenizer
    targets: list[str] | str
    splits: dict[str, list[TokenPair]]
    tally: RowTally
    objectives: list[str] = field(default_factory=list)
    samples: dict[str, list[TokenSample]] = field(default_factory=dict)
    teacher: Any = None

    @property
    def rows(self) -> Mapping[str, Sequence[TokenPair] | Sequence[TokenSample]]:
        """Split -> what is trained or evaluated on: pairs, or samples."""
        return self.samples or self.splits

    @property
    def pad_id(self) -> int:
        """The token that fills batches; for an ARM any does, where the tokenizer has none."""
        return self.tokenizer.pad_token_id or 0


def prepare_inputs(
    config: TrainConfig,
    objective: str,
    progress: Progress | None = None,
    data: TrainData | None = None,
) -> Inputs:
    """Check everything that can be checked without weights, and tokenise the pairs.

    Args:
        config: the options.
        objective: what is trained for.
        progress: is told about pairs that are tokenised.
        data: the pairs, where they have been read already.

    Raises:
        TrimtabError: a model folder, a LoRA target, data or a length that cannot work.
    """
    data = data or read_data(config, objective)
    origin: dict[str, Any] = {
        "trust_remote_code": config.trust_remote_code,
        "revision": config.revision,
    }
    model_config = config_of(config.model, **origin)
    lora = config.finetuning == "lora"
    targets = (
        lora_targets(
            model_config, config.lora_target_modules, trust_remote_code=config.trust_remote_code
        )
        if lora
        else ""
    )
    tokenizer = tokenizer_of(config.model, **origin)
    load_chat_template(tokenizer, config.chat_template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None and config.judges:
        raise ConfigError(
            f"the tokenizer of {config.model} has no padding token: a scalar head reads the last "
            "token that is none",
            "give it a pad_token in its tokenizer_config.json",
        )
    splits = _tokenize(config, data.splits, tokenizer, data.tally, progress)
    _require_objectives(data.objectives, splits.get("train", []))
    samples = {
        name: tokenize_samples(
            tokenizer,
            part,
            max_length=config.max_length,
            prompt_format=config.prompt_format,
            tally=data.tally,
        )
        for name, part in data.samples.items()
    }
    inputs = Inputs(tokenizer, targets, splits, data.tally, data.objectives, samples)
    _check_context(model_config, inputs.rows)
    rows = model_config.get_text_config().vocab_size
    for pair in (pair for pairs in splits.values() for pair in pairs):
        require_embedded([*pair.prompt_ids, *pair.chosen_ids, *pair.rejected_ids], rows, tokenizer)
    for sample in (sample for part in samples.values() for sample in part):
        require_embedded([*sample.prompt_ids, *sample.response_ids], rows, tokenizer)
    return inputs


def _require_objectives(objectives: Sequence[str], pairs: Sequence[TokenPair]) -> None:
    for name in objectives:
        if not any(name in pair.verdicts for pair in pairs):
            raise DataError(
                f"no training pair is judged on {name!r}",
                "add data, raise --max-length, or pass --split none to train on every row",
            )


def _tokenize(
    config: TrainConfig,
    parts: dict[str, list[Pair]],
    tokenizer: Tokenizer,
    tally: RowTally,
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
            tally=tally,
            progress=told(name, len(part)),
        )
        for name, part in parts.items()
    }


def _check_context(model_config: Config, rows: Mapping[str, Sequence[Sized]]) -> None:
    longest = max(len(row) for part in rows.values() for row in part)
    context = context_limit(model_config)
    if context and longest > context:
        raise ConfigError(
            f"the longest pair has {longest} tokens, the model reads {context}",
            f"pass --max-length {context} or less",
        )
