"""What is left under the limits of the control groups that this process is in: a container's own.

The kernel kills a process of a group that takes more, however much the machine has free.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OWN = Path("/proc/self/cgroup")
"""Names this process's groups: `HIERARCHY:CONTROLLERS:PATH` a line."""
ROOT = Path("/sys/fs/cgroup")


class _Files(NamedTuple):
    """Where a version of control groups keeps its numbers."""

    limit: str
    used: str
    given_back: str  # of memory.stat: page cache of the group and those below, free when needed


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def left_bytes() -> int | None:
    """The least that any group leaves, from the process's own up to the root; None for no limit."""
    left = [_left(folder, files) for folder, files in _groups()]
    return min((n for n in left if n is not None), default=None)


def _groups() -> Iterator[tuple[Path, _Files]]:
    """Groups that may have a limit. Inside a container the path may be the machine's, of which
    there are no folders here; its own group is the root then."""
    for line in _read(OWN).splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        inner = Path(path.lstrip("/"))
        if hierarchy == "0":
            root, files = ROOT, _V2
        elif "memory" in controllers.split(","):
            root, files = ROOT / "memory", _V1
        else:
            continue
        yield from ((root / group, files) for group in dict.fromkeys((inner, *inner.parents)))


def _left(group: Path, files: _Files) -> int | None:
    limit, used = _read(group / files.limit).strip(), _read(group / files.used).strip()
    if not (limit.isdigit() and used.isdigit()):  # `max`, or not to be read
        return None
    stat = dict(line.split(maxsplit=1) for line in _read(group / "memory.stat").splitlines())
    return max(int(limit) - int(used) + int(stat.get(files.given_back, 0)), 0)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
