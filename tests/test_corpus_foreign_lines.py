"""A line of a foreign manifest, transcript or id list that cannot be used is one reported item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fakes import sentences, write_corpus, write_jsonl
from test_corpus_prepare import config

from pipeline.cli import main
from pipeline.config import ExperimentConfig, SplitConfig, load_config
from pipeline.corpus.prepare import prepare
from pipeline.corpus.read import BadItem, CorpusLocation, read_split
from pipeline.errors import PipelineError
from student.data.manifest import read_manifest

GOOD = {"audio": "LibriSpeech/train/100/7/100-7-0000.flac", "text": "a"}
FOREIGN: dict[str, bytes] = {
    "NUL in a path": json.dumps({**GOOD, "audio": "a\0b.flac"}).encode(),
    "NUL in an id": json.dumps({**GOOD, "id": "a\0b"}).encode(),
    "NUL itself": b'{"audio": "a\0.flac", "text": "a"}',
    "a long path": json.dumps({**GOOD, "audio": "a" * 5000}).encode(),
    "a long component": json.dumps({**GOOD, "audio": "b/" + "a" * 300 + ".flac"}).encode(),
    "a long way": json.dumps({**GOOD, "audio": "a/" * 2500 + "a.flac"}).encode(),
    "brackets": b"[" * 100_000,
    "braces": b'{"a":' * 100_000,
    "half a character in a path": rb'{"audio": "\ud800.flac", "text": "a"}',
    "half a character in a text": rb'{"audio": "x.flac", "text": "\udcff"}',
    "an escape sequence": json.dumps({**GOOD, "speaker": "\x1b[2J"}).encode(),
    "no UTF-8": b'{"audio": "\xff.flac", "text": "a"}',
    "a key twice": b'{"audio": "a.flac", "text": "a", "text": "b"}',
    "a huge position": json.dumps({**GOOD, "position": 10**100}).encode(),
    "a huge duration": b'{"audio": "a.flac", "text": "a", "seconds": 1e999}',
    "an endless integer": b'{"audio": "a.flac", "text": "a", "position": ' + b"9" * 5000 + b"}",
    "a long line": b'{"audio": "a.flac", "text": "' + b"a" * (1 << 20) + b'"}',
    "nothing but a word": b"hello",
}


def without_dev(folder: Path, old: str, new: str) -> ExperimentConfig:
    """The config of the tests of `prepare`, train alone, with a change."""
    config(folder)
    path = folder / "own.toml"
    path.write_text(path.read_text().replace('dev = { folders = ["dev"] }\n', "").replace(old, new))
    return load_config(str(path))


def test_every_foreign_line_is_one_item_and_leaving_them_out_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_corpus(root / "LibriSpeech", sentences(12))
    sound = [
        {"audio": str(path.relative_to(root)), "text": text}
        for transcript in sorted(root.rglob("*.trans.txt"))
        for name, text in (line.split(" ", 1) for line in transcript.read_text().splitlines())
        for path in [transcript.parent / f"{name}.flac"]
    ]
    write_jsonl(root / "list.jsonl", sound)
    with (root / "list.jsonl").open("ab") as stream:
        stream.write(b"\n".join(FOREIGN.values()) + b"\n")
    own = without_dev(tmp_path, 'folders = ["train"]', 'manifest = "list.jsonl"')
    with pytest.raises(PipelineError, match=f"^{len(FOREIGN)} bad utterances") as caught:
        prepare(own, root, tmp_path / "out")
    assert "\n" not in str(caught.value)
    report = (tmp_path / "out.bad-items.tsv").read_text().splitlines()
    assert len(report) == 1 + len(FOREIGN) and all(line.count("\t") == 2 for line in report)
    assert "\x1b" not in "".join(report)
    done = prepare(own, root, tmp_path / "out", leave_out_bad=True)
    assert done.left_out == {"unreadable line": len(FOREIGN) - 1, "missing audio": 1}  # a long component
    assert len(read_manifest(tmp_path / "out" / "train.jsonl")) == len(sound)
    assert prepare(own, root, tmp_path / "out", leave_out_bad=True).is_reused


def read(root: Path, **split: Any) -> tuple[list[str], list[BadItem]]:
    entries, bad = read_split("train", SplitConfig(**split), CorpusLocation(root, "LibriSpeech", root))
    return [entry.id for entry in entries], bad


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"../../../a-7-0000 TEXT", "an id is a file's name"),
        (b"a" * 5000 + b" TEXT", "an id is a file's name"),
        (b"a\0b TEXT", "U+0000"),
        (b"100-7-0009 \xff", "is not UTF-8"),
        (b"\x1b[2J TEXT", "U+001B"),
    ],
)
def test_a_line_of_a_transcript_is_one_item(tmp_path: Path, line: bytes, told: str) -> None:
    folder = write_corpus(tmp_path / "LibriSpeech", sentences(3))
    transcript = next(folder.rglob("100-7.trans.txt"))
    with transcript.open("ab") as stream:
        stream.write(line + b"\n")
    ids, (bad,) = read(tmp_path, folders=("train",))
    assert len(ids) == 3 and bad.reason == "unreadable line" and told in bad.detail


def test_a_transcript_that_is_no_file_is_one_item(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "LibriSpeech", sentences(3))
    (folder / "100" / "7" / "more.trans.txt").mkdir()
    ids, (bad,) = read(tmp_path, folders=("train",))
    assert len(ids) == 3 and (bad.id, bad.detail) == ("more.trans.txt", "is a folder, not a file")


def test_a_line_of_an_id_list_is_one_item(tmp_path: Path) -> None:
    write_corpus(tmp_path / "LibriSpeech", sentences(3))
    foreign = [b"../../x-1-2", b"a" * 5000 + b"-1-2", b"\xff", b"a\0-1-2"]
    lines = [b"100-7-0000", *foreign, b"# \x1b", b"101-7-0001"]
    (tmp_path / "ids.txt").write_bytes(b"\n".join(lines))
    ids, bad = read(tmp_path, ids="ids.txt")
    assert ids == ["100-7-0000", "101-7-0001"]
    assert [item.id for item in bad] == [f"ids.txt:{number}" for number in (2, 3, 4, 5)]


def test_a_corpus_without_dev_is_prepared_and_labelled(tmp_path: Path, bert_folder: Path) -> None:
    """Training needs no dev split, so neither does the cache that it follows."""
    write_corpus(tmp_path / "data" / "LibriSpeech", sentences(12))
    without_dev(tmp_path, 'name = "none"', f'model = "{bert_folder}"')
    roots = [f"--{name}-root={tmp_path / name}" for name in ("data", "runs")]
    prepared = CliRunner().invoke(main, ["data", "prepare", str(tmp_path / "own.toml"), *roots])
    assert prepared.exit_code == 0, prepared.output
    build = ["cache", "build", str(tmp_path / "own.toml"), *roots, f"--cache-root={tmp_path / 'cache'}"]
    done = CliRunner().invoke(main, [*build, "--set", "trainer.device=cpu", "--dry-run"])
    assert done.exit_code == 0, done.output
    refused = CliRunner().invoke(main, [*build, "--set", 'build.splits=["train", "test"]', "--dry-run"])
    assert refused.exit_code == 1 and "[build] splits names 'test'" in refused.output


def test_what_was_left_out_knowingly_is_reused_and_another_bad_line_is_not(tmp_path: Path) -> None:
    write_corpus(tmp_path / "data" / "LibriSpeech", sentences(6, seed=1), folder="train")
    own = without_dev(tmp_path, 'train = { folders = ["train"] }', 'train = { manifest = "m.jsonl" }')
    texts = [
        {"audio": str(path.relative_to(tmp_path / "data")), "text": "a word"}
        for path in sorted((tmp_path / "data").rglob("*.flac"))
    ]
    manifest, out = tmp_path / "data" / "m.jsonl", tmp_path / "out"
    write_jsonl(manifest, texts)
    good = manifest.read_bytes()
    manifest.write_bytes(good + b"hello\n")
    with pytest.raises(PipelineError, match="1 bad"):
        prepare(own, tmp_path / "data", out)
    prepare(own, tmp_path / "data", out, leave_out_bad=True)
    assert prepare(own, tmp_path / "data", out).is_reused
    manifest.write_bytes(good + b"hello\n" + FOREIGN["no UTF-8"] + b"\n")
    with pytest.raises(PipelineError, match="prepared from other inputs .*other bad items"):
        prepare(own, tmp_path / "data", out)
