from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from synthetic_cache import make, passages_named, plan_of, write

from teacher_cache.common.lock import BuildLock
from teacher_cache.errors import CacheError
from teacher_cache.store import collect_garbage, describe, list_caches, remove_cache, resolve, write_name
from teacher_cache.store.root import building_path, damaged_names, lock_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two published caches, the first of them named "demo"."""
    paths = [make(tmp_path, plan_of(passages_named(3, seed))) for seed in (0, 1)]
    write_name(tmp_path, "demo", paths[0].name)
    return tmp_path


def published(root: Path) -> list[Path]:
    return [entry.path for entry in list_caches(root)]


def test_a_cache_is_found_by_path_name_fingerprint_and_unique_beginning(root: Path) -> None:
    named = resolve(root, "demo")
    assert named in published(root)
    for path in published(root):
        for reference in (str(path), path.name, path.name[:10]):
            assert resolve(root, reference) == path


def test_what_cannot_be_found_is_an_error_that_says_what_there_is(root: Path) -> None:
    held = ", ".join(path.name for path in published(root))
    with pytest.raises(CacheError, match=rf"no cache 'nothing' below .*{held}"):
        resolve(root, "nothing")
    with pytest.raises(CacheError, match=f"no cache '' below .*{held}"):
        resolve(root, "")
    twin = root / (resolve(root, "demo").name[:8] + "0" * 24)
    twin.mkdir()
    with pytest.raises(CacheError, match=f"'{twin.name[:8]}' begins .*{twin.name}.*; give more of it"):
        resolve(root, twin.name[:8])
    twin.rmdir()
    shutil.rmtree(next(path for path in published(root) if path != resolve(root, "demo")))
    with pytest.raises(CacheError, match="no cache '' below"):
        resolve(root, "")  # an empty variable of a script means no cache, not the only one
    with pytest.raises(CacheError, match=r"\(none\); make one with"):
        resolve(root / "empty", "demo")
    gone = resolve(root, "demo")
    gone.rename(root / "elsewhere")
    with pytest.raises(CacheError, match=f"demo means cache {gone.name}, which is not below"):
        resolve(root, "demo")


def test_caches_are_listed_with_names_sizes_and_faults(root: Path) -> None:
    one, other = list_caches(root)
    assert sorted(one.names + other.names) == ["demo"]
    assert min(one.num_bytes, other.num_bytes) > 1000
    (other.path / "manifest.json").write_text("{")
    assert [bool(entry.fault) for entry in list_caches(root)] == [False, True]
    assert list_caches(root / "empty") == []


def test_a_description_is_plain_json(root: Path) -> None:
    reported = json.loads(json.dumps(describe(resolve(root, "demo"))))
    assert reported["teacher"] == "synthetic" and reported["passages"] == 3 and reported["top_k"] == 24


def test_only_a_fingerprint_removes_a_cache_and_its_names_go_with_it(root: Path) -> None:
    named = resolve(root, "demo")
    for reference in ("demo", str(named), "", "zz"):
        with pytest.raises(CacheError, match="not the fingerprint of one cache"):
            remove_cache(root, reference)
    assert len(published(root)) == 2
    assert remove_cache(root, named.name[:12]) == named
    assert named not in published(root) and len(published(root)) == 1
    assert not list((root / "names").iterdir())
    assert not list((root / ".building").iterdir())


def test_garbage_is_the_leftovers_of_dead_builds_and_listed_first(root: Path) -> None:
    before = published(root)
    plans = [plan_of(passages_named(2, seed)) for seed in (5, 6, 7, 8)]
    dead, living, foreign, unlocked = (write(root, plan) for plan in plans)
    process_gone = {"host": socket.gethostname(), "pid": os.getpid(), "started": "another time"}
    lock_path(root, dead.name).write_text(json.dumps(process_gone))
    lock_path(root, foreign.name).write_text(json.dumps({**process_gone, "host": "elsewhere"}))
    removed = building_path(root, f"{'0' * 32}.1.removed")
    shutil.copytree(dead, removed)
    with BuildLock(lock_path(root, living.name)):
        leftovers = collect_garbage(root, delete=False)
        assert set(leftovers) == {dead, unlocked, removed, lock_path(root, dead.name)}
        assert all(path.exists() for path in leftovers)
        assert collect_garbage(root, delete=True) == leftovers
    assert not any(path.exists() for path in leftovers)
    assert living.exists() and foreign.exists()
    assert published(root) == before
    assert collect_garbage(root / "empty", delete=True) == []


@pytest.mark.parametrize("content", ["", "hello", "0123", "0" * 31, "0" * 33])
def test_a_name_stands_for_a_whole_fingerprint_or_for_nothing(root: Path, content: str) -> None:
    (root / "names").mkdir(exist_ok=True)
    (root / "names" / "foreign").write_text(content + "\n")
    with pytest.raises(CacheError, match="no name of a cache"):
        resolve(root, "foreign")
    assert len(damaged_names(root)) == 1
    assert not any("foreign" in entry.names for entry in list_caches(root))
