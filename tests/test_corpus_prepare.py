"""`bert2ctc data prepare`: all or nothing, from training text alone, and safe to run again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile
from fakes import SAMPLE_RATE_HZ, sentences, tones, write_corpus

from pipeline.config import ExperimentConfig, load_config
from pipeline.corpus.prepare import prepare
from pipeline.errors import PipelineError
from student.data.manifest import read_manifest
from student.data.units import Units

TABLES = """
[data]
corpus = "LibriSpeech"
unit_vocabulary_size = 40
[data.splits]
train = { folders = ["train"] }
dev = { folders = ["dev"] }
[teacher]
name = "none"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with 12 training and 4 development utterances; the speakers are the same three."""
    corpus = tmp_path / "data" / "LibriSpeech"
    texts = sentences(16)
    write_corpus(corpus, texts[:12])
    write_corpus(corpus, texts[12:], seed=50, folder="dev")
    for index in range(4):  # other ids than in training, so that nothing is a duplicate
        chapter = corpus / "dev" / str(100 + index % 3) / "7"
        chapter.joinpath(f"{chapter.parent.name}-7-{index:04d}.flac").rename(
            chapter / f"{chapter.parent.name}-7-{index + 500:04d}.flac"
        )
        path = chapter / f"{chapter.parent.name}-7.trans.txt"
        path.write_text(path.read_text().replace(f"-7-{index:04d} ", f"-7-{index + 500:04d} "))
    return tmp_path / "data"


def config(folder: Path, extra: str = "") -> ExperimentConfig:
    path = folder / "own.toml"
    path.write_text(TABLES + extra, encoding="utf-8")
    return load_config(str(path))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_manifests_and_units_hold_normalised_text_and_paths_below_the_data_root(
    root: Path, tmp_path: Path
) -> None:
    result = prepare(config(tmp_path), root, tmp_path / "runs" / "prepared" / "x")
    assert not result.is_reused
    assert sorted(path.name for path in result.path.iterdir()) == [
        "dev.jsonl",
        "prepare.json",
        "train.jsonl",
        "units.model",
        "units.vocab",
    ]
    units = Units.from_file(result.path / "units.model")
    assert units.size == result.num_units + 1
    for name in ("train", "dev"):
        utterances = read_manifest(result.path / f"{name}.jsonl")
        assert len(utterances) == result.splits[name]["utterances"]
        for utterance in utterances:
            samples, rate = soundfile.read(root / utterance.audio)
            assert utterance.seconds == len(samples) / rate
            assert utterance.text == utterance.text.lower()
            if name == "train":
                assert units.decode(units.encode(utterance.text)) == utterance.text
        hours = sum(utterance.seconds for utterance in utterances) / 3600
        assert result.splits[name]["hours"] == pytest.approx(hours, abs=1e-4)
    assert "dev shares 3 of its 3 speakers" in result.warnings[0]


def test_the_units_do_not_depend_on_any_other_split(root: Path, tmp_path: Path) -> None:
    before = prepare(config(tmp_path), root, tmp_path / "before")
    chapter = root / "LibriSpeech" / "dev" / "100" / "7"
    path = chapter / "100-7.trans.txt"
    path.write_text(path.read_text().replace("100-7-0500 ", "100-7-0500 ZEBRA QUIZ "))
    after = prepare(config(tmp_path), root, tmp_path / "after")
    assert (before.path / "units.model").read_bytes() == (after.path / "units.model").read_bytes()
    assert (before.path / "dev.jsonl").read_bytes() != (after.path / "dev.jsonl").read_bytes()


def test_a_second_run_with_equal_inputs_changes_nothing_and_decodes_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepare(config(tmp_path), root, tmp_path / "out")
    before = contents(first.path)
    capsys.readouterr()
    again = prepare(config(tmp_path), root, tmp_path / "out")
    assert again.is_reused
    assert contents(again.path) == before
    assert (again.splits, again.num_units, again.warnings) == (first.splits, first.num_units, first.warnings)
    assert "decoding" not in capsys.readouterr().err


def test_the_same_corpus_elsewhere_is_the_same_input(root: Path, tmp_path: Path) -> None:
    prepare(config(tmp_path), root, tmp_path / "out")
    shutil.copytree(root, tmp_path / "copy")
    assert prepare(config(tmp_path), tmp_path / "copy", tmp_path / "out").is_reused


@pytest.mark.parametrize("change", ["setting", "text", "audio", "utterance"])
def test_other_inputs_are_refused_by_name_and_nothing_is_changed(
    root: Path, tmp_path: Path, change: str
) -> None:
    folder = prepare(config(tmp_path), root, tmp_path / "out").path
    before = contents(folder)
    chapter = root / "LibriSpeech" / "train" / "100" / "7"
    transcript = chapter / "100-7.trans.txt"
    extra = ""
    if change == "setting":
        extra = TABLES.replace("= 40", "= 41")
        (tmp_path / "own.toml").write_text(extra)
    elif change == "text":
        transcript.write_text(transcript.read_text().replace("100-7-0000 ", "100-7-0000 AND "))
    elif change == "audio":
        soundfile.write(chapter / "100-7-0000.flac", tones("quite another one"), SAMPLE_RATE_HZ)
    else:
        transcript.write_text("".join(transcript.read_text().splitlines(keepends=True)[:-1]))
    own = load_config(str(tmp_path / "own.toml")) if extra else config(tmp_path)
    with pytest.raises(PipelineError) as caught:
        prepare(own, root, folder)
    assert ("unit_vocabulary_size: 40 -> 41" if extra else "inputs.train.sha256") in str(caught.value)
    assert contents(folder) == before


def spoil(root: Path) -> None:
    chapter = root / "LibriSpeech" / "train" / "100" / "7"
    (chapter / "100-7-0000.flac").unlink()
    whole = (chapter / "100-7-0003.flac").read_bytes()
    (chapter / "100-7-0003.flac").write_bytes(whole[: len(whole) // 2])
    transcript = chapter / "100-7.trans.txt"
    transcript.write_text(transcript.read_text().replace("100-7-0006 ", "100-7-0006 1865 "))


def test_bad_items_stop_it_and_every_one_stands_in_the_report(root: Path, tmp_path: Path) -> None:
    spoil(root)
    with pytest.raises(PipelineError, match="3 bad utterances.*--leave-out-bad") as caught:
        prepare(config(tmp_path), root, tmp_path / "runs" / "out")
    report = tmp_path / "runs" / "out.bad-items.tsv"
    assert str(report) in str(caught.value)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [report.name]
    rows = [line.split("\t") for line in report.read_text().splitlines()]
    assert [row[:2] for row in rows[1:]] == [["train", f"100-7-000{n}"] for n in (0, 3, 6)]


def test_told_to_it_leaves_them_out_counts_them_and_says_so_again_later(root: Path, tmp_path: Path) -> None:
    spoil(root)
    with pytest.raises(PipelineError):
        prepare(config(tmp_path), root, tmp_path / "out")
    result = prepare(config(tmp_path), root, tmp_path / "out", leave_out_bad=True)
    left = {utterance.id for utterance in read_manifest(result.path / "train.jsonl")}
    assert left.isdisjoint({"100-7-0000", "100-7-0003", "100-7-0006"})
    assert result.splits["train"]["left_out"] == 3
    assert result.splits["dev"]["left_out"] == 0
    assert result.left_out == {"missing audio": 1, "undecodable audio": 1, "unknown characters": 1}
    assert len((result.path / "left_out.tsv").read_text().splitlines()) == 4
    assert not (tmp_path / "out.bad-items.tsv").exists()
    assert prepare(config(tmp_path), root, tmp_path / "out").left_out == result.left_out


def test_an_utterance_too_dense_for_ctc_is_bad_and_one_too_dense_at_speed_only_a_warning(
    root: Path, tmp_path: Path
) -> None:
    chapter = root / "LibriSpeech" / "train" / "100" / "7"
    slow_limit = "min_seconds = 0.1\nmax_characters_per_second = 1000.0\n"
    tables = TABLES.replace("[data.splits]", f"{slow_limit}[data.splits]")
    tables += "[augmentation]\nspeed_factors = [1.0, 3.0]\n"
    (tmp_path / "dense.toml").write_text(tables)
    own = load_config(str(tmp_path / "dense.toml"))
    result = prepare(own, root, tmp_path / "fine")
    assert any("at speed 3" in line for line in result.warnings)
    soundfile.write(chapter / "100-7-0000.flac", tones("abc"), SAMPLE_RATE_HZ)
    transcript = chapter / "100-7.trans.txt"
    transcript.write_text(transcript.read_text().replace("100-7-0000 ", "100-7-0000 XYLOPHONE QUIZ JUMPS "))
    with pytest.raises(PipelineError, match="1 more units than frames"):
        prepare(own, root, tmp_path / "dense")
    kept = prepare(own, root, tmp_path / "dense", leave_out_bad=True)
    assert "100-7-0000" not in {one.id for one in read_manifest(kept.path / "train.jsonl")}


def test_a_split_with_nothing_left_is_refused_even_when_bad_items_may_be_left_out(
    root: Path, tmp_path: Path
) -> None:
    for path in (root / "LibriSpeech" / "dev").rglob("*.flac"):
        path.write_bytes(b"")
    with pytest.raises(PipelineError, match="split dev: no usable utterance"):
        prepare(config(tmp_path), root, tmp_path / "out", leave_out_bad=True)
    assert not (tmp_path / "out").exists()


def test_bad_items_are_told_even_where_nothing_is_left_to_train_units_on(root: Path, tmp_path: Path) -> None:
    for path in (root / "LibriSpeech" / "train").rglob("*.flac"):
        path.write_bytes(b"")
    with pytest.raises(PipelineError, match="undecodable audio"):
        prepare(config(tmp_path), root, tmp_path / "out")


def test_a_folder_that_is_no_preparation_is_left_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(PipelineError, match="prepare.json: there is no such file; nothing was changed"):
        prepare(config(tmp_path), root, tmp_path / "out")
    assert contents(tmp_path / "out") == {"thesis.txt": b"years of work"}


def test_the_data_root_is_never_written_to(root: Path, tmp_path: Path) -> None:
    def state() -> list[tuple[str, int, int]]:
        return sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in [root, *root.rglob("*")])

    before = state()
    prepare(config(tmp_path), root, tmp_path / "out")
    assert state() == before


def test_the_record_says_what_it_was_made_from_and_with(root: Path, tmp_path: Path) -> None:
    record = json.loads((prepare(config(tmp_path), root, tmp_path / "out").path / "prepare.json").read_text())
    assert record["identity"]["inputs"]["train"]["utterances"] == 12
    assert record["identity"]["normaliser"]["name"] == "english"
    assert record["provenance"]["versions"]["sentencepiece"]
    assert str(tmp_path) not in json.dumps(record)
