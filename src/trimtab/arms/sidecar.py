"""`trimtab.json`: the facts about an ARM that PEFT and transformers have no place for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from trimtab.arms.folder import read_json
from trimtab.data.tokenize import PromptFormat
from trimtab.files import write_json

NAME = "trimtab.json"

Method = Literal["genarm", "parm", "uniarm", "trajectory"]
CONDITIONED_METHODS = ("parm", "uniarm")


@dataclass(frozen=True)
class Sidecar:
    """Facts stored beside the weights. A folder without one is an ARM with the defaults.

    Attributes:
        method: how it was trained.
        objective: the objective it was trained for; "" for a conditioned ARM, whose objectives are
            in its `adapter_config.json`.
        beta: β_r of the training loss.
        betas: objective -> β_r, for a conditioned ARM.
        length_normalize: whether a response's reward is per token rather than a sum.
        preference: what a conditioned ARM was exported at.
        scale: calibration; multiplies the strength of this ARM.
        base_family: architecture of the backbone, such as `llama`.
        base_fingerprint: identity of the backbone's weights ("" when it came from the hub).
        tokenizer_fingerprint: identity of the (id, token) list.
        prompt_format: how plain-text prompts were read in training.
        split: how the data were split; `none` trained on every row.
        data_sha256: hash of the training files.
        command: the command that trained it.
        trimtab_version: the version that wrote this.
    """

    method: Method = "genarm"
    objective: str = ""
    beta: float = 0.05
    betas: dict[str, float] = field(default_factory=dict)
    length_normalize: bool = False
    preference: str = ""
    scale: float = 1.0
    base_family: str = ""
    base_fingerprint: str = ""
    tokenizer_fingerprint: str = ""
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
