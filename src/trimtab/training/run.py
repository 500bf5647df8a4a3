"""`trimtab train` as a function: refuse early, train, resume, save whole."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

import trimtab
from trimtab.arms import vocab
from trimtab.arms.card import model_card
from trimtab.arms.folder import canonical, check_folder, is_adapter, weights_fingerprint
from trimtab.arms.load import load_config, load_model, load_tokenizer
from trimtab.arms.sidecar import Sidecar
from trimtab.data.collate import PairCollator
from trimtab.data.formats import read_pairs
from trimtab.data.pairs import Pair, RowReport, split_of
from trimtab.data.sources import fingerprint
from trimtab.data.tokenize import (
    TokenPair,
    load_chat_template,
    require_template,
    tokenize_pairs,
)
from trimtab.errors import ConfigError, DataError, OutputError
from trimtab.files import require_fresh, storage_errors, whole_directory, write_json
from trimtab.training.callbacks import CleanStop, MetricsFile, Progress, ProgressReport
from trimtab.training.config import TrainConfig
from trimtab.training.logprobs import check_head
from trimtab.training.lora import add_lora, lora_targets
from trimtab.training.losses import LossOptions
from trimtab.training.trainer import ArmRewards, PreferenceTrainer, trajectory_rewards

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """One trained reward model.

    Attributes:
        output_dir: where it stands.
        objective: what it was trained for.
        metrics: the last evaluation (or training) metrics.
        report: which rows of the data were used.
        resumed: whether an interrupted run was continued.
    """

    output_dir: str
    objective: str
    metrics: dict[str, float]
    report: RowReport
    resumed: bool = False


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after a checkpoint was written."""


def train(config: TrainConfig, progress: Progress | None = None) -> list[TrainResult]:
    """Train one reward model per objective named in the config.

    Everything that can be refused is refused before weights are loaded or anything is written.

    Raises:
        TrimtabError: bad data, options, model folder or output directory.
        Interrupted: Ctrl-C; continue with `resume_from_checkpoint="auto"`.
    """
    names = config.objective_names
    folders = {n: Path(config.output_dir) / (n if len(names) > 1 else "") for n in names}
    runs = [_prepare(config, name, folder) for name, folder in folders.items()]
    return [run.go(progress) for run in runs]


