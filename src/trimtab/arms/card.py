"""The model card written beside a reward model: for people, with metadata that the hub accepts.

The hub refuses a push whose card names a base model or a data set that is no hub id, so those on
this machine are named in the text alone. No licence is put into users' mouths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.arms.sidecar import SCALAR_METHODS, Sidecar
from trimtab.stats import Estimate

_KINDS = {
    "genarm": ("an autoregressive reward model", "GenARM, arXiv 2410.08193"),
    "parm": ("an autoregressive reward model for every preference", "PARM, arXiv 2505.06274"),
    "uniarm": (
        "an autoregressive reward model for every preference",
        "a reconstruction of UniARM, arXiv 2602.09538",
    ),
    "dpo": ("a policy", "DPO, arXiv 2305.18290"),
    "distill": ("an autoregressive reward model", "distilled from a guide"),
    "trajectory": ("a reward model of whole responses", "Bradley-Terry, scalar head"),
    "value": ("a value model", "VAS, arXiv 2405.06639"),
}

_WHAT = {
    "arm": "It guides a frozen language model while that writes: at every token its own "
    "log-probability is the reward, which is added to the frozen model's. No weight of the guided "
    "model changes. Both need the same tokenizer.",
    "dpo": "It is a language model of its own, trained by DPO against the model that it started "
    "from: decode it, or set it against that model and steer another base of the same tokenizer "
    "by the difference (an implicit reward).",
    "value": "After every token it says what reward the whole response will have, if the model "
    "that wrote the samples goes on. It judges beginnings; value-augmented sampling searches "
    "with it.",
    "trajectory": "It reads a whole response and gives it one number, the higher the better. It "
    "judges; to guide a model token by token, train an autoregressive one.",
}

_LIMITS = (
    "A reward model repeats what its data say, their mistakes too. The harder it pulls "
    "(`strength`), the further answers leave the guided model's language: look at them, and "
    "measure on prompts of your own."
)


@dataclass(frozen=True)
class Made:
    """How a reward model came about, as its card tells it.

    Attributes:
        model: what it was trained on: folder, GGUF file or hub id.
        place: the folder or hub id where it will be found.
        is_adapter: a LoRA or a conditioned adapter, no whole model.
        objectives: of a conditioned ARM.
        data: names of the files and hub ids it was trained on.
        datasets: those at the hub.
        pairs: split -> number of pairs.
        accuracy: objective -> share of held-out pairs ranked right.
        results: everything measured at the end, by its name in the logs.
        settings: all options.
        has_bias: of an exported LoRA.
    """

    model: str
    place: str
    is_adapter: bool
    objectives: Sequence[str] = ()
    data: Sequence[str] = ()
    datasets: Sequence[str] = ()
    pairs: Mapping[str, int] = field(default_factory=dict)
    accuracy: Mapping[str, Estimate] = field(default_factory=dict)
    results: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    has_bias: bool = False


def model_card(sidecar: Sidecar, made: Made) -> str:
    """Markdown with the hub's front matter: what it is, how to use it, how it was made."""
    from huggingface_hub import ModelCardData

    what, source = _KINDS[sidecar.method]
    name = sidecar.objective or ", ".join(made.objectives) or "unnamed objective"
    front = ModelCardData(**_metadata(sidecar, made, name), ignore_metadata_errors=False)
    kind = sidecar.method if sidecar.method in _WHAT else "arm"
    parts = [
        f"---\n{front.to_yaml()}\n---",
        f"# {name}: {what}",
        f"{_WHAT[kind]} ({source}.) Trained with Trimtab {sidecar.trimtab_version} on "
        f"`{made.model}`.{_against(sidecar)}{_fixed(sidecar, made)}",
        f"## Use it\n\n{_usage(sidecar, made)}",
        f"## How well it judges\n\n{_measured(made)}",
        f"## How it was made\n\n{_origin(sidecar, made)}",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _metadata(sidecar: Sidecar, made: Made, name: str) -> dict[str, Any]:
    judges = sidecar.method in SCALAR_METHODS
    base = made.model if is_hub_id(made.model) else None
    tags = ["trimtab", "reward-model", sidecar.method, *(sidecar.objective or "").split("+")]
    relation = {"base_model_relation": "adapter" if made.is_adapter else "finetune"}
    library = "trimtab" if made.objectives else "peft" if made.is_adapter else "transformers"
    return {
        "library_name": library,
        "pipeline_tag": "text-classification" if judges else "text-generation",
        "tags": [tag for tag in tags if tag],
        "base_model": base,
        **(relation if base else {}),
        "datasets": [*made.datasets] or None,
        **(_evaluated(made, name) if made.accuracy else {}),
    }


def _evaluated(made: Made, name: str) -> dict[str, Any]:
    """The hub's `model-index`."""
    from huggingface_hub import EvalResult

    results = [
        EvalResult(
            task_type="text-classification",
            task_name="Ranking preference pairs",
            dataset_type=made.datasets[0] if made.datasets else "preference-pairs",
            dataset_name=f"held-out pairs ({objective})" if objective else "held-out pairs",
            dataset_config=objective or None,
            dataset_split="validation",
            metric_type="accuracy",
            metric_name=f"pairwise accuracy, n={accuracy.n}, 95 % interval {_interval(accuracy)}",
            metric_value=round(accuracy.value, 4),
        )
        for objective, accuracy in made.accuracy.items()
    ]
    return {"model_name": name, "eval_results": results}


def _fixed(sidecar: Sidecar, made: Made) -> str:
    if not sidecar.preference:
        return ""
    bias = " Its update has a bias (`lora_bias`), which PEFT applies and cannot merge."
    return f" Exported at the preference {sidecar.preference}.{bias if made.has_bias else ''}"


def _against(sidecar: Sidecar) -> str:
    if sidecar.reference == "none" or sidecar.method == "dpo":
        return ""
    return (
        " Its reward is the log-prob less that under the model it started from "
        "(`reference: start` in `trimtab.json`): whatever decodes it has to subtract that."
    )


def _usage(sidecar: Sidecar, made: Made) -> str:
    prompt = "How do I bake bread?"
    if sidecar.method == "dpo":
        lines = [
            "import trimtab",
            f'engine = trimtab.load("{made.model}", contrast={{"dpo": ("{made.place}", '
            f'"{made.model}")}})',
            f'[answer] = engine.generate(["{prompt}"], strength=1.0, max_new_tokens=100)',
            "print(answer.text)",
        ]
        return f"{_python(lines)}\n\nThat is the policy itself; another base is steered by it."
    if sidecar.method in SCALAR_METHODS:
        lines = [
            "import trimtab",
            'answer = "With flour, water, salt and yeast."',
            f'[scored] = trimtab.score("{made.place}", ["{prompt}"], [answer])',
            "print(scored.reward)",
        ]
        return _python(lines)
    objective = sidecar.objective or "reward"
    key = "all" if made.objectives else objective
    weights = {o: round(1 / len(made.objectives), 2) for o in made.objectives}
    preference = f"preference={weights}, ".replace("'", '"') if weights else ""
    lines = [
        "import trimtab",
        f'engine = trimtab.load("{made.model}", arms={{"{key}": "{made.place}"}})',
        f'[answer] = engine.generate(["{prompt}"], {preference}strength=1.0, max_new_tokens=100)',
        "print(answer.text)",
    ]
    given = ",".join(f"{o}={w}" for o, w in weights.items())
    arm = f"{made.place} --preference {given}" if weights else f"{objective}={made.place}"
    command = f'    trimtab generate --base {made.model} --arm {arm} --prompt "{prompt}"'
    return f"{_python(lines)}\n\nor\n\n{command}\n\n{_LIMITS}"


def _python(lines: Sequence[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _measured(made: Made) -> str:
    if not made.accuracy:
        return "Not measured when it was trained: `trimtab accuracy` does it."
    rows = [
        f"| {name or 'all'} | {accuracy.value:.3f} | {_interval(accuracy)} | {accuracy.n} |"
        for name, accuracy in made.accuracy.items()
    ]
    head = "| pairs | accuracy | 95 % interval | n |\n| --- | --- | --- | --- |"
    told = "On held-out (validation) pairs; a tie counts one half, chance is 0.5."
    return f"{told}\n\n{head}\n" + "\n".join(rows)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} – {estimate.high:.3f}"


def _origin(sidecar: Sidecar, made: Made) -> str:
    betas = ", ".join(f"{name} {value:g}" for name, value in sidecar.betas.items())
    pairs = ", ".join(f"{count} {split}" for split, count in made.pairs.items())
    facts = [f"    {sidecar.command}"] if sidecar.command else []
    told = f"β_r {betas or sidecar.beta}, scale {sidecar.scale}."
    if made.data:
        told += f" Pairs: {pairs}, from {', '.join(f'`{name}`' for name in made.data)}."
    facts.append(f"{told} Data SHA-256 `{sidecar.data_sha256}`.")
    if made.results:
        rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in made.results.items())
        facts.append(f"| measured at the end | value |\n| --- | --- |\n{rows}")
    options = "\n".join(f"{key}: {value}" for key, value in made.settings.items())
    facts.append(
        f"<details><summary>All settings</summary>\n\n```yaml\n{options}\n```\n\n</details>"
    )
    return "\n\n".join(facts)


def is_hub_id(name: str) -> bool:
    """Whether a model or a data set is at the hub, rather than on this machine."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
