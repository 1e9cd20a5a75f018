"""Every parser of a file from outside, fed with sound files that were spoilt at random: a value or one line.

A few seconds here; `BERT2CTC_FUZZ_SECONDS=600` before a release. Each case follows from its number alone, and
a failure names it: `BERT2CTC_FUZZ_FIRST=<number>` begins there.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from spoiling import (
    Spoil,
    spoilt_bytes,
    spoilt_checkpoint,
    spoilt_json,
    spoilt_lines,
    spoilt_safetensors,
    spoilt_signed,
)
from synthetic_cache import make, passages_named, plan_of
from test_training_checkpoint import checkpoint_of

from pipeline.config import CONFIG_FOLDER, SplitConfig, load_config
from pipeline.corpus.read import CorpusLocation, read_split
from pipeline.errors import PipelineError
from pipeline.experiments.ladder import load_ladder, trainings_of
from pipeline.run_record import read_record
from student.config import StudentConfig
from student.data.manifest import Utterance, read_manifest, write_manifest
from student.errors import StudentError
from student.inference.config_toml import config_of, tables_of, toml_of
from student.inference.safetensors import read_safetensors, safetensors_bytes
from student.training.checkpoint import load_checkpoint, save_checkpoint
from student.training.run_folder import best_step, metrics, read_result
from teacher_cache.build.plan import BuildPlan
from teacher_cache.config import CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.sharing.archive import pack_cache, unpack_archive
from teacher_cache.sharing.file_list import Contents, contents_of
from teacher_cache.sharing.transport import opened
from teacher_cache.store.manifest import Receipt, read_receipts
from teacher_cache.store.manifest import read_manifest as read_cache_manifest

SECONDS = float(os.environ.get("BERT2CTC_FUZZ_SECONDS", "4"))
FIRST = int(os.environ.get("BERT2CTC_FUZZ_FIRST", "0"))
Parse = Callable[[bytes], object]


def at(folder: Path, name: str, parse: Callable[[Path], object]) -> Parse:
    """The bytes as a file of this name below a folder of its own."""
    path = folder / "parsed" / name.replace("/", "_") / name
    path.parent.mkdir(parents=True)

    def write_and_parse(content: bytes) -> object:
        path.write_bytes(content)
        return parse(path)

    return write_and_parse


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bytes, Spoil, Parse]]:
    """What is parsed -> a sound example, how it is spoilt, the parser."""
    folder = tmp_path_factory.mktemp("fuzz")
    cache = make(folder / "caches", plan_of(passages_named(3), config=CacheConfig(top_k=8)))
    archive = pack_cache(cache, folder / "cache.tar").path.read_bytes()
    save_checkpoint(folder / "a.pt", checkpoint_of())
    write_manifest(folder / "train.jsonl", [Utterance(f"u{n}", "a.flac", "a sea", 1.5) for n in range(3)])
    config = StudentConfig()
    corpus_lines = b'{"audio": "a.flac", "text": "a", "seconds": 1.5, "speaker": 7}\n'
    corpus_lines += b'{"audio_filepath": "b", "text": ""}\n'
    record = {"config": {"trainer": {"max_steps": 3}, "data": {"splits": {}}}, "prepared": "a", "cache": ""}
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(1, dtype=torch.int64)}
    result = {
        "steps": 1, "epoch": 0, "dev_wer": 0.5, "best_dev_wer": None, "best_step": 1, "skipped_steps": 0,
        "left_out_utterances": 0, "padding_fraction": 0.0, "seconds": 1.0, "audio_seconds": 1.0,
        "data_wait_seconds": 0.0, "parameters": 1, "inference_parameters": 1, "cache_fingerprint": "",
        "device": "", "precision": "",
    }  # fmt: skip
    plan = BuildPlan(
        fingerprint="0" * 32, num_rows=1, num_passages=1, rows_per_shard=1024, batch_tokens=1, threads=1,
        dtype="float32", device_type="cpu",
    )  # fmt: skip

    def unpack(content: bytes) -> None:
        (folder / "foreign.tar").write_bytes(content)
        shutil.rmtree(folder / "unpacked", ignore_errors=True)
        with opened(str(folder / "foreign.tar")) as incoming:
            unpack_archive(incoming, "it", folder / "unpacked", lambda line: None)

    def result_of(path: Path) -> object:
        (path.parent / "final.pt").touch()
        return read_result(path.parent)

    def corpus(path: Path) -> object:
        location = CorpusLocation(path.parent, "", path.parent)
        entries, bad = read_split("train", SplitConfig(manifest=path.name), location)
        if bad:  # each is an item of a report
            raise PipelineError(bad[0].detail)
        return entries

    return {
        "config": (
            (CONFIG_FOLDER / "demo.toml").read_bytes(),
            spoilt_bytes,
            at(folder, "own.toml", lambda path: load_config(str(path))),
        ),
        "ladder": (
            (CONFIG_FOLDER / "ladders" / "demo-family.toml").read_bytes(),
            spoilt_bytes,
            at(folder, "ladder.toml", lambda path: trainings_of(load_ladder(str(path)), ())),
        ),
        "exported config": (
            toml_of(tables_of(config), {"step": 3}).encode(),
            spoilt_bytes,
            lambda content: config_of(content.decode(errors="replace")),
        ),
        "corpus manifest": (corpus_lines, spoilt_lines, at(folder, "list.jsonl", corpus)),
        "manifest": (
            (folder / "train.jsonl").read_bytes(),
            spoilt_lines,
            at(folder, "train.jsonl", read_manifest),
        ),
        "best step": (
            b'{"step": 1, "dev_wer": 0.5}',
            spoilt_json,
            at(folder, "checkpoints/best.json", lambda path: best_step(path.parents[1])),
        ),
        "metrics": (
            b'{"step": 1, "kind": "dev", "wer": 0.5}\n{"step": 2, "kind": "train", "loss": null}\n',
            spoilt_lines,
            at(folder, "metrics.jsonl", lambda path: metrics(path.parent)),
        ),
        "result": (json_bytes(result), spoilt_json, at(folder, "result.json", result_of)),
        "record": (
            json_bytes(record),
            spoilt_json,
            at(folder, "run.json", lambda path: read_record(path.parent)),
        ),
        "checkpoint": (
            (folder / "a.pt").read_bytes(),
            spoilt_checkpoint,
            at(folder, "b.pt", load_checkpoint),
        ),
        "weights": (
            safetensors_bytes(tensors, {"format": "pt"}),
            spoilt_safetensors,
            at(folder, "model.safetensors", read_safetensors),
        ),
        "file list": (
            contents_of(cache).to_bytes(),
            spoilt_json,
            lambda content: Contents.from_bytes(content, "it"),
        ),
        "archive": (archive, spoilt_bytes, unpack),
        "head of an archive": (
            archive,
            lambda content, chance: spoilt_bytes(content[:4096], chance) + content[4096:],
            unpack,
        ),
        "cache manifest": (
            (cache / "manifest.json").read_bytes(),
            spoilt_signed,
            at(folder, "manifest.json", lambda path: read_cache_manifest(path.parent)),
        ),
        "receipt": (
            json_bytes(asdict(Receipt(shard=0, rows=3, sha256="0" * 64, mass_at={"1": 0.5}))),
            spoilt_json,
            at(folder, "receipts/0.json", lambda path: read_receipts(path.parents[1])),
        ),
        "plan": (
            json_bytes(asdict(plan)),
            spoilt_json,
            at(folder, "plan.json", lambda path: BuildPlan.read(path.parent)),
        ),
    }


NAMES = (
    "config", "ladder", "exported config", "corpus manifest", "manifest", "best step", "metrics", "result",
    "record", "checkpoint", "weights", "file list", "archive", "head of an archive", "cache manifest",
    "receipt", "plan",
)  # fmt: skip


def cases(name: str) -> Iterator[tuple[int, random.Random]]:
    """Numbers, and the chance that follows from each, until the parser's share of the time is over."""
    end, number = time.monotonic() + SECONDS / len(NAMES), FIRST
    while time.monotonic() < end or number < FIRST + 5:
        yield number, random.Random(f"{name} {number}")
        number += 1


