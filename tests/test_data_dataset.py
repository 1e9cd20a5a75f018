"""Audio is what the file says, the same from memory, from a worker and in any order; the rest is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fakes import SAMPLE_RATE_HZ, tones
from hypothesis import given
from hypothesis import strategies as st

from student.config import AugmentationConfig, FeatureConfig
from student.data.dataset import SpeechDataset, load_batches, read_audio
from student.data.manifest import Utterance
from student.errors import StudentError
from student.frames import encoder_frames, fits_ctc
from student.loss.losses import ctc_loss

TEXTS = ["sea", "a ship sails", "night falls", "the horse"]
SPEEDS = AugmentationConfig(speed_factors=(0.9, 1.0, 1.1))


def dataset_of(
    folder: Path, augmentation: AugmentationConfig | None = SPEEDS, **rest: float
) -> SpeechDataset:
    utterances = []
    for number, text in enumerate(TEXTS):
        samples = tones(text, number)
        soundfile.write(folder / f"{number}.flac", samples, SAMPLE_RATE_HZ)
        utterances.append(Utterance(str(number), f"{number}.flac", text, len(samples) / SAMPLE_RATE_HZ))
    return SpeechDataset(
        utterances=utterances,
        unit_ids=[[ord(letter) for letter in text] for text in TEXTS],
        data_root=folder,
        sample_rate_hz=SAMPLE_RATE_HZ,
        augmentation=augmentation,
        seed=1,
        **rest,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("suffix", ["flac", "wav", "opus", "ogg", "mp3"])
def test_every_format_decodes_to_the_samples_that_were_written(tmp_path: Path, suffix: str) -> None:
    samples = tones("the old ship")
    subtype = "OPUS" if suffix == "opus" else None
    file_format = "OGG" if suffix == "opus" else None
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype=subtype, format=file_format)
    read = read_audio(path, SAMPLE_RATE_HZ)
    assert read.dtype == np.int16
    if suffix in ("flac", "wav"):
        assert np.abs(read / 32768 - samples).max() <= 1 / 32768
    else:
        assert abs(len(read) - len(samples)) < SAMPLE_RATE_HZ // 10
        assert np.std(read / 32768) == pytest.approx(np.std(samples), rel=0.1)


def test_loud_float_audio_is_clipped_and_never_wraps(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([1.5, -1.5], np.float32), SAMPLE_RATE_HZ, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav", SAMPLE_RATE_HZ).tolist() == [32767, -32768]


@pytest.mark.parametrize(
    "samples, rate, named",
    [
        (np.zeros(800), 8000, "8000 Hz"),
        (np.zeros((800, 2)), SAMPLE_RATE_HZ, "2 channels"),
        (np.full(800, np.nan), SAMPLE_RATE_HZ, "NaN"),
        (np.zeros(0), SAMPLE_RATE_HZ, "no samples"),
    ],
)
def test_audio_that_no_manifest_should_name_is_refused_in_one_line(
    tmp_path: Path, samples: np.ndarray, rate: int, named: str
) -> None:
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    with pytest.raises(StudentError, match=named) as caught:
        read_audio(tmp_path / "a.wav", SAMPLE_RATE_HZ)
    assert "\n" not in str(caught.value) and "data prepare" in str(caught.value)


def test_absent_and_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.flac").write_bytes(b"no audio at all")
    for name, fault in (("a.flac", "no such file; point BERT2CTC_DATA at"), ("b.flac", "cannot be decoded")):
        with pytest.raises(StudentError, match=f"{name}: {fault}"):
            read_audio(tmp_path / name, SAMPLE_RATE_HZ)


def test_audio_from_memory_equals_audio_from_the_file_and_stays_within_the_limit(tmp_path: Path) -> None:
    plain, kept = dataset_of(tmp_path), dataset_of(tmp_path, memory_megabytes=100)
    for key in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        assert torch.equal(plain[key].waveform, kept[key].waveform)
    (tmp_path / "0.flac").unlink()
    kept[0, 0]
    with pytest.raises(StudentError):
        plain[0, 0]
    small = dataset_of(tmp_path, memory_megabytes=0.05)
    for index in range(len(TEXTS)):
        small[0, index]
    assert 0 < sum(samples.nbytes for samples in small._kept.values()) <= 0.05 * 2**20


def test_the_speed_of_an_utterance_follows_from_seed_epoch_and_id_alone(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    speeds = [dataset.speed_factor(epoch, 1) for epoch in range(30)]
    assert set(speeds) == {0.9, 1.0, 1.1}
    dataset.utterances = [dataset.utterances[1]]
    assert [dataset.speed_factor(epoch, 0) for epoch in range(30)] == speeds


def test_durations_of_an_epoch_are_those_of_its_waveforms(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    for epoch in range(3):
        heard = [len(dataset[epoch, index].waveform) / SAMPLE_RATE_HZ for index in range(len(TEXTS))]
        assert dataset.seconds(epoch) == pytest.approx(heard, abs=1e-3)


def test_a_batch_pads_with_zeros_and_keeps_order_and_lengths(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, augmentation=None)
    (batch,) = load_batches(dataset, [[(0, 2), (0, 0)]])
    assert batch.indices == (2, 0)
    assert batch.sample_lengths.tolist() == [len(dataset[0, 2].waveform), len(dataset[0, 0].waveform)]
    assert torch.equal(batch.waveforms[0], dataset[0, 2].waveform)
    assert batch.waveforms[1, batch.sample_lengths[1] :].abs().max() == 0
    assert batch.units[1].tolist() == [*(ord(letter) for letter in "sea"), *[0] * (len("night falls") - 3)]
    assert batch.unit_lengths.tolist() == [11, 3]


def test_loading_leaves_the_generator_of_dropout_alone(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(load_batches(dataset, [[(0, 0)], [(0, 1)]]))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_workers_give_the_same_batches_in_the_same_order_and_one_line_of_error(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, memory_megabytes=1)
    keys = [[(epoch, 0), (epoch, 1)] for epoch in range(3)] + [[(0, 2)]]
    alone, shared = list(load_batches(dataset, keys)), list(load_batches(dataset, keys, workers=2))
    assert [batch.indices for batch in alone] == [batch.indices for batch in shared]
    for a, b in zip(alone, shared, strict=True):  # a worker resamples on one thread: rounding may differ
        torch.testing.assert_close(a.waveforms, b.waveforms, rtol=0, atol=1e-6)
    (tmp_path / "3.flac").unlink()
    with pytest.raises(StudentError, match=r"3\.flac") as caught:
        list(load_batches(dataset, [[(0, 3)]], workers=1))
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(0, 14))
def test_ctc_has_a_path_exactly_where_an_utterance_fits(units: list[int], hundredths: int) -> None:
    seconds, config = 0.045 * hundredths, FeatureConfig()
    frames = encoder_frames(seconds, config)
    if frames == 0:
        assert not fits_ctc(units, seconds, config)
        return
    loss = ctc_loss(
        torch.zeros(1, frames, 4), torch.tensor([frames]), torch.tensor([units]), torch.tensor([len(units)])
    )
    assert bool(loss.isfinite()) == fits_ctc(units, seconds, config)


def test_a_faster_speed_leaves_fewer_frames() -> None:
    units = [1, 2] * 6
    seconds = next(s / 100 for s in range(200) if fits_ctc(units, s / 100, FeatureConfig()))
    assert not fits_ctc(units, seconds, FeatureConfig(), speed=1.2)
