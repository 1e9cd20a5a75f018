from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_cache import Plan, make, write

from teacher_cache.errors import CacheError
from teacher_cache.store import TeacherCacheReader, read_manifest
from teacher_cache.store.root import building_path
from teacher_cache.store.rows import RowBlock
from teacher_cache.store.verify import verify_cache
from teacher_cache.store.writer import CacheWriter, publish


def test_the_writer_refuses_what_is_no_distribution_and_writes_nothing(plan: Plan, tmp_path: Path) -> None:
    writer = CacheWriter.open(write(tmp_path, plan, shards=()))
    rows = plan.rows.take(plan.layout.shard_rows(0))

    def spoilt(name: str, value: float) -> RowBlock:
        values = getattr(rows, name).copy()
        values[(5,) * values.ndim if values.shape[-1] > 5 or values.ndim == 1 else (5, 0)] = value
        return replace(rows, **{name: values})

    for name in ("gold_logprob", "top_logprob", "lognorm", "tail_logprob"):
        with pytest.raises(CacheError, match=f"{name} holds nan at row 5"):
            writer.write_shard(0, spoilt(name, np.nan))
    for block, said in (
        (spoilt("tail_logprob", 0.0), r"tail make 1\.\d+ at temperature 1 in row 5"),
        (spoilt("lognorm", 3.0), r"tail make 0\.\d+ at temperature 1 in row 5"),
        (spoilt("top_id", 90), "top_id holds 90, outside a vocabulary of 90"),
        (spoilt("top_id", int(rows.top_id[5, 4])), "top_id repeats a piece in row 5"),
        (spoilt("top_logprob", -0.001), "top_logprob rises along row 5"),
        (spoilt("gold_logprob", 0.5), "a probability above 1"),
        (rows.take(slice(1, None)), "1023 rows where the shard has 1024"),
        (replace(rows, top_logprob=rows.top_logprob[:, :-1]), "top_logprob has shape"),
    ):
        with pytest.raises(CacheError, match=said):
            writer.write_shard(0, block)
    assert writer.receipts() == {}
    assert not list((writer.building / "row").rglob("c/*"))


def test_a_build_is_resumed_by_its_receipts_and_published_when_whole(plan: Plan, tmp_path: Path) -> None:
    building = write(tmp_path, plan, shards=(0, 2))
    (building / "row/top_id/c/0/0.1f.partial").write_bytes(b"what a killed writer leaves")
    assert list(CacheWriter.open(building).receipts()) == [0, 2]
    with pytest.raises(CacheError, match=r"1 of 3 shards lack a receipt \(shard 1 first\)"):
        publish(building, tmp_path, plan.manifest)
    receipt = CacheWriter.open(building).write_shard(
        1, plan.rows.take(plan.layout.shard_rows(1)), seconds=2.5, device="cpu"
    )
    assert (receipt.rows, receipt.seconds, receipt.device) == (1024, 2.5, "cpu")
    kept = np.exp(plan.rows.take(plan.layout.shard_rows(1)).top_logprob.astype(float))
    assert receipt.mass_at == pytest.approx({str(k): kept[:, :k].sum() / 1024 for k in (1, 4, 8, 16)})
    path = publish(building, tmp_path, plan.manifest)
    assert not building.exists() and not list(path.rglob("*.partial"))
    assert read_manifest(path).receipts[1] == receipt
    assert verify_cache(path) == []


def test_two_builds_of_one_plan_are_equal_byte_for_byte(cache: Path, plan: Plan, tmp_path: Path) -> None:
    again = make(tmp_path, plan)
    files = sorted(path.relative_to(cache) for path in cache.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [name for name in files if (cache / name).read_bytes() != (again / name).read_bytes()] == []


@pytest.mark.parametrize("damage", ["rows", "receipt", "recipe", "layout"])
def test_a_build_that_is_not_what_it_says_is_not_published(plan: Plan, tmp_path: Path, damage: str) -> None:
    building, manifest = write(tmp_path, plan), plan.manifest
    if damage == "rows":
        shutil.copy(building / "row/top_id/c/0/0", building / "row/top_id/c/1/0")
    elif damage == "receipt":
        (building / "receipts/1.json").write_text("{")
    elif damage == "recipe":
        manifest = replace(manifest, recipe=replace(manifest.recipe, masking="whole_word"))
    else:
        manifest = replace(manifest, layout=replace(manifest.layout, num_passages=399))
    with pytest.raises(CacheError):
        publish(building, tmp_path, manifest)
    assert not (tmp_path / plan.manifest.fingerprint).exists()


def test_a_published_cache_is_never_replaced(cache: Path, plan: Plan, tmp_path: Path) -> None:
    root = shutil.copytree(cache.parent, tmp_path / "root")
    before = (root / cache.name / "manifest.json").read_bytes()
    again = publish(write(root, plan), root, replace(plan.manifest, build={"seconds": 9}))
    assert again == root / cache.name
    assert (again / "manifest.json").read_bytes() == before
    assert not building_path(root, cache.name).exists()


KILLED_AT_NTH_RENAME = """
import os, pickle, signal, sys
from teacher_cache.store.writer import publish
arguments, renames = pickle.load(open(sys.argv[1], "rb")), int(sys.argv[2])
def count(event, details):
    global renames
    if event == "os.rename":
        renames -= 1
        if renames < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
publish(*arguments)
"""


def test_a_killed_publication_leaves_no_cache_and_is_finished_by_the_next(plan: Plan, tmp_path: Path) -> None:
    building = write(tmp_path, plan)
    job = tmp_path / "job.pickle"
    job.write_bytes(pickle.dumps((building, tmp_path, plan.manifest)))
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for renames in (0, 1):  # before the manifest has its name, and before the cache has
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_AT_NTH_RENAME, str(job), str(renames)], env=environment, check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / plan.manifest.fingerprint).exists()
        with pytest.raises(CacheError, match="no manifest.json"):
            TeacherCacheReader(tmp_path / plan.manifest.fingerprint)
    assert verify_cache(publish(building, tmp_path, plan.manifest)) == []
