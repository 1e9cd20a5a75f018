from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from forgery import edit, edit_receipts, forge, rewrite, swap
from synthetic_cache import make, three_shards

from teacher_cache.config import CacheConfig
from teacher_cache.store.layout import ROW_ARRAYS
from teacher_cache.store.verify import verify_cache

CONFIG = CacheConfig(top_k=20)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published cache of three shards that no test may change."""
    return make(tmp_path_factory.mktemp("root"), three_shards(CONFIG))


@pytest.fixture
def cache(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / sound.name)


def test_a_sound_cache_has_no_faults_wherever_it_lies(sound: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    assert verify_cache(sound, progress=seen.append) == []
    assert verify_cache(shutil.copytree(sound, tmp_path / "renamed")) == []
    assert seen == [1, 1, 1]


def put(values: np.ndarray, value: float) -> None:
    values[1100] = value


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda p: (p / "row/top_id/c/1/0").unlink(), "shard 1: its rows are not"),
    "truncated shard": (
        lambda p: (p / "row/top_id/c/2/0").write_bytes((p / "row/top_id/c/2/0").read_bytes()[:-1]),
        "shard 2: .* cannot read row/top_id",
    ),
    "foreign shard": (
        lambda p: swap(p / "row/gold_id/c/0", p / "row/gold_id/c/1"),
        "shard 0: its rows are not those of its receipt",
    ),
    "a file of no array": (
        lambda p: (
            (p / "row/top_id/c/3").mkdir() or shutil.copy(p / "row/top_id/c/2/0", p / "row/top_id/c/3/0")
        ),
        "row/top_id/c/3/0 belongs to no array",
    ),
    "what a writer left": (
        lambda p: (p / "passage/start/c/0.1f.partial").write_bytes(b""),
        "passage/start/c/0.1f.partial belongs to no array",
    ),
    "another gold id": (
        lambda p: rewrite(p, "row/gold_id", lambda v: put(v, v[1100] ^ 1)),
        "shard 1: its rows",
    ),
    "another log-prob": (
        lambda p: rewrite(p, "row/top_logprob", lambda v: put(v, v[1100] + 1)),
        "shard 1: its rows",
    ),
    "missing array": (lambda p: shutil.rmtree(p / "row/lognorm"), "cannot open row/lognorm"),
    "array of another shape": (
        lambda p: zarr.open_group(p, mode="r+")["passage/length"].resize((399,)),
        r"passage/length is <i4 \(399,\), format 1 says <i4 \(400,\)",
    ),
    "another start": (
        lambda p: rewrite(p, "passage/start", lambda v: v.__setitem__(3, v[3] + 1)),
        "passages do not cover every row once",
    ),
    "a swapped digest": (
        lambda p: rewrite(p, "passage/digest", lambda v: v.__setitem__(slice(0, 2), v[1::-1].copy())),
        "digests do not ascend",
    ),
    "another digest": (
        lambda p: rewrite(p, "passage/digest", lambda v: v.__setitem__((5, 15), v[5, 15] ^ 1)),
        "fingerprint",
    ),
    "another piece": (
        lambda p: rewrite(p, "vocabulary/utf8", lambda v: v.__setitem__(0, ord("P"))),
        "vocabulary/utf8 is not what the manifest vouches for",
    ),
    "another special piece": (
        lambda p: rewrite(p, "vocabulary/is_special", lambda v: v.__setitem__(7, 1)),
        "vocabulary/is_special is not what",
    ),
    "missing receipt": (lambda p: (p / "receipts/1.json").unlink(), "receipts/ and the manifest's"),
    "receipts exchanged": (
        lambda p: swap(p / "receipts/0.json", p / "receipts/1.json"),
        r"receipts/\d\.json: the receipt of shard \d; ",
    ),
    "receipts of other figures": (
        lambda p: edit_receipts(p, lambda receipt: receipt.update(rows=7)),
        "the receipt of shard 0 counts 7 rows of 1,024",
    ),
    "damaged receipt": (lambda p: (p / "receipts/1.json").write_text("{}"), "not a receipt"),
    "missing manifest": (lambda p: (p / "manifest.json").unlink(), "no manifest.json"),
    "damaged manifest": (lambda p: (p / "manifest.json").write_text("{"), "manifest.json: is not JSON"),
    "edited manifest": (lambda p: edit(p, lambda m: m["quality"].update(a=1), sign=False), "changed since"),
    "another recipe": (
        lambda p: edit(p, lambda m: m["recipe"].update(masking="whole_word")),
        "recipe and passages make fingerprint",
    ),
    "another fingerprint": (lambda p: edit(p, lambda m: m.update(fingerprint="0" * 32)), "make fingerprint"),
    "manifest with fewer shards": (lambda p: edit(p, lambda m: m["receipts"].pop()), "receipts of 2 shards"),
    "manifest of another layout": (
        lambda p: edit(p, lambda m: m["layout"].update(num_rows=9)),
        "zarr.json and manifest.json differ",
    ),
    "a foreign file": (lambda p: (p / "notes.txt").write_text("mine"), "notes.txt is no file of a cache"),
    "a foreign folder": (lambda p: (p / "row/more").mkdir(), "row/more is an empty folder"),
    "a hidden file": (lambda p: (p / ".DS_Store").write_bytes(b"0"), ".DS_Store is no file of a cache"),
    "an extra receipt": (
        lambda p: shutil.copy(p / "receipts/1.json", p / "receipts/7.json"),
        r"receipts/7\.json: the receipt of shard 1; ",
    ),
    "a link": (lambda p: (p / "notes").symlink_to("/etc"), "notes is neither a file nor a folder but a link"),
    "a link for a folder": (
        lambda p: (shutil.move(p / "row", p.parent / "row"), (p / "row").symlink_to(p.parent / "row")),
        "row is neither a file nor a folder but a link",
    ),
    "a FIFO": (lambda p: os.mkfifo(p / "receipts/9.json"), "receipts/9.json is neither a file nor a folder"),
    "a FIFO for a receipt": (
        lambda p: ((p / "receipts/1.json").unlink(), os.mkfifo(p / "receipts/1.json")),
        "receipts/1.json is neither a file nor a folder but a FIFO",
    ),
    "a FIFO for the manifest": (
        lambda p: ((p / "manifest.json").unlink(), os.mkfifo(p / "manifest.json")),
        "manifest.json: is a pipe, not a file",
    ),
    "receipts of other columns": (
        lambda p: edit_receipts(p, lambda r: r["columns_sha256"]["row/top_id"].reverse()),
        "shard 0: its rows are not those of its receipt",
    ),
    "receipts of fewer arrays": (
        lambda p: edit_receipts(p, lambda r: r["columns_sha256"].pop("row/top_id")),
        "the receipt of shard 0 holds no digests of column chunks",
    ),
    "receipts of no digests": (
        lambda p: edit_receipts(p, lambda r: r.update(columns_sha256=5)),
        "columns_sha256 = 5 is not of type",
    ),
    "gold of the next row": (
        lambda p: forge(p, {"row/gold_id": lambda v: v.__setitem__(slice(None), np.roll(v, 1))}),
        "contradicts its candidates",
    ),
    "gold of another probability": (
        lambda p: forge(p, {"row/gold_logprob": lambda v: np.subtract(v, 0.01, out=v)}),
        "contradicts its candidates",
    ),
    "a special candidate": (
        lambda p: forge(p, {"row/top_id": lambda v: v.__setitem__((1500, 2), 1)}),
        "shard 1: top_id ranks a special piece, 1, in row 1500",
    ),
    "older format": (lambda p: edit(p, lambda m: m.update(format_version=0)), "format 0, this code reads 1"),
    "damaged group": (lambda p: (p / "zarr.json").write_text("{"), "cannot open its Zarr group"),
    "another format in the group": (
        lambda p: (p / "zarr.json").write_text(
            (p / "zarr.json").read_text().replace('"format_version": 1', '"format_version": 7')
        ),
        "format 7, this code reads 1",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_found_in_one_line(cache: Path, fault: str) -> None:
    plant, said = FAULTS[fault]
    plant(cache)
    found = verify_cache(cache)
    assert found
    assert any(re.search(said, line) for line in found), found
    assert not any("\n" in line for line in found)


def test_a_flipped_byte_anywhere_in_the_data_is_found(cache: Path) -> None:
    chance = random.Random(0)
    files = sorted(path for path in cache.rglob("c/**/*") if path.is_file())
    for path in files:
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert verify_cache(cache), path
        path.write_bytes(content)
    assert verify_cache(cache) == []


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the same recipe over other passages: sound, and of as many shards."""
    return make(tmp_path_factory.mktemp("older"), three_shards(CONFIG, seed=1))


