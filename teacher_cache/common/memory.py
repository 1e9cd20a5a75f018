"""How much memory this process may still take, before it is taken."""

from __future__ import annotations

import os
from pathlib import Path

from teacher_cache.common.small_files import read_text
from teacher_cache.common.typed import Fault

_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def free_bytes(meminfo: Path = _MEMINFO, groups: Path = _GROUPS, own_group: Path = _OWN_GROUP) -> int:
    """Bytes that can be had without swapping: what the kernel calls available, and no more than a limit of
    this process's control group, or of one above it, leaves.

    Where the kernel says nothing of that (macOS), all memory of the machine.
    """
    available = _fields(meminfo).get("MemAvailable:")
    free = available * 1024 if available is not None else machine_bytes()
    return max(min([free, *_left_by_groups(groups, own_group)]), 0)


def _left_by_groups(groups: Path, own_group: Path) -> list[int]:
    """What each control group (version 2) of this process that has a limit leaves.

    Pages of files that nobody used of late can be dropped, so they count as free.
    """
    own = [line.partition("::")[2] for line in _text(own_group).splitlines() if line.startswith("0::")]
    if not own:
        return []
    folder = groups / own[0].strip("/")
    left = []
    for group in (folder, *folder.parents):
        limit, used = _text(group / "memory.max").strip(), _text(group / "memory.current").strip()
        if limit.isdecimal() and used.isdecimal():
            left.append(int(limit) - int(used) + _fields(group / "memory.stat").get("inactive_file", 0))
        if group == groups:
            break
    return left


def _fields(path: Path) -> dict[str, int]:
    """Name -> number of the lines `name number ...`."""
    parts = [line.split() for line in _text(path).splitlines()]
    return {part[0]: int(part[1]) for part in parts if len(part) > 1 and part[1].isdecimal()}


def _text(path: Path) -> str:
    """What the kernel says there, "" where it says nothing."""
    try:
        return read_text(path)
    except Fault:
        return ""


def machine_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
