"""What memory is free: the least of what the machine has and what each control group leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacher_cache.common.memory import free_bytes

MEBIBYTE = 1 << 20


def kernel(folder: Path, available_kib: int, groups: dict[str, tuple[str, int, int]], own: str) -> int:
    """free_bytes of a machine. groups : path -> memory.max, memory.current, inactive_file"""
    (folder / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available_kib} kB\n")
    (folder / "own").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    for path, (most, used, inactive) in groups.items():
        group = folder / "groups" / path
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(f"{most}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")
    return free_bytes(folder / "meminfo", folder / "groups", folder / "own")


@pytest.mark.parametrize(
    ("groups", "wanted"),
    [
        ({}, 1024 * MEBIBYTE),
        ({"a/b": ("max", 10, 0)}, 1024 * MEBIBYTE),
        ({"a/b": (str(100 * MEBIBYTE), 60 * MEBIBYTE, 0)}, 40 * MEBIBYTE),
        ({"a/b": (str(100 * MEBIBYTE), 60 * MEBIBYTE, 20 * MEBIBYTE)}, 60 * MEBIBYTE),
        ({"a/b": ("max", 1, 0), "a": (str(50 * MEBIBYTE), 20 * MEBIBYTE, 0)}, 30 * MEBIBYTE),
        ({"a/b": (str(9000 * MEBIBYTE), 0, 0)}, 1024 * MEBIBYTE),
        ({"a/b": (str(10), 20, 0)}, 0),
        ({"other": ("1", 1, 0)}, 1024 * MEBIBYTE),
    ],
)
def test_the_narrowest_limit_counts(
    tmp_path: Path, groups: dict[str, tuple[str, int, int]], wanted: int
) -> None:
    assert kernel(tmp_path, 1024 * 1024, groups, "/a/b") == wanted


def test_this_machine_has_some_and_one_that_says_nothing_has_all(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert 0 < free_bytes() <= free_bytes(absent, absent, absent)