@pytest.mark.parametrize("name", [*ROW_ARRAYS, "passage/digest", "passage/length"])
def test_a_shard_of_another_cache_is_found(cache: Path, older: Path, name: str) -> None:
    files = sorted(file for file in (cache / name / "c").rglob("*") if file.is_file())
    shutil.copy(older / files[0].relative_to(cache), files[0])
    assert verify_cache(cache)


def test_a_manifest_of_another_cache_is_found(cache: Path, older: Path) -> None:
    shutil.copy(older / "manifest.json", cache / "manifest.json")
    assert verify_cache(cache)


def test_an_older_manifest_of_the_same_cache_is_found(cache: Path) -> None:
    """Of a build that was done again: equal rows, other receipts."""
    edit(cache, lambda m: m["receipts"][2].update(seconds=9.0))
    assert verify_cache(cache) == ["receipts/ and the manifest's receipts differ"]


def test_a_shard_with_its_receipt_of_another_cache_is_found(cache: Path, older: Path) -> None:
    for name in ROW_ARRAYS:
        file = next(file for file in sorted((cache / name / "c").rglob("*")) if file.is_file())
        shutil.copy(older / file.relative_to(cache), file)
    shutil.copy(older / "receipts/0.json", cache / "receipts/0.json")
    assert verify_cache(cache) == ["receipts/ and the manifest's receipts differ"]
    shutil.copy(older / "manifest.json", cache / "manifest.json")  # then the other shards are not its own
    assert verify_cache(cache)


def test_a_shard_that_breaks_the_laws_is_found_though_its_receipt_agrees(cache: Path) -> None:
    """As a writer without checks would leave it: rows, receipt and manifest all tell the same lie."""
    forge(cache, {"row/tail_logprob": lambda tail: tail.__setitem__((40, 1), -0.01)})
    (fault,) = verify_cache(cache)
    assert fault.startswith("shard 0: top 20 and tail make 1.") and "temperature 2 in row 40" in fault