def law_a_value_or_one_line(parse: Parse, content: bytes) -> bool:
    """True where the content was refused, as it must be: by one line of a domain error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about what is refused all the same
        try:
            parse(content)
        except (PipelineError, StudentError, CacheError) as error:
            told = " ".join(str(error).split())
            assert told and len(told) < 4000 and "\n" not in str(error), told
            return True
    return False


@pytest.mark.timeout(max(300, 2 * SECONDS))
@pytest.mark.parametrize("name", NAMES)
def test_a_spoilt_file_is_a_value_or_one_line(
    name: str, parsers: dict[str, tuple[bytes, Spoil, Parse]]
) -> None:
    content, spoil, parse = parsers[name]
    parse(content)
    refusals = 0
    for number, chance in cases(name):
        spoilt = spoil(content, chance)
        try:
            refusals += law_a_value_or_one_line(parse, spoilt)
        except Exception as error:
            error.add_note(f"{name}, case {number} (BERT2CTC_FUZZ_FIRST={number}): {spoilt[:2000]!r}")
            raise
    assert refusals, "nothing was spoilt"


def test_every_parser_is_tried(parsers: dict[str, tuple[bytes, Spoil, Parse]]) -> None:
    assert tuple(parsers) == NAMES


def test_the_law_finds_a_parser_that_breaks_it() -> None:
    with pytest.raises(json.JSONDecodeError):
        law_a_value_or_one_line(json.loads, b"{")
