"""`trimtab distill` as a function: a guide that needs no training becomes an ARM.

Sampled first (to `samples.jsonl` in the output folder, by the same job as `trimtab generate`), then
trained by the same trainer as every ARM: a killed run goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from trimtab.data.chats import prompt_of
from trimtab.data.samples import Sample, split_samples
from trimtab.data.sources import fingerprint, read_rows
from trimtab.data.tally import RowTally
from trimtab.distillation.config import PAIRS, SAMPLES, DistillConfig
from trimtab.documented import tells_fields_of
from trimtab.engines.guides import ContrastLike, Instruction, InstructionLike
from trimtab.errors import ConfigError, DataError
from trimtab.files import require_fresh, write_text
from trimtab.jobs import Progress, Say, unseen
from trimtab.methods.generate import generate
from trimtab.models.folder import check_folder, is_adapter
from trimtab.models.types import PromptFormat
from trimtab.training.checks import check
from trimtab.training.plan import Plan, TrainResult, plan_runs
from trimtab.training.reading import TrainData
from trimtab.training.resume import RUN, find_start, identity_of

logger = logging.getLogger(__name__)


@tells_fields_of(DistillConfig)
def distill(
    *,
    base: str,
    prompts: str,
    output_dir: str,
    instruct: Mapping[str, InstructionLike] | Sequence[str] = (),
    contrast: Mapping[str, ContrastLike] | Sequence[str] = (),
    method: Literal["tokens", "pairs"] = "tokens",
    samples: int = 4,
    unguided: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    strength: float = 1.0,
    batch_size: int = 8,
    split: Literal["hash", "none"] = "none",
    prompt_format: PromptFormat = "auto",
    max_length: int = 1024,
    lora_r: int = 16,
    lora_alpha: float = 32,
    lora_target_modules: Sequence[str] = (),
    beta: float | None = None,
    learning_rate: float = 5e-4,
    num_train_epochs: float = 2.0,
    max_steps: int = -1,
    per_device_train_batch_size: int = 4,
    gradient_accumulation_steps: int = 2,
    gradient_checkpointing: bool = False,
    bf16: bool = False,
    head_chunk_tokens: int = 256,
    logging_steps: float = 10,
    save_steps: float = 0.2,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    say: Say = logger.warning,
) -> TrainResult:
    """Make an ARM of an instruction or a contrast: the same steering without the guide's tokens.

        trimtab.distill(base="…", instruct={"plain": "Use short words."}, prompts="prompts.jsonl",
                        output_dir="arms/plain")

    The ARM is a LoRA of the base whose reward is measured against the base (`reference: start`), so
    that it pulls as the guide does, at any strength. The same call goes on where a killed one
    stopped.

    Args:
        progress: told what is done, how much of it, and of how much.
        say: is told what a user should know, a line each.

    Raises:
        TrimtabError: options, prompts or models that cannot work, or an output folder of another
            run; nothing is written.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    options: dict[str, Any] = {**locals()}
    del options["progress"], options["say"]
    return run_distillation(DistillConfig(**options), progress, say)


def run_distillation(
    config: DistillConfig, progress: Progress | None = None, say: Say = logger.warning
) -> TrainResult:
    """`distill`, its options as one object."""
    rows = _checked(config)
    _sample(config, rows, progress or unseen, say)
    plan = _pairs_plan(config) if config.method == "pairs" else _tokens_plan(config)
    from trimtab.training.work import carry_out  # PyTorch, once all that is cheap to know is known

    return carry_out([plan], progress)[0]


def _checked(config: DistillConfig) -> list[dict[str, Any]]:
    """The rows to be answered, once all that can be refused is refused.

    Raises:
        TrimtabError: what `distill` says.
    """
    _ = config.guide
    least = {"samples": 1, "unguided": 0, "batch_size": 1, "max_new_tokens": 1}
    for name, bound in least.items():
        if getattr(config, name) < bound:
            raise ConfigError(
                f"--{name.replace('_', '-')} is {getattr(config, name)}",
                f"it must be {bound} or more",
            )
    if config.method == "tokens" and config.beta is not None:
        raise ConfigError("--beta means nothing for --method tokens", "it is for: pairs")
    if config.method == "pairs" and config.unguided != 1:
        raise ConfigError(
            "--unguided means nothing for --method pairs", "each sample has one without the guide"
        )
    training = config.training()
    check(training)
    check_folder(config.base, what="base model")
    if is_adapter(config.base):
        raise ConfigError(f"{config.base} is an adapter", "merge it into its base first")
    if config.folder.resolve() == Path(config.base).resolve():
        raise ConfigError(f"{config.folder} is the base's own folder", "choose another")
    if not (config.folder / SAMPLES).is_file():
        require_fresh(config.folder, overwrite=config.overwrite)
    if (config.folder / RUN).is_file():
        identity = {**identity_of(training), **_identity(config)}
        identity["data_sha256"] = json.loads((config.folder / RUN).read_text()).get("data_sha256")
        find_start(config.folder, identity, "auto", overwrite=config.overwrite)
    return list(_rows(config))