def _prepare(config: TrainConfig, objective: str, folder: Path) -> _Run:
    """Check everything that can be checked without weights."""
    if not _has_run(folder) or config.resume_from_checkpoint is None:
        require_fresh(folder, overwrite=config.overwrite)
    check_folder(config.model)
    if is_adapter(config.model):
        raise ConfigError(
            f"{config.model} is an adapter",
            "train on a whole model (merge the adapter into it first)",
        )
    for path in (*config.data, *config.eval_data):
        check_source = Path(path)
        if check_source.is_dir():
            raise DataError(f"{path} is a folder", "name the data files in it")
    model_config = load_config(config.model, trust_remote_code=config.trust_remote_code)
    targets = (
        lora_targets(model_config, config.lora_target_modules)
        if config.finetuning == "lora"
        else ""
    )
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    load_chat_template(tokenizer, config.chat_template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    splits, report = _splits(config, objective, tokenizer)
    longest = max(len(pair) for pairs in splits.values() for pair in pairs)
    context = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    if context and longest > context:
        raise ConfigError(
            f"the longest pair has {longest} tokens, the model reads {context}",
            f"pass --max-length {context} or less",
        )
    return _Run(config, objective, folder, tokenizer, targets, splits, report)


def _splits(
    config: TrainConfig, objective: str, tokenizer: Any
) -> tuple[dict[str, list[TokenPair]], RowReport]:
    """Tokenised training and validation pairs, none of them empty unless evaluation is off."""
    pairs, report = read_pairs(config.data, objective, skip_bad_rows=config.skip_bad_rows)
    named = sorted({pair.objective for pair in pairs})
    if len(named) > 1:
        raise ConfigError(
            f"the data hold several objectives: {', '.join(named)}",
            f"choose with --objectives {named[-1]}, or name several for one ARM each",
        )
    parts: dict[str, list[Pair]] = {"train": pairs}
    if config.split == "hash":
        parts = {"train": [], "validation": [], "test": []}
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
    if any(not isinstance(pair.prompt, str) for part in parts.values() for pair in part):
        require_template(tokenizer)
    tokens = {}
    for name, part in parts.items():
        if not part:
            raise DataError(
                f"the {name} split is empty ({len(pairs)} usable pairs in all)",
                "add data, or pass --split none to train on every row",
            )
        tokens[name] = tokenize_pairs(
            tokenizer,
            part,
            max_length=config.max_length,
            prompt_format=config.prompt_format,
            report=report,
        )
    return tokens, report


def _has_run(folder: Path) -> bool:
    return (folder / "run.json").is_file()


@dataclass
class _Run:
    """One reward model about to be trained: all inputs checked, nothing written yet."""

    config: TrainConfig
    objective: str
    folder: Path
    tokenizer: Any
    targets: list[str] | str
    splits: dict[str, list[TokenPair]]
    report: RowReport

    def go(self, progress: Progress | None) -> TrainResult:
        """Train (or resume, or find it done), evaluate, save."""
        identity = {**self.config.identity(), "data_sha256": fingerprint(self.config.data)}
        checkpoint = self._checkpoint(identity)
        if checkpoint == "done":
            metrics = json.loads((self.folder / "results.json").read_text())
            return TrainResult(str(self.folder), self.objective, metrics, self.report, True)
        for line in self.report.lines():
            logger.warning("%s", line)
        transformers.set_seed(self.config.seed)
        trainer, stop = self._trainer(progress)
        with storage_errors(self.folder):
            if checkpoint is None:
                self._forget()
            write_json(self.folder / "run.json", identity)
            trainer.train(resume_from_checkpoint=checkpoint)
            if stop.asked:
                raise Interrupted
            metrics = self._measure(trainer)
            self._save(trainer.model, metrics)
        return TrainResult(
            str(self.folder), self.objective, metrics, self.report, checkpoint is not None
        )

    def _forget(self) -> None:
        """Remove what a later resume would take for this run's: an overwritten run's remains."""
        (self.folder / "results.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    def _checkpoint(self, identity: dict[str, Any]) -> str | None:
        """The checkpoint to resume from, None for a fresh start, "done" for a finished run."""
        wanted = self.config.resume_from_checkpoint
        if wanted not in (None, "auto"):
            if not (Path(wanted) / "trainer_state.json").is_file():
                raise ConfigError(
                    f"no checkpoint at {wanted}", "name a checkpoint-N folder, or auto"
                )
            return wanted
        if wanted is None or not _has_run(self.folder):
            return None
        before = json.loads((self.folder / "run.json").read_text())
        if before != json.loads(json.dumps(identity)):
            changed = [k for k in identity if before.get(k) != json.loads(json.dumps(identity[k]))]
            raise OutputError(
                f"{self.folder} holds a run with other settings ({', '.join(changed)})",
                "use the same settings to resume, or --overwrite to start again",
            )
        if (self.folder / "results.json").is_file():
            return "done"
        complete = [
            path
            for path in (self.folder / "checkpoints").glob("checkpoint-*")
            if (path / "trainer_state.json").is_file()
        ]
        newest = max(complete, key=lambda p: int(p.name.rsplit("-", 1)[1]), default=None)
        return str(newest) if newest else None

    def _trainer(self, progress: Progress | None) -> tuple[PreferenceTrainer, CleanStop]:
        config = self.config
        judges = config.method == "trajectory"
        stop = CleanStop()
        trainer = PreferenceTrainer(
            model=self._model(),
            args=self._arguments(),
            data_collator=PairCollator(self.tokenizer.pad_token_id),
            train_dataset=self.splits["train"],
            eval_dataset=sorted(self.splits.get("validation", []), key=len) or None,
            rewards=trajectory_rewards
            if judges
            else ArmRewards(config.head_chunk_tokens, config.length_normalize),
            loss=LossOptions(
                config.loss_beta,
                config.margin,
                config.label_smoothing,
                config.loss_type,
                config.length_normalize,
            ),
            group_by_length=config.group_by_length,
            callbacks=[MetricsFile(self.folder / "metrics.jsonl"), stop],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        if progress is not None:
            trainer.add_callback(ProgressReport(progress, f"training {self.objective}".strip()))
        return trainer, stop

    def _model(self) -> Any:
        config = self.config
        judges = config.method == "trajectory"
        options: dict[str, Any] = {}
        if judges:
            options = {
                "auto_class": transformers.AutoModelForSequenceClassification,
                "num_labels": 1,
            }
        model = load_model(
            config.model,
            dtype="float32" if config.finetuning == "full" or not config.bf16 else "bfloat16",
            trust_remote_code=config.trust_remote_code,
            **options,
        )
        model.config.pad_token_id = self.tokenizer.pad_token_id
        if not judges:
            check_head(model)
        if config.finetuning == "lora":
            model = add_lora(model, config, self.targets)
            if config.gradient_checkpointing:
                model.enable_input_require_grads()
        return model.train()

    def _arguments(self) -> transformers.TrainingArguments:
        config = self.config
        evaluates = "validation" in self.splits
        return transformers.TrainingArguments(
            output_dir=str(self.folder / "checkpoints"),
            learning_rate=config.learning_rate,
            lr_scheduler_type=config.lr_scheduler_type,
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            num_train_epochs=config.num_train_epochs,
            max_steps=config.max_steps,
            per_device_train_batch_size=config.per_device_train_batch_size,
            per_device_eval_batch_size=config.per_device_eval_batch_size,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            gradient_checkpointing=config.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            max_grad_norm=config.max_grad_norm,
            bf16=config.bf16,
            use_cpu=not torch.accelerator.is_available(),  # else bf16 on a CPU is refused
            eval_strategy=config.eval_strategy if evaluates else "no",
            eval_steps=config.eval_steps,
            logging_steps=config.logging_steps,
            save_strategy=config.save_strategy,
            save_steps=config.save_steps,
            save_total_limit=config.save_total_limit,
            report_to=config.report_to or "none",
            seed=config.seed,
            data_seed=config.seed,
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )

    def _measure(self, trainer: PreferenceTrainer) -> dict[str, float]:
        logs = trainer.state.log_history
        summary: dict[str, float] = next(
            (entry for entry in reversed(logs) if "train_loss" in entry), {}
        )
        metrics = {"train_loss": trainer.loss_sum.mean}
        if "validation" in self.splits:
            done = [e for e in logs if "eval_loss" in e and e["step"] == trainer.state.global_step]
            found = done[-1] if done else trainer.evaluate()
            metrics |= {k: found[k] for k in ("eval_loss", "eval_accuracy", "eval_margin")}
            metrics["eval_n"] = len(self.splits["validation"])
        metrics["train_seconds"] = summary.get("train_runtime", float("nan"))
        return metrics

    def _save(self, model: Any, metrics: dict[str, float]) -> None:
        """Write the model, its tokenizer, sidecar and card; all appear together or not at all."""
        with whole_directory(self.folder) as staging:
            if is_lora := hasattr(model, "peft_config"):
                adapter = model.peft_config["default"]
                adapter.base_model_name_or_path = canonical(self.config.model)
                model.save_pretrained(staging, save_embedding_layers=False)
            else:
                model.save_pretrained(staging)
            self.tokenizer.save_pretrained(staging)
            sidecar = self._sidecar(model)
            sidecar.save(staging)
            card = model_card(
                sidecar,
                model=self.config.model,
                is_adapter=is_lora,
                datasets=[Path(p).name if Path(p).exists() else p for p in self.config.data],
                results=metrics,
                counts={name: len(pairs) for name, pairs in self.splits.items()},
                settings=asdict(
                    replace(self.config, data=[Path(p).name for p in self.config.data])
                ),
            )
            (staging / "README.md").write_text(card, encoding="utf-8")
            write_json(staging / "results.json", metrics)

    def _sidecar(self, model: Any) -> Sidecar:
        return Sidecar(
            method=self.config.method,
            objective=self.objective,
            beta=self.config.loss_beta,
            length_normalize=self.config.length_normalize,
            scale=self.config.scale,
            base_family=model.config.model_type,
            base_fingerprint=weights_fingerprint(self.config.model),
            tokenizer_fingerprint=vocab.fingerprint(self.tokenizer),
            prompt_format=self.config.prompt_format,
            data_sha256=fingerprint(self.config.data),
            command=_command(),
            trimtab_version=trimtab.__version__,
        )


def _command() -> str:
    """The command line that is running, when it is Trimtab's own."""
    program = Path(sys.argv[0]).name
    return shlex.join(["trimtab", *sys.argv[1:]]) if program == "trimtab" else "trimtab.train(…)"
