"""What is to be trained, found out before PyTorch is imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.arms.hub import Destination, destination, warn_of_a_local_base
from trimtab.data.sources import fingerprint
from trimtab.data.tally import RowTally
from trimtab.errors import ConfigError
from trimtab.training.checks import check
from trimtab.training.config import TrainConfig
from trimtab.training.reading import TrainData, read_data
from trimtab.training.resume import Start, find_start, identity_of

if TYPE_CHECKING:
    from trimtab.training.inputs import Inputs


@dataclass(frozen=True)
class TrainResult:
    """One trained reward model.

    Attributes:
        output_dir: where it stands.
        objective: what it was trained for.
        metrics: of training and, unless `eval_strategy` is `no`, of the last evaluation.
        rows: which rows of the data were used.
        resumed: whether an interrupted run was continued.
        url: its address at the hub, where it was pushed.
    """

    output_dir: str
    objective: str
    metrics: dict[str, float]
    rows: RowTally
    resumed: bool = False
    url: str = ""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after a checkpoint was written."""


@dataclass(frozen=True)
class Plan:
    """One reward model to be trained: what is known before PyTorch is imported.

    Attributes:
        config: the options.
        objective: what is trained for.
        folder: where it goes.
        identity: what a resumed run must share with the one it continues.
        data: what was read.
        destination: where it is pushed.
        prepare: makes the inputs of the data, in place of `prepare_inputs`.
    """

    config: TrainConfig
    objective: str
    folder: Path
    identity: dict[str, Any]
    data: TrainData
    destination: Destination | None = None
    prepare: Callable[..., Inputs] | None = None

    def start(self) -> Start:
        """Where the run starts, as its folder is now.

        Raises:
            OutputError, ConfigError: a folder or a checkpoint that cannot be gone on with.
        """
        wanted, overwrite = self.config.resume_from_checkpoint, self.config.overwrite
        return find_start(self.folder, self.identity, wanted, overwrite=overwrite)


def plan_runs(config: TrainConfig) -> list[Plan]:
    """What is to be trained, one run per objective or one for all; nothing is written.

    Raises:
        TrimtabError: options or data that cannot be used, an output directory of something else.
    """
    check(config)
    if config.push_to_hub and config.finetuning == "lora":
        warn_of_a_local_base(config.model)
    names = [""] if config.conditions else config.objective_names
    folders = {n: Path(config.output_dir) / (n if len(names) > 1 else "") for n in names}
    plans = [_plan(config, name, folder) for name, folder in folders.items()]
    for plan in plans[1:]:
        plan.data.tally.unused.clear()  # they read the same columns: said once
    return plans


def _plan(config: TrainConfig, objective: str, folder: Path) -> Plan:
    if folder.resolve() == Path(config.model).resolve():
        raise ConfigError(f"{folder} is the model's own folder", "choose another --output-dir")
    identity = {**identity_of(config), "data_sha256": fingerprint(config.data)}
    wanted, overwrite = config.resume_from_checkpoint, config.overwrite
    find_start(folder, identity, wanted, overwrite=overwrite)  # refused before data are read
    data = read_data(config, objective)
    return Plan(config, objective, folder, identity, data, _destination(config, objective))


def _destination(config: TrainConfig, objective: str) -> Destination | None:
    """Where the first process will push to; it logs in before anything is trained."""
    repo = config.hub_repo(objective)
    if not repo or int(os.environ.get("RANK", "0")):
        return None
    return destination(repo, private=config.hub_private_repo)
