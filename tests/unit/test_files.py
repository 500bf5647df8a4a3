"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trimtab.errors import ModelLoadError, OutputError
from trimtab.files import (
    only_writer,
    require_fresh,
    storage_errors,
    whole_directory,
    write_json,
    write_text,
)
from trimtab.models.folder import check_folder
from trimtab.training.resume import find_start


def test_a_folder_fills_only_when_all_went_well(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with whole_directory(out) as staging:
        (staging / "a").write_text("1")
        (staging / "sub").mkdir()
        (staging / "sub" / "b").write_text("2")
        assert not (out / "a").exists()
    assert sorted(path.name for path in out.iterdir()) == ["a", "sub"]
    assert (out / "sub" / "b").read_text() == "2"


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(RuntimeError), whole_directory(tmp_path) as staging:
        (staging / "a").write_text("new")
        (staging / "b").write_text("new")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_the_same_names_are_replaced_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "keep").write_text("old")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "stale").write_text("old")
    with whole_directory(tmp_path) as staging:
        (staging / "a").write_text("new")
        (staging / "sub").mkdir()
    assert (tmp_path / "a").read_text() == "new"
    assert (tmp_path / "keep").read_text() == "old"
    assert not list((tmp_path / "sub").iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        PermissionError(errno.EACCES, "Permission denied"),
        # safetensors and torch wrap the system's words in types of their own
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    ],
)
def test_storage_errors_become_output_errors(error: Exception) -> None:
    with pytest.raises(OutputError, match="cannot write out"), storage_errors(Path("out")):
        raise error


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), storage_errors(Path("out")):
        raise KeyError("x")


def test_a_text_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "facts.json"
    write_json(path, {"a": "é"})
    assert json.loads(path.read_text()) == {"a": "é"}
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new, then a lone surrogate \ud800")  # fails after the file is open
    assert json.loads(path.read_text()) == {"a": "é"}
    assert [p.name for p in tmp_path.iterdir()] == ["facts.json"]


def test_a_used_directory_needs_overwrite(tmp_path: Path) -> None:
    require_fresh(tmp_path, overwrite=False)
    require_fresh(tmp_path / "none", overwrite=False)
    (tmp_path / "a").write_text("")
    with pytest.raises(OutputError, match=r"is not empty; .*--overwrite"):
        require_fresh(tmp_path, overwrite=False)
    require_fresh(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="is a file"):
        require_fresh(tmp_path / "a", overwrite=True)


# --- killed at any moment -----------------------------------------------------------------------

FILES = {
    "README.md": "card",
    "adapter_config.json": '{"peft_type": "LORA"}',
    "adapter_model.safetensors": "weights",
    "results.json": "{}",
    "tokenizer.json": "tokens",
    "trimtab.json": '{"scale": 2}',
}
WHOLE = {  # another model, which was trained before in the same folder
    "README.md": "old card",
    "chat_template.jinja": "old template",
    "config.json": "{}",
    "generation_config.json": "{}",
    "model-00001-of-00002.safetensors": "old weights",
    "results.json": '{"old": 1}',
    "tokenizer.json": "old tokens",
    "trimtab.json": '{"scale": 3}',
}
SAVE = """
import json, os, sys
from pathlib import Path
from trimtab.files import OTHER_MODEL, whole_directory

out, files, left = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])

def kill(event, arguments):
    global left
    if event in ("os.rename", "os.remove", "os.rmdir"):
        left -= 1
        if left < 0:
            os._exit(9)

with whole_directory(out, OTHER_MODEL) as staging:
    for name, text in files.items():
        (staging / name).write_text(text)
    sys.addaudithook(kill)
"""


def save(out: Path, files: dict[str, str], steps: int) -> bool:
    """Save in a process that is killed after so many renames and removals; whether it ended."""
    command = [sys.executable, "-c", SAVE, str(out), json.dumps(files), str(steps)]
    return subprocess.run(command, check=False).returncode == 0


def content(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("before", [{}, WHOLE], ids=["a fresh run", "over another model"])
def test_a_kill_between_any_two_renames(tmp_path: Path, before: dict[str, str]) -> None:
    """What stands there is the old model, the new one, or none that anything takes for one."""
    states = set()
    for steps in range(40):
        out = tmp_path / str(steps)
        out.mkdir()
        for name, text in before.items():
            (out / name).write_text(text)
        ended = save(out, FILES, steps)
        found = content(out)
        if found == before:
            states.add("old")
        elif "results.json" in found:
            assert found == FILES
            states.add("new")
        elif found.keys() & {"config.json", "adapter_config.json"}:
            # A model: all of one, though the run that made it may not count as finished.
            whole = [{k: v for k, v in m.items() if k != "results.json"} for m in (before, FILES)]
            assert found in whole
            states.add("model")
        else:
            with pytest.raises(ModelLoadError, match="neither"):
                check_folder(str(out))
            states.add("none")
        write_json(out / "run.json", {})
        assert find_start(out, {}, "auto", overwrite=False).done == ("results.json" in found)
        assert save(out, FILES, 99)  # the next one sweeps what was left
        assert {p.name for p in out.iterdir()} == {*FILES, "run.json"}
        if ended:
            break
    assert ended
    assert states == {"old", "new", "model", "none"}


def test_what_a_killed_run_was_writing_is_nothing_to_lose(tmp_path: Path) -> None:
    assert not save(tmp_path, FILES, 0)
    assert [p.name[:8] for p in tmp_path.iterdir()] == [".saving-"]
    require_fresh(tmp_path, overwrite=False)


def test_the_files_are_on_disk_before_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that stops keeps what was synced: the marker is renamed when all else is."""
    synced: list[Path] = []
    monkeypatch.setattr("trimtab.files.sync", synced.append)
    with whole_directory(tmp_path) as staging:
        (staging / "config.json").write_text("{}")
        (staging / "weights").write_text("w")
    assert {p.name for p in synced[:2]} == {"config.json", "weights"}
    assert synced[2:] == [staging, tmp_path, tmp_path]


# --- one writer ---------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from trimtab.files import only_writer

with only_writer(Path(sys.argv[1]), folder=sys.argv[2] == "folder"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_one_process_writes(tmp_path: Path, kind: str) -> None:
    """A second is refused at once; a killed one stands in nobody's way; no file is left."""
    target, folder = tmp_path / "deep" / "out", kind == "folder"
    command = [sys.executable, "-c", HOLD, str(target), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with (
            pytest.raises(OutputError, match=f"another run is writing {target}"),
            only_writer(target, folder=folder),
        ):
            pytest.fail("two writers")
        assert time.monotonic() - started < 5
        with only_writer(tmp_path / "deep" / "other", folder=folder):
            pass  # its neighbour is free
        holder.send_signal(signal.SIGKILL)
    assert list((tmp_path / "deep").rglob(".*"))  # what the kill left
    with only_writer(target, folder=folder):
        require_fresh(target if folder else tmp_path / "none", overwrite=False)
    assert not list(tmp_path.rglob(".*"))


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_writer(tmp_path / "a" / "b" / "out.jsonl"):
        raise KeyError
    with only_writer(tmp_path / "c" / "d", folder=True):
        pass
    assert not list(tmp_path.iterdir())
    with only_writer(tmp_path / "a" / "b", folder=True):
        (tmp_path / "a" / "b" / "x").write_text("x")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["a", "a/b", "a/b/x"]


@pytest.mark.parametrize("folder", [True, False])
def test_a_place_under_a_file_is_refused(tmp_path: Path, folder: bool) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(OutputError, match="file is a file; name a directory"),
        only_writer(tmp_path / "file" / "sub" / "out", folder=folder),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
