"""Reading a corpus as it lies, and finding everything that is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fakes import SAMPLE_RATE_HZ, tones, write_corpus, write_jsonl

from pipeline.config import DataConfig, SplitConfig
from pipeline.corpus.audio_check import check_audio
from pipeline.corpus.read import CorpusLocation, RawUtterance, read_split
from pipeline.corpus.validation import shared_speakers, too_dense, validate, write_report
from pipeline.errors import PipelineError
from student.config import FeatureConfig
from student.data.manifest import Utterance
from student.data.units import train_units
from student.frames import frames_after_subsampling, frames_needed

TEXTS = ("the sea", "a ship sails", "night falls", "knight rides", "red flower")
FORMATS = ("flac", "wav", "ogg", "mp3", "opus")


def write_audio(
    path: Path, text: str = "a ship sails on", rate: int = SAMPLE_RATE_HZ, channels: int = 1
) -> Path:
    samples = np.repeat(tones(text)[:, None], channels, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    opus = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    soundfile.write(path, samples, rate, **opus)
    return path


def place(root: Path, corpus: str = "LibriSpeech") -> CorpusLocation:
    return CorpusLocation(root, corpus, root)


def data(**changes: object) -> DataConfig:
    return DataConfig(splits={"train": SplitConfig(folders=("train",))}, **changes)  # type: ignore[arg-type]


def reasons(root: Path, *entries: RawUtterance, **changes: object) -> list[tuple[str, str]]:
    """(id, reason) of everything that validation holds against a train split of `entries`."""
    return [(item.id, item.reason) for item in validate({"train": entries}, data(**changes), root).bad]


# ---- what lies there ----


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_librispeech_folder_is_read_with_any_audio_suffix(tmp_path: Path, suffix: str) -> None:
    chapter = tmp_path / "LibriSpeech" / "train" / "84" / "121123"
    write_audio(chapter / f"84-121123-0001.{suffix}")
    (chapter / "84-121123.trans.txt").write_text("84-121123-0001 GO  DO YOU HEAR\n\n")
    entries, bad = read_split("train", SplitConfig(folders=("train",)), place(tmp_path))
    assert not bad
    assert entries == [
        RawUtterance(
            id="84-121123-0001",
            audio=f"LibriSpeech/train/84/121123/84-121123-0001.{suffix}",
            text="GO  DO YOU HEAR",
            speaker="84",
            chapter="84-121123",
            position=1,
        )
    ]
    assert validate({"train": entries}, data(), tmp_path).good["train"][0].text == "go do you hear"


def test_the_lossless_file_is_preferred_whatever_the_order_of_names(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "LibriSpeech", TEXTS[:1])
    for suffix in ("wav", "mp3", "FLAC"):
        (folder / "100" / "7" / f"100-7-0000.{suffix}").touch()
    (folder / "100" / "7" / "100-7-0000.flac").unlink()
    (entry,), _ = read_split("train", SplitConfig(folders=("train",)), place(tmp_path))
    assert entry.audio.endswith(".FLAC")


def test_audio_without_a_transcript_and_a_transcript_without_audio_are_both_told(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "LibriSpeech", TEXTS[:3])
    write_audio(folder / "100" / "7" / "100-7-0099.flac")
    (folder / "101" / "7" / "101-7-0001.flac").unlink()
    entries, bad = read_split("train", SplitConfig(folders=("train",)), place(tmp_path))
    assert [(item.id, item.reason) for item in bad] == [("100-7-0099", "no transcript")]
    assert reasons(tmp_path, *entries) == [("101-7-0001", "missing audio")]


def test_ids_select_the_same_utterances_from_folders_of_any_name(tmp_path: Path) -> None:
    write_corpus(tmp_path / "LibriSpeech", TEXTS, folder="whatever")
    wanted = ["101-7-0004", "100-7-0003"]
    (tmp_path / "some.txt").write_text("# chosen\n" + "\n".join(wanted) + "\n\n999-1-0000\nnonsense\n")
    entries, bad = read_split("train", SplitConfig(ids="some.txt"), place(tmp_path))
    assert [entry.id for entry in entries] == wanted
    assert [(item.id, item.reason) for item in bad] == [
        ("999-1-0000", "id not found"),
        ("nonsense", "id not found"),
    ]
    named, _ = read_split("train", SplitConfig(ids="some.txt", folders=("whatever",)), place(tmp_path))
    assert named == entries


def test_an_id_that_lies_in_two_folders_is_the_users_to_settle(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_corpus(tmp_path / "LibriSpeech", TEXTS[:1], folder=folder)
    (tmp_path / "some.txt").write_text("100-7-0000\n")
    with pytest.raises(PipelineError, match="two places.*folders"):
        read_split("train", SplitConfig(ids="some.txt"), place(tmp_path))
    assert read_split("train", SplitConfig(ids="some.txt", folders=("two",)), place(tmp_path))[0]


def test_an_id_listed_twice_is_a_duplicate(tmp_path: Path) -> None:
    write_corpus(tmp_path / "LibriSpeech", TEXTS[:1])
    (tmp_path / "some.txt").write_text("100-7-0000\n100-7-0000\n")
    entries, _ = read_split("train", SplitConfig(ids="some.txt"), place(tmp_path))
    assert reasons(tmp_path, *entries) == [("100-7-0000", "duplicate id")] * 2


def test_manifests_speak_our_keys_and_nemos_and_find_audio_from_either_place(tmp_path: Path) -> None:
    write_audio(tmp_path / "mine" / "audio" / "one.wav")
    write_audio(tmp_path / "elsewhere" / "two.flac")
    ours = {
        "id": "first",
        "audio": "audio/one.wav",
        "text": "A ship",
        "speaker": 7,
        "seconds": 1.2,
        "chapter": "c",
        "position": 5,
    }
    nemo = {"audio_filepath": "elsewhere/two.flac", "duration": 1.2, "text": "sails on", "speaker": None}
    absolute = {"audio_filepath": str(tmp_path / "mine" / "audio" / "one.wav"), "text": "x", "id": "third"}
    write_jsonl(tmp_path / "mine" / "list.jsonl", [ours, nemo, absolute])
    entries, bad = read_split("train", SplitConfig(manifest="mine/list.jsonl"), place(tmp_path, ""))
    assert not bad
    assert entries == [
        RawUtterance("first", "mine/audio/one.wav", "A ship", "7", "c", 5, 1.2),
        RawUtterance("two", "elsewhere/two.flac", "sails on", "", "", 1, 1.2),
        RawUtterance("third", "mine/audio/one.wav", "x", "", "", 2, None),
    ]
    assert reasons(tmp_path, *entries) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "Expecting"),
        ("[1]", "not a JSON object"),
        ('{"audio": "a.wav"}', "'text' is missing"),
        ('{"text": "a"}', "'audio' is missing"),
        ('{"audio": "a.wav", "text": 5}', "strings"),
        ('{"audio": "a.wav", "text": "a", "seconds": "long"}', "'long' is not a number"),
        ('{"audio": "a.wav", "text": "a", "seconds": NaN}', "holds NaN"),
        ('{"audio": "a.wav", "text": "a", "position": 1.5}', "1.5 is not an integer"),
        ('{"audio": "a.wav", "text": "a", "id": ""}', "empty"),
        ('{"audio": "a.wav", "text": "a", "id": {}}', "neither a string"),
        ('{"audio": "a.wav", "text": "a", "offset": 3.5}', "offset"),
        ('{"audio": "../../etc/a.wav", "text": "a"}', "outside the data root"),
        ('{"audio": "/etc/a.wav", "text": "a"}', "outside the data root"),
    ],
)
def test_an_unusable_manifest_line_is_a_bad_item_and_the_others_are_read(
    tmp_path: Path, line: str, words: str
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "list.jsonl").write_text(line + '\n\n{"audio": "fine.wav", "text": "fine"}\n')
    entries, (bad,) = read_split("train", SplitConfig(manifest="list.jsonl"), place(root, ""))
    assert [entry.id for entry in entries] == ["fine"]
    assert (bad.id, bad.reason) == ("list.jsonl:1", "unreadable line")
    assert words in bad.detail


def test_what_is_not_there_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "LibriSpeech" / "empty").mkdir(parents=True)
    (tmp_path / "none.txt").write_text("# nothing\n")
    for split, words in (
        (SplitConfig(folders=("gone",)), "data download"),
        (SplitConfig(folders=("empty",)), "no utterance in empty"),
        (SplitConfig(ids="gone.txt"), "beside the config"),
        (SplitConfig(ids="none.txt"), "no utterance in none.txt"),
        (SplitConfig(manifest="gone.jsonl"), "no such manifest"),
    ):
        with pytest.raises(PipelineError, match=words):
            read_split("train", split, place(tmp_path))


# ---- what is wrong with it ----


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_whole_file_decodes_without_a_fault(tmp_path: Path, suffix: str) -> None:
    facts = check_audio(write_audio(tmp_path / f"a.{suffix}"))
    assert (facts.fault, facts.sample_rate_hz, facts.num_channels) == ("", SAMPLE_RATE_HZ, 1)
    assert facts.num_samples == len(tones("a ship sails on"))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9, 0.99])
def test_a_truncated_file_never_passes_whatever_its_header_says(
    tmp_path: Path, suffix: str, kept: float
) -> None:
    path = write_audio(tmp_path / f"a.{suffix}", "a ship sails on the deep sea" * 2)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert check_audio(path).fault in ("truncated audio", "undecodable audio")


def test_a_stream_that_never_knew_its_length_is_no_truncated_file(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[40:44] = b"\xff\xff\xff\xff"  # what ffmpeg writes into a pipe
    path.write_bytes(content)
    assert check_audio(path).fault == ""


def test_noise_and_samples_that_are_no_numbers_are_undecodable(tmp_path: Path) -> None:
    (tmp_path / "noise.flac").write_bytes(np.random.default_rng(0).bytes(5000))
    samples = tones("a ship")
    samples[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, SAMPLE_RATE_HZ, subtype="FLOAT")
    for name in ("noise.flac", "nan.wav"):
        assert check_audio(tmp_path / name).fault == "undecodable audio"


def entry(name: str, text: str = "a ship sails", **changes: object) -> RawUtterance:
    return RawUtterance(id=name, audio=f"{name}.wav", text=text, **changes)  # type: ignore[arg-type]


def test_every_fault_of_every_utterance_is_found_in_one_pass(tmp_path: Path) -> None:
    for name in ("fine", "digits", "silent", "dense", "twice", "declared", "nothing"):
        write_audio(tmp_path / f"{name}.wav")
    write_audio(tmp_path / "rate.wav", rate=8000)
    write_audio(tmp_path / "stereo.wav", channels=2)
    write_audio(tmp_path / "both.wav", rate=8000, channels=2)
    write_audio(tmp_path / "short.wav", "a")
    write_audio(tmp_path / "long.wav", "a ship" * 9)
    entries = [
        entry("fine", seconds=1.2),
        entry("digits", "in 1865"),
        entry("silent", " ... "),
        entry("dense", "a ship sails on " * 4),
        entry("twice"),
        entry("twice"),
        entry("declared", seconds=7.0),
        entry("gone"),
        entry("rate"),
        entry("stereo"),
        entry("both", ""),
        entry("short", "a"),
        entry("long"),
    ]
    found = validate({"train": entries}, data(max_seconds=3.0), tmp_path)
    assert [(item.id, item.reason) for item in found.bad] == [
        ("digits", "unknown characters"),
        ("silent", "empty transcript"),
        ("dense", "too many characters"),
        ("twice", "duplicate id"),
        ("twice", "duplicate id"),
        ("declared", "wrong duration"),
        ("gone", "missing audio"),
        ("rate", "wrong rate"),
        ("stereo", "wrong channels"),
        ("both", "empty transcript"),
        ("both", "wrong rate"),
        ("both", "wrong channels"),
        ("short", "too short"),
        ("long", "too long"),
    ]
    assert [utterance.id for utterance in found.good["train"]] == ["fine"]
    assert "DIGIT ONE" in found.bad[0].detail
    assert "8000 Hz" in next(item for item in found.bad if item.reason == "wrong rate").detail


def test_an_id_in_two_splits_is_bad_in_both(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    found = validate({"train": [entry("a")], "test": [entry("a")]}, data(), tmp_path)
    assert [(item.split, item.reason) for item in found.bad] == [
        ("train", "duplicate id"),
        ("test", "duplicate id"),
    ]
    assert found.good == {"train": [], "test": []}


def test_a_report_is_one_line_per_item_whatever_the_text_holds(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav")
    bad = validate({"train": [entry("a", "\t\n1\r"), entry("b\tc", "two")]}, data(), tmp_path).bad
    write_report(tmp_path / "bad.tsv", bad)
    lines = (tmp_path / "bad.tsv").read_text().splitlines()
    assert lines[0] == "split\tid\treason"
    assert len(lines) == 1 + len(bad) == 3
    assert all(line.count("\t") == 2 for line in lines)


def test_more_units_and_repeats_than_frames_is_found_exactly_at_the_limit(tmp_path: Path) -> None:
    texts = ["a ship sails on the deep sea", "night falls and a knight rides"]
    units, _ = train_units(texts, tmp_path / "units.model", 24)
    text = "see the sea " * 4
    needed = frames_needed(units.encode(text))
    samples = next(n for n in range(0, 10**6, 80) if frames_after_subsampling(n) >= needed)
    enough = Utterance("enough", "", text, samples / SAMPLE_RATE_HZ)
    lacking = Utterance("lacking", "", text, (samples - 80) / SAMPLE_RATE_HZ)
    (bad,) = too_dense({"train": [enough, lacking]}, units, FeatureConfig())
    assert (bad.id, bad.reason) == ("lacking", "more units than frames")
    assert len(too_dense({"train": [enough, lacking]}, units, FeatureConfig(), fastest_speed=1.1)) == 2


def test_speakers_of_training_who_are_heard_elsewhere_are_a_warning() -> None:
    def heard(*speakers: str) -> list[Utterance]:
        return [Utterance(str(n), "", "a", 1.0, speaker) for n, speaker in enumerate(speakers)]

    assert shared_speakers({"train": heard("1", "2", ""), "dev": heard("3", ""), "test": heard()}) == []
    (line,) = shared_speakers({"train": heard("1", "2"), "dev": heard("2", "3", "2")})
    assert "dev shares 1 of its 2 speakers" in line


@pytest.mark.data
@pytest.mark.parametrize("folder", ["dev-clean-20", "train-clean-7"])
def test_real_librispeech_speech_is_found_and_valid(real_data: Path, folder: str) -> None:
    entries, bad = read_split("train", SplitConfig(folders=(folder,)), place(real_data))
    assert not bad
    speaker = entries[0].speaker
    some = [one for one in entries if one.speaker == speaker][:20]
    found = validate({"train": some}, data(), real_data)
    assert not found.bad
    assert json.dumps([one.text for one in found.good["train"]]).isascii()


def test_the_probe_for_truncation_sees_more_than_soundfiles_own_frame_count(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:-2000])
    with soundfile.SoundFile(path) as audio:
        assert len(audio.read()) == audio.frames  # soundfile alone finds nothing wrong
    assert check_audio(path).fault == "truncated audio"
