"""What a finished run writes: model, tokenizer, sidecar, card and results, all or nothing."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import trimtab
from trimtab.arms.card import model_card
from trimtab.arms.conditioned_files import save_adapter
from trimtab.arms.folder import canonical, weights_fingerprint
from trimtab.arms.sidecar import Sidecar
from trimtab.data.sources import fingerprint, split_name
from trimtab.files import OTHER_MODEL, whole_directory, write_json
from trimtab.training.config import TrainConfig
from trimtab.training.inputs import Inputs
from trimtab.training.resume import RESULTS


def save_result(
    folder: Path,
    model: Any,
    config: TrainConfig,
    objective: str,
    inputs: Inputs,
    metrics: dict[str, float],
    state: dict[str, Any] | None = None,
) -> None:
    """Write one reward model into its folder.

    Args:
        folder: where it goes.
        model: as trained, unwrapped.
        config: the options it was trained with.
        objective: what it was trained for.
        inputs: tokenizer and splits.
        metrics: measured at the end.
        state: gathered weights, where the model's own are sharded over processes.
    """
    with whole_directory(folder, OTHER_MODEL) as staging:
        is_lora = hasattr(model, "peft_config") or config.conditions
        if config.conditions:
            save_adapter(model, staging)
        elif is_lora:
            model.peft_config["default"].base_model_name_or_path = canonical(config.model)
            model.save_pretrained(staging, save_embedding_layers=False, state_dict=state)
        else:
            model.save_pretrained(staging, state_dict=state)
        inputs.tokenizer.save_pretrained(staging)
        sidecar = _sidecar(model, config, objective, inputs)
        sidecar.save(staging)
        files = [split_name(entry)[1] for entry in config.data]
        names = [Path(path).name if Path(path).exists() else path for path in files]
        card = model_card(
            sidecar,
            model=config.model,
            is_adapter=is_lora,
            datasets=names,
            results=metrics,
            counts={name: len(pairs) for name, pairs in inputs.splits.items()},
            settings=asdict(replace(config, data=names)),
            objectives=inputs.objectives,
        )
        (staging / "README.md").write_text(card, encoding="utf-8")
        write_json(staging / RESULTS, metrics)


def _sidecar(model: Any, config: TrainConfig, objective: str, inputs: Inputs) -> Sidecar:
    return Sidecar(
        method=config.method,
        objective=objective,
        beta=config.loss_beta(objective) if not (config.conditions and config.betas) else 0.0,
        betas={name: config.loss_beta(name) for name in inputs.objectives},
        length_normalize=config.length_normalize,
        scale=config.scale,
        base_family=model.config.model_type,
        base_fingerprint=weights_fingerprint(config.model),
        prompt_format=config.prompt_format,
        split=config.split,
        data_sha256=fingerprint(config.data),
        command=_command(),
        trimtab_version=trimtab.__version__,
    )


def _command() -> str:
    """The command line that is running, when it is Trimtab's own."""
    program = Path(sys.argv[0])
    ours = program.name == "trimtab" or program.parts[-2:] == ("trimtab", "__main__.py")
    return shlex.join(["trimtab", *sys.argv[1:]]) if ours else "trimtab.train(…)"
