"""`train` on a cache that is not what it says: one line and code 1 before a step, in a resumed run too."""

# ruff: noqa: F811  # fixtures of another file are arguments here

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from forgery import as_version_0_1, forge, rewrite, swap
from synthetic_cache import make, passages_named, plan_of
from test_stages_train_from_url import cache, folder, roots_of  # noqa: F401  # two are fixtures

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.paths import Roots
from pipeline.stages.train import training_job
from student.data.training_data import load_training_data
from student.training.run_folder import metrics
from teacher_cache.errors import CacheError
from teacher_cache.store import write_name

MAPPED = ("--set", "trainer.label_memory_megabytes=0")


def roll(values: np.ndarray) -> None:
    values[:] = np.roll(values, 1, axis=0)


def fifo_for_a_shard(path: Path) -> None:
    (path / "row/top_id/c/0/0").unlink()
    os.mkfifo(path / "row/top_id/c/0/0")


def zeros_for_a_lost_shard(path: Path) -> None:
    metadata = path / "row/gold_id/zarr.json"
    metadata.write_text(metadata.read_text().replace('"fill_value": 65535', '"fill_value": 0'))
    assert '"fill_value": 0' in metadata.read_text()
    (path / "row/gold_id/c/0").unlink()


def another_cache(path: Path) -> None:
    other = make(path.parent / "elsewhere", plan_of(passages_named(9)))
    shutil.rmtree(path)
    shutil.move(other, path)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "gold rolled": (lambda p: rewrite(p, "row/gold_id", roll), "not what its receipt vouches for"),
    "two arrays exchanged": (
        lambda p: swap(p / "row/lognorm/c/0/0", p / "row/tail_logprob/c/0/0"),
        "not what its receipt vouches for",
    ),
    "passages shifted": (
        lambda p: rewrite(p, "passage/start", roll),
        "passage/start is not what the manifest",
    ),
    "letters changed": (
        lambda p: rewrite(p, "vocabulary/utf8", lambda v: v.__setitem__(0, 65)),
        "vocabulary/utf8 is not what the manifest",
    ),
    "zeros for a lost shard": (zeros_for_a_lost_shard, "fill_value is 0, format 1 says 65535"),
    "a FIFO for a shard": (fifo_for_a_shard, "neither a file nor a folder but a FIFO"),
    "a law broken": (lambda p: forge(p, {"row/gold_id": roll}), "contradicts its candidates"),
    "another cache": (another_cache, "holds another cache"),
}


@pytest.fixture
def copied(cache: Path, tmp_path: Path) -> Path:
    """The sound cache below a root of its own, which the config's name means."""
    write_name(tmp_path / "caches", "tones", cache.name)
    return shutil.copytree(cache, tmp_path / "caches" / cache.name)


@pytest.mark.parametrize("settings", [(), MAPPED], ids=["memory", "map"])
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_trained_on_a_cache_that_is_not_what_it_says(
    folder: Path,
    copied: Path,
    tmp_path: Path,
    fault: str,
    settings: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant, said = FAULTS[fault]
    if settings and fault == "a law broken":
        as_version_0_1(copied)
    plant(copied)
    monkeypatch.setenv("BERT2CTC_SCRATCH", str(tmp_path / "scratch"))
    roots = [*roots_of(folder, "data", "runs"), "--cache-root", str(copied.parent)]
    run = tmp_path / "run"
    arguments = ["train", f"{folder}/tones.toml", "--run-dir", str(run), *settings, *roots]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert said in line and "Traceback" not in done.stderr
    assert not list(run.rglob("*.pt")) and not (run.is_dir() and metrics(run))


def test_a_run_that_goes_on_is_held_to_the_same(
    folder: Path,
    copied: Path,
    tmp_path: Path,
) -> None:
    """Its decoders' pieces are fixed, so nothing else would read a label before the first step."""
    config = load_config(f"{folder}/tones.toml")
    roots = Roots(
        data=folder / "data", cache=copied.parent, runs=folder / "runs", scratch=tmp_path / "scratch"
    )
    job = training_job(config, roots, tmp_path / "run", "")
    load_training_data(job, [2, 3, 4], lambda line: None)
    rewrite(copied, "row/gold_id", roll)
    with pytest.raises(CacheError, match="row/gold_id is not what its receipt vouches for"):
        load_training_data(job, [2, 3, 4], lambda line: None)
