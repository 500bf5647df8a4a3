"""Sequence classifiers: reward models with a head of their own, such as TRL's RewardTrainer saves.

They score whole responses and are no language models, though their backbone is one.
"""

from __future__ import annotations

import re
from pathlib import Path

from trimtab.errors import ModelLoadError
from trimtab.models.folder import adapter_base, adapter_config, is_adapter, read_json

SUFFIX = "ForSequenceClassification"
_HEAD = re.compile(r"(^|\.)(score|classifier|classification_head)(\.out_proj)?\.weight$")
HEADS = ("score.weight", "score.bias", "classifier.weight", "classifier.bias")
"""What a language model's file lacks where it is loaded as a classifier, and what is left of it."""
LM_HEADS = ("lm_head.weight", "lm_head.bias", "embed_out.weight")
_DEFAULT_LABELS = 2  # what transformers leaves out of config.json


def architectures(folder: str) -> list[str]:
    """What a local folder's config.json says the model is; nothing for an adapter's folder."""
    path = Path(folder) / "config.json"
    if is_adapter(folder) or not path.is_file():
        return []
    named = read_json(path).get("architectures")
    return [str(name) for name in named] if isinstance(named, list) else []


def is_classifier(folder: str) -> bool:
    """Whether a local folder holds a sequence classifier, or an adapter that makes one."""
    if is_adapter(folder):
        return adapter_config(folder).get("task_type") == "SEQ_CLS"
    return any(name.endswith(SUFFIX) for name in architectures(folder))


def require_language_model(folder: str) -> None:
    """Refuse a folder that holds a sequence classifier: its backbone alone means nothing.

    Raises:
        ModelLoadError: it is one.
    """
    if is_classifier(folder):
        kind = ", ".join(architectures(folder)) or "an adapter with task_type SEQ_CLS"
        raise ModelLoadError(
            f"{folder} is a sequence classifier ({kind}), not a language model",
            "it can judge whole responses (--scorer); steer with an ARM",
        )


def require_one_output(folder: str) -> None:
    """Refuse a classifier that does not give one number, from its files alone.

    Raises:
        ModelLoadError: it has several outputs, which are named, or an adapter without its head.
    """
    labels = _adapter_labels(folder) if is_adapter(folder) else _labels(folder)
    if len(labels) != 1:
        raise ModelLoadError(
            f"{folder} is a classifier with {len(labels)} outputs ({', '.join(labels)}), not a "
            "reward",
            "a scorer has one output (num_labels=1)",
        )


def _labels(folder: str) -> list[str]:
    config = read_json(Path(folder) / "config.json")
    names = config.get("id2label")
    if isinstance(names, dict):
        return [str(name) for name in names.values()]
    return [f"LABEL_{i}" for i in range(config.get("num_labels", _DEFAULT_LABELS))]


def _adapter_labels(folder: str) -> list[str]:
    """Of the head that the adapter holds, or else of its base's own."""
    from safetensors import safe_open

    base = adapter_base(folder)
    for path in sorted(Path(folder).glob("adapter_model*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                if _HEAD.search(name.replace(".modules_to_save", "")):
                    return [f"LABEL_{i}" for i in range(file.get_slice(name).get_shape()[0])]
    if is_classifier(base):
        return _labels(base)
    raise ModelLoadError(
        f"the adapter {folder} makes a classifier of {base}, but holds no head (score.weight)",
        "save it again with its head among modules_to_save",
    )
