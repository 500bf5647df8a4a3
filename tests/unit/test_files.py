"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from trimtab.errors import OutputError
from trimtab.files import require_fresh, storage_errors, whole_directory, write_json, write_text


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
