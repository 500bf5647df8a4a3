"""What a finished run writes: model, tokenizer, sidecar, card and results, all or nothing."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trimtab.arms.card import Made, is_hub_id, model_card
from trimtab.arms.conditioned_files import save_adapter
from trimtab.arms.sidecar import Sidecar
from trimtab.data.sources import fingerprint, split_name
from trimtab.files import OTHER_MODEL, whole_directory, write_json
from trimtab.models.folder import canonical, weights_fingerprint
from trimtab.stats import Estimate, share
from trimtab.training.betas import loss_beta, named_betas
from trimtab.training.config import TrainConfig
from trimtab.training.inputs import Inputs
from trimtab.training.resume import RESULTS
from trimtab.version import __version__


def save_result(
    folder: Path,
    model: Any,
    config: TrainConfig,
    objective: str,
    inputs: Inputs,
    metrics: dict[str, float],
    state: dict[str, Any] | None = None,
    place: str = "",
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
        place: the hub id where it will be found, if not in its folder.
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
        made = _made(place or str(folder), config, objective, inputs, metrics, is_adapter=is_lora)
        (staging / "README.md").write_text(model_card(sidecar, made), encoding="utf-8")
        write_json(staging / RESULTS, metrics)


def _made(
    place: str,
    config: TrainConfig,
    objective: str,
    inputs: Inputs,
    metrics: dict[str, float],
    *,
    is_adapter: bool,
) -> Made:
    """What the card tells of a training."""
    files = [split_name(entry)[1] for entry in config.data]
    names = [Path(path).name if Path(path).exists() else path for path in files]
    sets = [path.partition(":")[0] for path in files if is_hub_id(path.partition(":")[0])]
    return Made(
        model=config.model,
        place=place,
        is_adapter=is_adapter,
        objectives=inputs.objectives,
        data=names,
        datasets=list(dict.fromkeys(sets)),
        pairs={name: len(pairs) for name, pairs in inputs.rows.items()},
        accuracy=_accuracy(metrics, objective, inputs),
        results=metrics,
        settings=asdict(replace(config, data=names)),
    )


def _accuracy(metrics: dict[str, float], objective: str, inputs: Inputs) -> dict[str, Estimate]:
    """Objective -> share of held-out pairs ranked right, with its interval."""
    if "eval_accuracy" not in metrics:
        return {}
    if not inputs.objectives:
        return {objective: _share(metrics["eval_accuracy"], int(metrics["eval_n"]))}
    pairs = inputs.splits.get("validation", [])
    counts = {name: sum(name in pair.verdicts for pair in pairs) for name in inputs.objectives}
    accuracy = {name: metrics.get(f"eval_accuracy_{name}") for name in counts}
    return {
        name: _share(value, counts[name]) for name, value in accuracy.items() if value is not None
    }


def _share(accuracy: float, n: int) -> Estimate:
    return share(accuracy * n, n)


def _sidecar(model: Any, config: TrainConfig, objective: str, inputs: Inputs) -> Sidecar:
    whole = config.finetuning == "full"
    by_objective = config.conditions and bool(named_betas(config))
    return Sidecar(
        method=config.method if inputs.teacher is None else "distill",
        objective=objective,
        beta=0.0 if by_objective or config.method == "value" else loss_beta(config, objective),
        betas={name: loss_beta(config, name) for name in inputs.objectives},
        length_normalize=config.length_normalize,
        reference="start" if config.has_reference else "none",
        reward_head=config.reward_head,
        start=canonical(config.model) if whole and config.has_reference else "",
        start_revision=config.revision if whole and config.has_reference else None,
        scale=config.scale,
        base_family=model.config.model_type,
        base_fingerprint=weights_fingerprint(config.model),
        prompt_format=config.prompt_format,
        split=config.split,
        data_sha256=fingerprint(config.data),
        command=_command(),
        trimtab_version=__version__,
    )


def _command() -> str:
    """The command line that is running, when it is Trimtab's own."""
    program = Path(sys.argv[0])
    ours = program.name == "trimtab" or program.parts[-2:] == ("trimtab", "__main__.py")
    return shlex.join(["trimtab", *sys.argv[1:]]) if ours else "trimtab.train(…)"
