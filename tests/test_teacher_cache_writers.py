"""Every writer of the teacher cache: killed, refused by the disk or cut from power, it leaves old or new."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from contracts import (
    Writer,
    bytes_of,
    files_below,
    law_a_full_disk_leaves_the_old_and_one_line,
    law_a_killed_writer_leaves_the_old_or_the_new,
    law_names_follow_bytes_to_the_disk,
)
from safetensors.numpy import save_file
from synthetic_cache import Plan, passages_named, plan_of, write
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from teacher_cache.build.plan import PLAN as PLAN_NAME
from teacher_cache.build.plan import BuildPlan
from teacher_cache.common.files import write_json, write_whole
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.sharing.archive import pack_cache, unpack_archive
from teacher_cache.sharing.transport import opened
from teacher_cache.store.manifest import MANIFEST, Receipt, write_manifest, write_receipt
from teacher_cache.store.memory_map import ensure_map
from teacher_cache.store.root import write_name
from teacher_cache.store.rows import encode
from teacher_cache.store.view import View, rows_of
from teacher_cache.store.writer import publish
from teacher_cache.teacher.folder import write_teacher

PLAN = plan_of(passages_named(12), config=CacheConfig(top_k=8))
FINGERPRINT = PLAN.manifest.fingerprint


def small_file(write: Callable[[Path, int], object], name: str) -> Writer:
    return Writer(write, lambda folder: bytes_of(folder / name))


def build_plan(folder: Path, version: int) -> None:
    BuildPlan(
        fingerprint=FINGERPRINT,
        num_rows=version,
        num_passages=1,
        rows_per_shard=1024,
        batch_tokens=4096,
        threads=1,
        dtype="float32",
        device_type="cpu",
    ).write(folder)


def memory_map(plan: Plan) -> Writer:
    """Of a store that is already in memory: a forked process has no threads to read one."""
    lengths = np.array([len(passage.text.split()) for passage in plan.passages])
    ends = np.cumsum(lengths)
    stored, view = encode(plan.rows, plan.layout), View(8, 1.0, "bucket")
    cache = SimpleNamespace(digests=plan.digests, spans=np.stack([ends - lengths, ends], axis=1))
    rows = rows_of(stored, plan.layout, view)
    shards = [plan.layout.shard_rows(shard) for shard in range(plan.layout.num_shards)]
    source = SimpleNamespace(shards=lambda: ((span, rows[span]) for span in shards))

    def write(folder: Path, version: int) -> None:
        manifest = replace(plan.manifest, build={"version": version})
        ensure_map(folder / "a.map", manifest, view, lambda: (cache, source))  # type: ignore[arg-type, return-value]

    return small_file(write, "a.map")


def archive(cache: Path) -> Writer:
    return Writer(
        lambda folder, version: pack_cache(cache, folder / "cache.tar"),
        lambda folder: bytes_of(folder / "cache.tar"),
        replaces=False,
    )


def unpacked(packed: Path) -> Writer:
    def unpack(folder: Path, version: int) -> None:
        with opened(str(packed)) as incoming:
            unpack_archive(incoming, "it", folder, lambda line: None)

    return Writer(unpack, lambda folder: files_below(folder / FINGERPRINT), replaces=False)


PUBLISHED = Writer(
    lambda folder, version: publish(folder / ".building" / FINGERPRINT, folder, PLAN.manifest),
    lambda folder: files_below(folder / FINGERPRINT),
    prepare=lambda folder: write(folder, PLAN),
    replaces=False,
)


def teacher_folder() -> Writer:
    """By the libraries that save a real one, but without progress bars: their lock outlives a kill."""
    model = SimpleNamespace(
        state_dict=dict,
        save_pretrained=lambda folder: save_file({"a": np.ones(3000)}, folder / "model.safetensors"),
    )
    tokenizer = Tokenizer(WordLevel({f"word{number}": number for number in range(1000)}, "word0"))
    tokens = SimpleNamespace(save_pretrained=lambda folder: tokenizer.save(str(folder / "tokenizer.json")))
    return Writer(
        lambda folder, version: write_teacher(folder / "teacher", model, tokens, {"name": "a"}),
        lambda folder: files_below(folder / "teacher"),
        replaces=False,
    )


@pytest.fixture(scope="module")
def writers(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Writer]:
    scratch = tmp_path_factory.mktemp("scratch")
    receipt = Receipt(shard=3, rows=1024, sha256="0" * 64)
    return {
        "text": small_file(lambda folder, version: write_whole(folder / "a", "é" * version), "a"),
        "JSON": small_file(lambda folder, version: write_json(folder / "a", {"b": version}), "a"),
        "build plan": small_file(build_plan, PLAN_NAME),
        "receipt": small_file(
            lambda folder, version: write_receipt(folder, replace(receipt, seconds=version)),
            "receipts/3.json",
        ),
        "manifest": small_file(
            lambda folder, version: write_manifest(folder, replace(PLAN.manifest, build={"a": version})),
            MANIFEST,
        ),
        "name": small_file(
            lambda folder, version: write_name(folder, "demo", str(version) * 32), "names/demo"
        ),
        "memory map": memory_map(PLAN),
        "archive": archive(cache),
        "unpacked cache": unpacked(pack_cache(cache, scratch / "cache.tar").path),
        "published cache": PUBLISHED,
        "teacher": teacher_folder(),
    }


NAMES = (
    "text", "JSON", "build plan", "receipt", "manifest", "name", "memory map", "archive", "unpacked cache",
    "published cache", "teacher",
)  # fmt: skip


@pytest.fixture(params=NAMES)
def writer(request: pytest.FixtureRequest, writers: dict[str, Writer]) -> Writer:
    return writers[request.param]


def test_all_writers_are_held_to_the_laws(writers: dict[str, Writer]) -> None:
    assert tuple(writers) == NAMES


def test_a_killed_writer_leaves_the_old_or_the_new(writer: Writer, tmp_path: Path) -> None:
    law_a_killed_writer_leaves_the_old_or_the_new(writer, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_leaves_the_old_and_one_line(writer: Writer, tmp_path: Path) -> None:
    law_a_full_disk_leaves_the_old_and_one_line(writer, tmp_path)


def test_names_follow_bytes_to_the_disk(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    law_names_follow_bytes_to_the_disk(writer, tmp_path, monkeypatch)


def plainly(folder: Path, version: int) -> None:
    """As it should not be done."""
    try:
        with (folder / "a").open("w") as stream:
            stream.write(str(version) * 5000)
            stream.flush()
            stream.write(str(version) * 5000)
    except OSError as error:
        raise CacheError(f"cannot write ({error.strerror})") from error


def test_the_laws_find_a_writer_that_breaks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = small_file(plainly, "a")
    with pytest.raises(AssertionError, match="killed at call"):
        law_a_killed_writer_leaves_the_old_or_the_new(writer, tmp_path / "killed")
    with pytest.raises(AssertionError):
        law_a_full_disk_leaves_the_old_and_one_line(writer, tmp_path / "full")
    with pytest.raises(AssertionError, match="not given by a rename"):
        law_names_follow_bytes_to_the_disk(writer, tmp_path / "cut", monkeypatch)
