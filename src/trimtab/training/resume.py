"""Whether a run starts, goes on or is done already, decided from what its folder holds."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, OutputError
from trimtab.files import require_fresh, sync, write_json
from trimtab.training.betas import loss_beta, named_betas
from trimtab.training.config import TrainConfig

RUN, RESULTS, CHECKPOINTS = "run.json", "results.json", "checkpoints"
SEAL = "whole.json"
"""In a checkpoint's folder: it was written to its end."""
_MAY_CHANGE = {
    "resume_from_checkpoint", "overwrite", "report_to", "output_dir", "save_total_limit",
    "push_to_hub", "hub_model_id", "hub_private_repo",
}  # fmt: skip
"""Options in which a run that goes on may differ from what it was."""


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        checkpoint: the checkpoint folder to go on from; None for a fresh start.
        done: the run is finished, nothing is left to do.
    """

    checkpoint: str | None = None
    done: bool = False


def identity_of(config: TrainConfig) -> dict[str, Any]:
    """The settings that a resumed run must share with the one it continues."""
    settings = {name: value for name, value in asdict(config).items() if name not in _MAY_CHANGE}
    beta = config.beta if named_betas(config) else loss_beta(config)  # its default may change
    return {**settings, "beta": beta}


def find_start(
    folder: Path, identity: dict[str, Any], wanted: str | None, *, overwrite: bool
) -> Start:
    """Decide where a run starts; nothing is written.

    Args:
        folder: the output directory.
        identity: the settings that a resumed run must share with the one it continues.
        wanted: None, `auto` or a checkpoint folder.
        overwrite: allow a folder that holds something else.

    Raises:
        OutputError: a folder that must not be overwritten, or a run with other settings.
        ConfigError: a checkpoint that is not there.
    """
    has_run = (folder / RUN).is_file()
    if not has_run or wanted is None:
        require_fresh(folder, overwrite=overwrite)
    if wanted not in (None, "auto"):
        if not _is_whole(Path(wanted)):
            raise ConfigError(f"no checkpoint at {wanted}", "name a checkpoint-N folder, or auto")
        return Start(wanted)
    if wanted is None or not has_run:
        return Start()
    if changed := _changed(folder, identity):
        if overwrite:
            return Start()
        raise OutputError(
            f"{folder} holds a run with other settings ({', '.join(changed)})",
            "use the same settings to resume, or --overwrite to start again",
        )
    if (folder / RESULTS).is_file():
        return Start(done=True)
    newest = newest_checkpoint(folder)
    return Start(str(newest) if newest else None)


def begin(folder: Path, identity: dict[str, Any], start: Start) -> None:
    """Write down which run this is; first remove what a later resume would mistake for its own."""
    if start.checkpoint is None:
        (folder / RESULTS).unlink(missing_ok=True)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    else:
        for later in _checkpoints(folder / CHECKPOINTS):
            if _step(later) > _step(Path(start.checkpoint)):
                (later / SEAL).unlink(missing_ok=True)  # it will be written over
    write_json(folder / RUN, identity)


def seal(checkpoint: Path) -> None:
    """Put a checkpoint on disk and say that it is whole."""
    for path in checkpoint.rglob("*"):
        sync(path)
    sync(checkpoint)
    write_json(checkpoint / SEAL, {"step": _step(checkpoint)})


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    whole = filter(_is_whole, _checkpoints(folder / CHECKPOINTS))
    return max(whole, key=_step, default=None)


def keep_newest(checkpoints: Path, keep: int) -> None:
    """Remove whole checkpoints but the newest so many; with 0 none."""
    whole = sorted(filter(_is_whole, _checkpoints(checkpoints)), key=_step)
    for old in whole[:-keep] if keep > 0 else ():
        (old / SEAL).unlink()
        shutil.rmtree(old)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _is_whole(checkpoint: Path) -> bool:
    return (checkpoint / SEAL).is_file()


def _changed(folder: Path, identity: dict[str, Any]) -> list[str]:
    """Settings in which a run differs from the one in the folder."""
    before = json.loads((folder / RUN).read_text())
    now = json.loads(json.dumps(identity))
    return [key for key in now if before.get(key) != now[key]]
