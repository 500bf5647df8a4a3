"""What tests of relabelling share: pairs, rules that rate them, and runs that succeed or do not."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import write_jsonl

from trimtab import TrimtabError, label

CHAT: Any = [{"role": "user", "content": "hello"}]
PAIRS: list[dict[str, Any]] = [
    {"prompt": "the cat", "chosen": "happy happy", "rejected": "sad", "id": 7},
    {"prompt": CHAT, "chosen": "sad dog", "rejected": "happy"},
    {"prompt": "the dog", "chosen": "sat", "rejected": "ran"},
]
RULES = """
def happy(response): return response.count("happy")
def length(prompt, response): return len(response)
def fails(response): return 1 / response.count("happy")
"""
UNUSED = "columns not used: id"
RULED = {"happy": "label_rules:happy", "wordy": "label_rules:length"}


@pytest.fixture(autouse=True)
def in_a_folder_with_rules(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.getbasetemp() / "label_rules"
    folder.mkdir(exist_ok=True)
    (folder / "label_rules.py").write_text(RULES)
    monkeypatch.chdir(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", PAIRS)


def relabel(
    data: str | Path | Sequence[str], out: Path, scorers: Any = RULED, **options: Any
) -> tuple[dict[str, Any], list[str]]:
    """The counts that `label` returns, and the lines it says."""
    said: list[str] = []
    found = label(data=data, output=out, scorers=scorers, say=said.append, **options)
    return found, said


def refused(
    reason: str, data: str | Path | Sequence[str], out: Path, scorers: Any = RULED, **options: Any
) -> list[object]:
    """It is refused for this reason, in one line; what was said and shown until then."""
    told: list[object] = []

    def show(*progress: object) -> None:
        told.append(progress)

    how: dict[str, Any] = {"say": told.append, "progress": show, **options}
    with pytest.raises(TrimtabError, match=re.escape(reason)) as refusal:
        label(data=data, output=out, scorers=scorers, **how)
    assert "\n" not in str(refusal.value)
    return told


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(folder: Path) -> list[str]:
    """Of what a folder holds."""
    return sorted(path.name for path in folder.iterdir())
