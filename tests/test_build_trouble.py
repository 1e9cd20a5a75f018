"""Whatever goes wrong around a build ends in one clear line, and alters nothing that is published."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from build_helpers import build_request, quiet, stored, texts
from fakes import tiny_bert

from teacher_cache.build.request import BuildJob, BuildRequest
from teacher_cache.build.run import build_cache
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.store.root import lock_path
from teacher_cache.store.verify import verify_cache
from teacher_cache.teacher.identity import identify_teacher

TEXTS = texts(250)

# Runs a build as a user would, in a process of its own whose limits die with it.
BUILD = """
import sys
from pathlib import Path
from test_build_trouble import request_of
from teacher_cache.errors import CacheError
{trouble}
from teacher_cache.build.run import build_cache
if __name__ == "__main__":
    try:
        build_cache(request_of(*map(Path, sys.argv[1:])), say=lambda line: None)
    except CacheError as error:
        sys.exit(f"error: {{error}}")
"""
DISK_FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))  # a shard's ids take more
"""
WITHOUT_PRIVILEGE = """
import ctypes
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]
header, sets, libc = Header(0x20080522, 0), (Sets * 2)(), ctypes.CDLL(None)
assert libc.capget(ctypes.byref(header), sets) == 0
for name in ("effective", "permitted"):  # root's right to write where the mode forbids it
    setattr(sets[0], name, getattr(sets[0], name) & ~0b110)
assert libc.capset(ctypes.byref(header), sets) == 0
"""
CLOCK_JUMPS = """
import time
real, monotonic, started = time.time, time.monotonic, time.monotonic()
def jumping():  # an hour forward, in driver and workers alike
    seconds = monotonic() - started
    return real() + (0 if seconds < 4 else 3600)
time.time = jumping
"""


def request_of(teacher_folder: Path, root: Path) -> BuildRequest:
    build = BuildConfig(workers=1, rows_per_shard=1024, batch_tokens=2048)
    return build_request(teacher_folder, root, TEXTS, CacheConfig(top_k=32), build)


def build_in_a_process(trouble: str, teacher_folder: Path, root: Path) -> subprocess.Popen[str]:
    script = root.parent / "build.py"
    script.write_text(BUILD.format(trouble=trouble))
    tests = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, str(script), str(teacher_folder), str(root)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def error_lines(process: subprocess.Popen[str]) -> list[str]:
    return [line for line in process.communicate()[1].splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def published(bert_folder: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted build that no test may change."""
    root = tmp_path_factory.mktemp("published")
    return build_cache(dataclasses.replace(request_of(bert_folder, root), scheduler=scheduler), quiet).path


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_one_line_and_the_next_build_goes_on(
    bert_folder: Path, published: Path, scheduler: str, tmp_path: Path
) -> None:
    root = tmp_path / "cache"
    full = build_in_a_process(DISK_FULL, bert_folder, root)
    (line,) = error_lines(full)
    assert full.returncode == 1
    assert "shard " in line and "cannot write row/" in line and "see the disk's space" in line, line
    assert [path.name for path in root.iterdir()] == [".building"]
    request = dataclasses.replace(request_of(bert_folder, root), scheduler=scheduler)
    assert stored(build_cache(request, quiet).path) == stored(published)


@pytest.mark.skipif(sys.platform != "linux", reason="drops a Linux capability")
def test_a_read_only_target_is_one_line_and_a_cache_in_it_can_be_used(
    bert_folder: Path, published: Path, tmp_path: Path
) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    shutil.copytree(published.parent, full)
    for folder in (empty, full):
        folder.chmod(0o555)
    refused = build_in_a_process(WITHOUT_PRIVILEGE, bert_folder, empty)
    (line,) = error_lines(refused)
    assert refused.returncode == 1
    assert "cannot lock (Permission denied); choose a writable cache root" in line
    covered = build_in_a_process(WITHOUT_PRIVILEGE, bert_folder, full)
    assert error_lines(covered) == [] and covered.returncode == 0
    assert list(empty.iterdir()) == []
    assert stored(full / published.name) == stored(published)


def test_a_clock_that_jumps_changes_nothing(bert_folder: Path, published: Path, tmp_path: Path) -> None:
    jumped = build_in_a_process(CLOCK_JUMPS, bert_folder, tmp_path / "cache")
    assert error_lines(jumped) == [] and jumped.returncode == 0
    assert stored(tmp_path / "cache" / published.name) == stored(published)
    assert verify_cache(tmp_path / "cache" / published.name) == []


def test_of_two_builders_of_one_cache_one_builds_and_the_other_is_told(
    bert_folder: Path, published: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cache"
    builders = [build_in_a_process("", bert_folder, root) for _ in range(2)]
    lines = [error_lines(builder) for builder in builders]
    reported = [line for found in lines for line in found]
    assert 0 in [builder.returncode for builder in builders]
    assert len(reported) <= 1  # none where the second came when the first had published
    for line in reported:
        assert f"{published.name}.lock is held by process" in line and "wait for it" in line
    assert stored(root / published.name) == stored(published)


def test_the_lock_of_a_dead_builder_is_taken_over_and_that_is_said(
    bert_folder: Path, published: Path, scheduler: str, tmp_path: Path
) -> None:
    request = dataclasses.replace(request_of(bert_folder, tmp_path), scheduler=scheduler)
    lock = lock_path(tmp_path, BuildJob.of(request).fingerprint)
    lock.parent.mkdir(parents=True)
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": "before this process"}
    lock.write_text(json.dumps(owner))
    said: list[str] = []
    assert stored(build_cache(request, said.append).path) == stored(published)
    assert any("died here and left its lock; taken over" in line for line in said)
    assert not lock.exists()


def poisoned(source: Path, target: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.bias"][3] = float("nan")
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def beheaded(source: Path, target: Path) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("cls.predictions.trans")}
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    return target


def with_another_vocabulary(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    other = tiny_bert(target.with_name("other"), words=["ship", "sea"])
    for name in ("tokenizer.json", "vocab.txt"):
        shutil.copy(other / name, target / name)
    return target


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (poisoned, r"^\S+: shard \d+: the teacher yields NaN or infinity for passage '\w+"),
        (beheaded, r"^\S+/teacher: weights are missing, among them cls"),  # before any worker starts
        (with_another_vocabulary, r"the tokenizer knows \d+ pieces, the model \d+"),
    ],
)
def test_a_spoilt_teacher_is_one_line_and_what_is_published_stays(
    bert_folder: Path,
    published: Path,
    scheduler: str,
    tmp_path: Path,
    spoil: Callable[[Path, Path], Path],
    said: str,
) -> None:
    root = shutil.copytree(published.parent, tmp_path / "cache")
    folder = spoil(bert_folder, tmp_path / "teacher")
    assert identify_teacher(folder).files_sha256 != identify_teacher(bert_folder).files_sha256
    with pytest.raises(CacheError, match=said) as reported:
        build_cache(dataclasses.replace(request_of(folder, root), scheduler=scheduler), quiet)
    assert "\n" not in str(reported.value)
    assert [path.name for path in root.iterdir() if path.is_dir() and len(path.name) == 32] == [
        published.name
    ]
    assert stored(root / published.name) == stored(published)
