"""`bert2ctc transcribe` on files and folders: what is written where, and what cannot be read beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result
from fakes import SAMPLE_RATE_HZ, tones
from test_training_checkpoint import checkpoint_of

from pipeline.cli import main
from student.config import ConformerConfig, StudentConfig
from student.data.units import train_units
from student.inference.long_audio import Cutting
from student.inference.recogniser import Recogniser, load_recogniser
from student.inference.transcription import transcript_of
from student.model.student_model import Bert2CTC
from student.training.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an untrained student, which babbles."""
    folder = tmp_path_factory.mktemp("run")
    conformer = ConformerConfig(
        num_layers=2, model_dim=32, num_heads=2, feed_forward_dim=64, subsampling_channels=8, taps=(1,)
    )
    config = replace(StudentConfig(), conformer=conformer)
    units, _ = train_units(["a sea of words", "the red ship"], folder / "units.model", 24)
    torch.manual_seed(2)
    state = Bert2CTC(config, units.size, None).state_dict()
    saved = replace(checkpoint_of(), config=config, model=state, average={}, units_model=units.model_bytes)
    save_checkpoint(folder / "final.pt", saved)
    return folder


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Recordings below a folder: plain, loud and faster in stereo, deeper down."""
    folder = tmp_path / "speech"
    (folder / "more").mkdir(parents=True)
    soundfile.write(folder / "a.flac", tones("the red ship"), SAMPLE_RATE_HZ)
    soundfile.write(folder / "b.wav", np.stack([tones("a sea"), tones("of words")[:6400]], axis=1), 8_000)
    soundfile.write(folder / "more" / "a.ogg", tones("the ship"), SAMPLE_RATE_HZ)
    (folder / "notes.txt").write_text("no speech", encoding="utf-8")
    return folder


def transcribe(run: Path, *words: object) -> Result:
    return CliRunner().invoke(main, ["transcribe", str(run), *map(str, words), "--device", "cpu"])


def texts(run: Path, speech: Path) -> dict[str, str]:
    recogniser = load_recogniser(run, "cpu")
    names = ("a.flac", "b.wav", "more/a.ogg")
    return {str(speech / name): recogniser.transcribe(speech / name) for name in names}


def test_a_folder_s_recordings_are_told_in_order_as_the_model_hears_each(run: Path, speech: Path) -> None:
    done = transcribe(run, speech, speech / "a.flac", "--json")
    assert done.exit_code == 0, done.output
    expected = [{"audio": name, "text": text} for name, text in texts(run, speech).items()]
    assert any(entry["text"] for entry in expected), "a student that says nothing proves nothing"
    result = json.loads(done.stdout)
    assert result == {"transcripts": expected, "unread": [], "written": []}
    assert "b.wav: 2 channels mixed to one, 8000 Hz resampled to 16000 Hz" in done.stderr
    assert "transcribing: 2/2 s of speech" in done.stderr and "s left" in done.stderr


@pytest.mark.parametrize(
    ("form", "ending"), [("text", "txt"), ("json", "json"), ("srt", "srt"), ("ctm", "ctm")]
)
def test_each_recording_has_a_file_of_its_own_that_is_never_replaced_unasked(
    run: Path, speech: Path, tmp_path: Path, form: str, ending: str
) -> None:
    out = tmp_path / "out"
    done = transcribe(run, speech, "--format", form, "--out", out)
    assert done.exit_code == 0, done.output
    files = [out / f"a.{ending}", out / f"b.{ending}", out / "more" / f"a.{ending}"]
    assert sorted(path for path in out.rglob("*") if path.is_file()) == files
    expected = texts(run, speech)
    if form == "text":
        assert [path.read_text("utf-8") for path in files] == [text + "\n" for text in expected.values()]
    if form == "json":
        for path, (name, text) in zip(files, expected.items(), strict=True):
            loaded = json.loads(path.read_text("utf-8"))
            assert (loaded["audio"], loaded["text"]) == (name, text)
            assert " ".join(word["word"] for word in loaded["words"]) == " ".join(text.split())
            times = [word[key] for word in loaded["words"] for key in ("start_seconds", "end_seconds")]
            assert times == sorted(times) and all(0 <= time <= loaded["seconds"] + 0.001 for time in times)
            assert all(0 <= word["confidence"] <= 1 for word in loaded["words"])
    again = transcribe(run, speech, "--format", form, "--out", out)
    assert again.exit_code == 1 and "3 of 3 do" in again.stderr and "--force" in again.stderr
    assert transcribe(run, speech, "--format", form, "--out", out, "--force").exit_code == 0
    one = transcribe(run, speech / "a.flac", "--format", form, "--out", tmp_path / f"one.{ending}")
    assert one.exit_code == 0 and (tmp_path / f"one.{ending}").read_bytes() == files[0].read_bytes()


def test_what_cannot_be_read_is_a_line_and_the_others_go_on(run: Path, speech: Path) -> None:
    (speech / "a2.flac").write_bytes(b"no audio")
    (speech / "phone.m4a").write_bytes(b"no audio that libsndfile decodes")
    soundfile.write(speech / "nan.wav", np.full(9000, np.nan), SAMPLE_RATE_HZ, subtype="FLOAT")
    done = transcribe(run, speech, speech / "absent.wav", "--json")
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert result["transcripts"] == [
        {"audio": name, "text": text} for name, text in texts(run, speech).items()
    ]
    unread = [Path(entry["audio"]).name for entry in result["unread"]]
    assert sorted(unread) == ["a2.flac", "absent.wav", "nan.wav", "phone.m4a"]
    for name in unread:
        assert sum(f"{name}: " in line for line in done.stderr.splitlines()) == 1
    assert "Error: 4 of 7 recordings could not be read" in done.stderr.splitlines()[-1]


def test_what_cannot_be_meant_is_refused_before_anything_is_heard(
    run: Path, speech: Path, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    soundfile.write(speech / "a.wav", tones("a"), SAMPLE_RATE_HZ)
    for words, reported in (
        ([tmp_path / "none"], "no recordings below it"),
        ([speech, "--format", "srt"], "holds one a file"),
        ([speech, "--out", tmp_path / "one.txt"], "is one file for 4 recordings"),
        ([speech, "--out", tmp_path / "taken"], "name a folder"),
        ([speech, "--out", tmp_path / "out"], "transcribe them one by one"),
    ):
        done = transcribe(run, *words)
        assert done.exit_code == 1 and reported in done.stderr and "final.pt" not in done.stderr, done.output
        assert len(done.stderr.splitlines()) == 1


def test_subtitles_of_one_recording_are_shown(run: Path, speech: Path) -> None:
    done = transcribe(run, speech / "a.flac", "--format", "vtt")
    assert done.exit_code == 0 and done.stdout.startswith("WEBVTT\n")


def test_a_recording_of_any_length_is_read_in_blocks_and_heard_in_pieces(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.tile(tones("the red ship on a sea of words   "), 20)
    soundfile.write(tmp_path / "long.wav", samples, SAMPLE_RATE_HZ)
    recogniser, longest, read = load_recogniser(run, "cpu"), [0], [0.0]
    own = Recogniser.final_logits

    def counted(self: Recogniser, waveforms: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
        longest[0] = max(longest[0], waveforms.shape[1])
        return own(self, waveforms, lengths)

    monkeypatch.setattr(Recogniser, "final_logits", counted)

    def advance(seconds: float) -> None:
        read[0] += seconds

    cutting = Cutting(longest_seconds=6.0)
    found = transcript_of(recogniser, tmp_path / "long.wav", advance=advance, cutting=cutting)
    assert longest[0] == 6 * SAMPLE_RATE_HZ
    assert found.seconds == pytest.approx(len(samples) / SAMPLE_RATE_HZ) == pytest.approx(read[0])
    times = [time for word in found.words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times) and times[-1] <= found.seconds
