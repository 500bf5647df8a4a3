"""`trimtab.json`: the facts about an ARM that PEFT and transformers have no place for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from trimtab.errors import MissingFileError, ModelLoadError
from trimtab.files import write_json
from trimtab.models.classifiers import is_classifier, require_one_output
from trimtab.models.folder import (
    adapter_base,
    adapter_revision,
    canonical,
    check_folder,
    is_local,
    read_json,
    weights_fingerprint,
)
from trimtab.models.types import PromptFormat

NAME = "trimtab.json"

Method = Literal["genarm", "parm", "uniarm", "dpo", "trajectory", "value"]
"""How a model can be trained from data."""
CONDITIONED_METHODS = ("parm", "uniarm")
SCALAR_METHODS = ("trajectory", "value")
"""Their model has a scalar head in place of the LM head."""
ReferenceModel = Literal["none", "start"]
RewardHead = Literal["logprob", "linear"]


@dataclass(frozen=True)
class Sidecar:
    """Facts stored beside the weights. A folder without one is an ARM with the defaults.

    Attributes:
        method: how it was trained; `distill`: from a guide, with no data.
        objective: the objective it was trained for; "" for a conditioned ARM, whose objectives are
            in its `adapter_config.json`.
        beta: β_r of the training loss.
        betas: objective -> β_r, for a conditioned ARM.
        length_normalize: whether a response's reward is per token rather than a sum.
        reference: what a token's log-prob is measured against: nothing, or its log-prob under the
            model that training started from (`start`).
        reward_head: a token's score: its log-prob, or its raw logit (`linear`).
        start: of a whole model, folder or hub id of the model that training started from, whose
            weights have `base_fingerprint`; an adapter's is in its `adapter_config.json`.
        start_revision: of that hub id.
        preference: what a conditioned ARM was exported at.
        scale: calibration; multiplies the strength of this ARM.
        base_family: architecture of the backbone, such as `llama`.
        base_fingerprint: identity of the backbone's weights ("" when it came from the hub); an
            adapter is put on no others (`require_base`, `same_backbone`).
        prompt_format: how plain-text prompts were read in training.
        split: how the data were split; `none` trained on every row.
        data_sha256: hash of the training files.
        command: the command that trained it.
        trimtab_version: the version that wrote this.
    """

    method: Method | Literal["distill"] = "genarm"
    objective: str = ""
    beta: float = 0.05
    betas: dict[str, float] = field(default_factory=dict)
    length_normalize: bool = False
    reference: ReferenceModel = "none"
    reward_head: RewardHead = "logprob"
    start: str = ""
    start_revision: str | None = None
    preference: str = ""
    scale: float = 1.0
    base_family: str = ""
    base_fingerprint: str = ""
    prompt_format: PromptFormat = "auto"
    split: str = "hash"
    data_sha256: str = ""
    command: str = ""
    trimtab_version: str = ""

    def save(self, folder: Path) -> None:
        """Write `trimtab.json` into the folder."""
        write_json(folder / NAME, asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> Sidecar:
        """Read a folder's sidecar; its absence is not an error."""
        path = Path(folder) / NAME
        if not path.is_file():
            return cls()
        known = {field.name for field in fields(cls)}
        facts: dict[str, Any] = {k: v for k, v in read_json(path).items() if k in known}
        return cls(**facts)


def store_scale(folder: str | Path, scale: float) -> None:
    """Put a calibration into a folder's sidecar.

    All else that it holds, known here or not, keeps its value and its place; the text itself is
    written anew (spaces, how a number is spelt).
    """
    path = Path(folder) / NAME
    facts = read_json(path) if path.is_file() else {}
    write_json(path, {**facts, "scale": scale})


def arm_facts(name: str, what: str = "ARM") -> Sidecar:
    """An ARM folder's sidecar, after checking that the folder can be loaded and is an ARM's."""
    sidecar = language_model_facts(name, what)
    if sidecar.method == "dpo":
        raise ModelLoadError(
            f"{name} was trained with --method dpo: it is a policy, and no ARM",
            f"decode it with --policy NAME={name}, or take it as an implicit reward: "
            f"--contrast NAME={name}:BASE",
        )
    return sidecar


def language_model_facts(name: str, what: str = "ARM") -> Sidecar:
    """The sidecar of a folder with an LM head (an ARM's, a policy's), which can be loaded."""
    check_folder(name, what=what)
    sidecar = Sidecar.load(name)
    if sidecar.method in SCALAR_METHODS:
        does = "scores whole responses" if sidecar.method == "trajectory" else "values what is said"
        raise ModelLoadError(
            f"{name} was trained with --method {sidecar.method}: it {does}",
            f"guide with an ARM (--method genarm, parm, uniarm); a {sidecar.method} model can only "
            "judge",
        )
    return sidecar


def require_scalar(folder: str, label: str) -> None:
    """Refuse what gives no scalar reward, from its files alone.

    Args:
        folder: the model's.
        label: what it is, for a message.

    Raises:
        ModelLoadError: it is a language model, or a classifier with several outputs.
    """
    check_folder(folder, what=label)
    if not (Sidecar.load(folder).method in SCALAR_METHODS or is_classifier(folder)):
        raise ModelLoadError(
            f"the {label} {folder} is a language model, which gives no scalar reward",
            "name a sequence classifier with one output (trimtab train --method trajectory); an "
            "ARM guides (--arm)",
        )
    require_one_output(folder)


def same_backbone(adapter: str, backbone: str, revision: str | None = None) -> bool:
    """Whether an adapter was trained on this model, which may have been moved since.

    Where both are known it is the weights that count: another model may stand in the old place. Of
    a hub id it is the revision that the adapter names, if it names one.

    Args:
        adapter: its folder.
        backbone: folder, GGUF file or hub id.
        revision: of the hub id.
    """
    trained_on = Sidecar.load(adapter).base_fingerprint
    if trained_on and is_local(backbone):
        return trained_on == weights_fingerprint(backbone)
    if canonical(adapter_base(adapter)) != canonical(backbone):
        return False
    return is_local(backbone) or adapter_revision(adapter) in (None, revision)


def require_base(adapter: str) -> str:
    """The model an adapter was trained on, which must still be where it was, and as it was.

    Raises:
        MissingFileError: it is not there.
        ModelLoadError: other weights are there.
    """
    base = adapter_base(adapter)
    if not base:
        raise ModelLoadError(
            f"the adapter {adapter} does not say which model it was trained on",
            "put it into base_model_name_or_path of its adapter_config.json",
        )
    try:
        check_folder(base)
    except MissingFileError:
        raise MissingFileError(
            f"the adapter {adapter} was trained on {base}, which is not there",
            "put the new place into base_model_name_or_path of its adapter_config.json",
        ) from None
    if is_local(base) and not same_backbone(adapter, base):
        raise ModelLoadError(
            f"{base} no longer holds the weights that the adapter {adapter} was trained on",
            "put them back, or train it again; where only their format has changed (type, shards), "
            f"remove base_fingerprint from its {NAME}",
        )
    return base
