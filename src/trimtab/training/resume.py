"""Whether a run starts, goes on or is done already, decided from what its folder holds."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError, OutputError
from trimtab.files import require_fresh, write_json

RUN, RESULTS, CHECKPOINTS = "run.json", "results.json", "checkpoints"


@dataclass(frozen=True)
class Start:
    """Where a run starts.

    Attributes:
        checkpoint: the checkpoint folder to go on from; None for a fresh start.
        done: the run is finished, nothing is left to do.
    """

    checkpoint: str | None = None
    done: bool = False


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
        if not _is_complete(Path(wanted)):
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
    complete = filter(_is_complete, (folder / CHECKPOINTS).glob("checkpoint-*"))
    newest = max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
    return Start(str(newest) if newest else None)


def begin(folder: Path, identity: dict[str, Any], start: Start) -> None:
    """Write down which run this is; a fresh one first removes what a later resume would mistake."""
    if start.checkpoint is None:
        (folder / RESULTS).unlink(missing_ok=True)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    write_json(folder / RUN, identity)


def _is_complete(checkpoint: Path) -> bool:
    return (checkpoint / "trainer_state.json").is_file()  # transformers writes it last


def _changed(folder: Path, identity: dict[str, Any]) -> list[str]:
    """Settings in which a run differs from the one in the folder."""
    before = json.loads((folder / RUN).read_text())
    now = json.loads(json.dumps(identity))
    return [key for key in now if before.get(key) != now[key]]
