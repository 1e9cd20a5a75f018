"""`train --cache`: from a URL, pulled and verified first, and from a cache that cannot be written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fakes import sentences, write_corpus
from http_folder import HttpFolder, served
from synthetic_cache import make, passages_named, plan_of
from test_build_trouble import WITHOUT_PRIVILEGE
from tiny_run import CACHE_CONFIG, WordTeacher

from pipeline.cli import main
from student.data.manifest import read_manifest
from teacher_cache.passages import passages_of
from teacher_cache.sharing.file_list import contents_of
from teacher_cache.sharing.object_store import push_cache

CONFIG = """
[data]
corpus = "tones"
unit_vocabulary_size = 40
max_characters_per_second = 100.0
min_seconds = 0.01
[data.splits]
train = { folders = ["train"] }
[teacher]
name = "synthetic"
[cache]
top_k = 8
[conformer]
num_layers = 2
model_dim = 16
num_heads = 2
feed_forward_dim = 16
conv_kernel_frames = 3
subsampling_channels = 2
taps = [1]
[decoder]
num_layers = 1
num_heads = 2
feed_forward_dim = 16
min_count = 1
[objective]
top_k = 4
[trainer]
max_steps = 1
batch_seconds = 8.0
micro_batch_seconds = 8.0
threads = 1
device = "cpu"
precision = "float32"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus below data/ and runs/, its config, and its cache below origin/."""
    folder = tmp_path_factory.mktemp("training")
    write_corpus(folder / "data" / "tones", sentences(20, seed=1, max_words=4))
    (folder / "tones.toml").write_text(CONFIG, encoding="utf-8")
    arguments = ["data", "prepare", f"{folder}/tones.toml", "--leave-out-bad", "--json"]
    done = CliRunner().invoke(main, [*arguments, *roots_of(folder, "data", "runs")])
    assert done.exit_code == 0, done.output
    entries = read_manifest(Path(json.loads(done.stdout)["path"]) / "train.jsonl")
    passages = {passage.digest: passage for passage in passages_of(entries, CACHE_CONFIG)}
    make(folder / "origin", plan_of(list(passages.values()), WordTeacher(), CACHE_CONFIG))
    return folder


@pytest.fixture(scope="module")
def cache(folder: Path) -> Path:
    (found,) = (folder / "origin").glob("?" * 32)
    return found


@pytest.fixture
def http(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpFolder]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    push_cache(cache, f"file://{tmp_path}/www")
    with served(tmp_path / "www") as server:
        yield server


def roots_of(folder: Path, *names: str) -> list[str]:
    return [part for name in names for part in (f"--{name}-root", str(folder / name))]


def arguments_of(folder: Path, run: Path, cache_root: Path, reference: object) -> list[str]:
    roots = [*roots_of(folder, "data", "runs"), "--cache-root", str(cache_root)]
    return ["train", f"{folder}/tones.toml", "--run-dir", str(run), "--cache", str(reference), *roots]


def train(folder: Path, run: Path, cache_root: Path, reference: object) -> Result:
    return CliRunner().invoke(main, arguments_of(folder, run, cache_root, reference))


def cache_noted_in(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["cache"])


@pytest.mark.parametrize("kind", ["file", "s3", "http"])
def test_a_run_pulls_its_cache_first_and_the_next_one_finds_it_there(
    folder: Path, cache: Path, http: HttpFolder, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url = {"file": f"file://{http.folder}", "http": http.url, "s3": ""}[kind]
    if not url:
        url = request.getfixturevalue("s3_url")
        push_cache(cache, url)
    root = tmp_path / "caches"
    done = train(folder, tmp_path / "one", root, url)
    assert done.exit_code == 0, done.stderr
    assert f"{root / cache.name}: verified and published" in done.stderr
    assert "finished: 1 steps" in done.stdout and cache_noted_in(tmp_path / "one") == cache.name
    assert contents_of(root / cache.name) == contents_of(cache)
    http.requests.clear()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    done = train(folder, tmp_path / "one", root, url)
    assert done.exit_code == 0 and "finished already" in done.stdout
    assert f"{root / cache.name} is published already; left as it is" in done.stderr
    assert set(http.requests) <= {"manifest.json", "contents.json"}
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_a_cut_pull_trains_nothing_and_the_same_command_goes_on(
    folder: Path, cache: Path, http: HttpFolder, tmp_path: Path
) -> None:
    http.faults["zarr.json"] = "cut"
    done = train(folder, tmp_path / "run", tmp_path / "caches", http.url)
    assert done.exit_code == 1 and "zarr.json: cannot be reached" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    http.requests.clear()
    done = train(folder, tmp_path / "run", tmp_path / "caches", http.url)
    assert done.exit_code == 0 and "had arrived before and are kept" in done.stderr
    assert http.requests == 2 * ["manifest.json", "contents.json"] + ["zarr.json"]


def test_a_run_is_held_to_its_cache_before_another_one_is_fetched(
    folder: Path, cache: Path, http: HttpFolder, tmp_path: Path
) -> None:
    other = make(tmp_path / "other", plan_of(passages_named(3)))
    assert train(folder, tmp_path / "run", folder / "origin", cache.name).exit_code == 0
    push_cache(other, f"file://{tmp_path}/elsewhere")
    done = train(folder, tmp_path / "run", tmp_path / "caches", f"file://{tmp_path}/elsewhere")
    assert done.exit_code == 1
    reported = done.stderr.splitlines()[-1]
    assert f"began with cache {cache.name}, not {other.name} of file://{tmp_path}/elsewhere;" in reported
    assert not (tmp_path / "caches").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="drops a Linux capability")
def test_a_run_trains_from_a_cache_that_it_cannot_write(folder: Path, cache: Path, tmp_path: Path) -> None:
    """By its path, from a folder whose modes bind even root: the process gives up what sets it above them."""
    mount = tmp_path / "mount" / cache.name
    shutil.copytree(cache, mount)
    for path in [*mount.rglob("*"), mount, mount.parent]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    denied = f"""
for path in ({str(mount / "new")!r}, {str(mount / "manifest.json")!r}):
    try:
        open(path, "a")
    except PermissionError:
        continue
    raise SystemExit("this process can write there, so the test shows nothing")
"""
    code = f"{WITHOUT_PRIVILEGE}{denied}from pipeline.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments_of(folder, tmp_path / "run", mount.parent, mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for path in (mount.parent, mount, *mount.rglob("*")):
        path.chmod(0o755)  # so that pytest can remove it
    assert done.returncode == 0, done.stderr
    assert "finished: 1 steps" in done.stdout and cache_noted_in(tmp_path / "run") == cache.name
    assert contents_of(mount) == contents_of(cache)
