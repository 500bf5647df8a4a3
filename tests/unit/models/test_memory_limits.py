"""Limits of control groups, in trees of both versions as Linux shows them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from trimtab.models import memory_limits
from trimtab.models.memory import available_bytes, free_bytes
from trimtab.models.memory_limits import left_bytes

NO_LIMIT = 9223372036854771712  # as version 1 says it


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory_limits, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(memory_limits, "OWN", tmp_path / "own")
    machine = SimpleNamespace(available=10_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    return tmp_path / "cgroup"


def own(root: Path, *lines: str) -> None:
    (root.parent / "own").write_text("".join(f"{line}\n" for line in lines))


def group(
    folder: Path, limit: str | int, used: int, cache: int = 0, *, version: int = 2, old: int = 0
) -> None:
    """One that uses so much, `cache` of it page cache that can be given back."""
    names = ("memory.max", "memory.current")
    stat = f"anon 5\ninactive_file {cache}\nactive_file 70\n"
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        stat = f"cache 3\ninactive_file {old}\ntotal_inactive_file {cache}\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(stat)


def test_a_container_of_version_2(root: Path) -> None:
    own(root, "0::/")
    group(root, 1000, 700, 200)
    assert left_bytes() == available_bytes() == free_bytes("cpu") == 500


def test_a_container_of_version_1_sees_the_machines_path(root: Path) -> None:
    """Its own group is mounted as the root; the files of those below are counted by `total_`."""
    own(root, "12:pids:/docker/c0ffee", "4:cpu,memory:/docker/c0ffee", "0::/system.slice")
    group(root / "memory", 1000, 700, 100, version=1, old=50)
    assert left_bytes() == 400


@pytest.mark.parametrize(("inner", "outer", "left"), [(1000, 5000, 900), (5000, 1000, 400)])
def test_every_group_above_may_have_a_limit(root: Path, inner: int, outer: int, left: int) -> None:
    own(root, "0::/kubepods/pod/container")
    group(root / "kubepods/pod/container", inner, 100)
    group(root / "kubepods/pod", "max", 300)
    group(root / "kubepods", outer, 600)
    assert left_bytes() == left


def test_other_groups_have_no_say(root: Path) -> None:
    own(root, "0::/user/one")
    group(root / "user/one", 1000, 100)
    group(root / "user/two", 10, 5)
    group(root / "user/one/below", 10, 5)
    assert left_bytes() == 900


def test_no_limit_is_the_machines(root: Path) -> None:
    assert left_bytes() is None and available_bytes() == 10_000  # not Linux
    own(root, "4:memory:/", "0::/one")
    assert left_bytes() is None  # nothing mounted
    group(root / "one", "max", 100)
    assert left_bytes() is None and available_bytes() == 10_000
    group(root / "memory", NO_LIMIT, 100, version=1)
    assert available_bytes() == 10_000
    group(root / "one", 50_000, 100)
    assert available_bytes() == 10_000


def test_more_than_the_limit_leaves_nothing(root: Path) -> None:
    own(root, "0::/")
    group(root, 1000, 1200, 50)
    assert left_bytes() == 0