def _rows(config: DistillConfig) -> Iterator[dict[str, Any]]:
    """Each prompt's rows, the guided ones first; an `id` says which is which.

    Raises:
        DataError: a row without a prompt, or no row.
    """
    plain = config.samples if config.method == "pairs" else config.unguided
    strengths = [config.strength] * config.samples + [0.0] * plain
    count = 0
    for place, row in read_rows(config.prompts):
        if prompt_of(row, place) is None:
            raise DataError(f"{place} has no `prompt`", "every row needs one")
        asked = {key: row[key] for key in ("prompt", "tools") if row.get(key) is not None}
        for number, strength in enumerate(strengths):
            yield {**asked, "strength": strength, "id": f"{count} {number}"}
        count += 1
    if not count:
        raise DataError(f"{config.prompts} holds no rows", "give it prompts")


def _sample(
    config: DistillConfig, rows: Sequence[Mapping[str, Any]], progress: Progress, say: Say
) -> None:
    """Answer the rows with the guide and without; what is there already is kept."""
    name, guide = config.guide
    kind = "instruct" if isinstance(guide, Instruction) else "contrast"
    guides: dict[str, Any] = {kind: {name: guide}}
    generate(
        base=config.base,
        input=rows,
        output=config.folder / SAMPLES,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        batch_size=config.batch_size,
        prompt_format=config.prompt_format,
        trust_remote_code=["base"] if config.trust_remote_code else [],
        revisions={"base": config.revision} if config.revision else {},
        overwrite=config.overwrite,
        progress=progress,
        say=lambda line: None if "is complete" in line else say(line),
        **guides,
    )
    from trimtab.models.memory import free_memory

    free_memory()


def _identity(config: DistillConfig) -> dict[str, Any]:
    """What tells one distillation's training from another's, beside a training's own options."""
    name, guide = config.guide
    return {"distill": {"method": config.method, "name": name, **asdict(guide)}}


def _sampled(config: DistillConfig) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(config.folder / SAMPLES)]


def _tokens_plan(config: DistillConfig) -> Plan:
    training, tally = config.training(), RowTally()
    samples = []
    for number, row in enumerate(_sampled(config), 1):
        place = f"{SAMPLES}:{number}"
        tally.count("samples", ())
        if not row["text"].strip():
            tally.leave_out("the response is empty", place)
            continue
        prompt = prompt_of(row, place)
        assert prompt is not None
        finished = row["finish_reason"] != "length"
        samples.append(Sample(prompt, row["text"], 0.0, place, finished))
    data = TrainData({}, tally, samples=split_samples(samples, training.split))
    if not all(data.samples.values()):
        raise DataError(
            f"a split of the {len(samples)} samples is empty", "add prompts, or --split none"
        )
    from trimtab.training.teaching import prepare_teaching

    name, guide = config.guide
    identity = {**identity_of(training), **_identity(config)}
    identity["data_sha256"] = fingerprint(training.data)
    training = replace(training, overwrite=True)  # what is there was looked at: `_checked`
    prepare = partial(prepare_teaching, name=name, guide=guide)
    return Plan(training, name, config.folder, identity, data, prepare=prepare)


def _pairs_plan(config: DistillConfig) -> Plan:
    """Sample number i with the guide against number i without."""
    by_id = {row["id"]: row for row in _sampled(config)}
    pairs = []
    for key, row in by_id.items():
        prompt, _, number = key.partition(" ")
        if int(number) < config.samples:
            other = by_id[f"{prompt} {int(number) + config.samples}"]
            pair = {"prompt": row["prompt"], "chosen": row["text"], "rejected": other["text"]}
            pairs.append({**pair, "objective": config.guide[0]})
    text = "".join(f"{json.dumps(pair, ensure_ascii=False)}\n" for pair in pairs)
    write_text(config.folder / PAIRS, text)
    [plan] = plan_runs(replace(config.training(), overwrite=True))
    return replace(plan, identity={**plan.identity, **_identity(config)})
