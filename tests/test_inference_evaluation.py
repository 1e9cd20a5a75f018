"""A trained model's words, counted, written down and heard again from a user's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fakes import SAMPLE_RATE_HZ, tones
from tiny_run import ctc_alone, tiny_job
from torchaudio.functional import resample

from student.data.manifest import Utterance, read_manifest
from student.errors import StudentError
from student.inference.evaluation import evaluate, recognise
from student.inference.long_audio import Cutting
from student.inference.recogniser import load_recogniser
from student.inference.transcription import transcribe, transcript_of
from student.metrics import count_errors
from student.training.checkpoint import saved_steps, step_path
from student.training.trainer import TrainingJob, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    """A student that gets some words right and some wrong."""
    threads = torch.get_num_threads()
    job = tiny_job(tmp_path_factory.mktemp("trained"), num_train=60, num_dev=8)
    job = ctc_alone(job, max_steps=50, batch_seconds=20, micro_batch_seconds=20, warmup_steps=15)
    train(job)
    yield job
    torch.set_num_threads(threads)


def evaluated(job: TrainingJob) -> dict[str, dict[str, object]]:
    assert job.dev_manifest is not None
    return evaluate(job.run_dir, {"train": job.train_manifest, "dev": job.dev_manifest}, job.data_root, "cpu")


def test_several_splits_in_one_call_with_counts_that_make_the_rate(trained: TrainingJob) -> None:
    results = evaluated(trained)
    assert results.keys() == {"train", "dev"}
    for split, result in results.items():
        errors = sum(int(str(result[name])) for name in ("substitutions", "deletions", "insertions"))
        assert result["wer"] == pytest.approx(errors / int(str(result["words"])))
        stored = (trained.run_dir / "evaluation" / f"{split}.json").read_text(encoding="utf-8")
        assert json.loads(stored) == result
    assert results["dev"]["tap_wer"].keys() == {"1", "2"}  # type: ignore[attr-defined]
    assert results["dev"]["tap_wer"]["2"] == results["dev"]["wer"]  # type: ignore[index]


def test_the_trn_files_hold_what_was_counted(trained: TrainingJob) -> None:
    assert trained.dev_manifest is not None
    result, texts = evaluated(trained)["dev"], {}
    for kind in ("ref", "hyp"):
        path = trained.run_dir / "evaluation" / f"dev.{kind}.trn"
        lines = [
            re.fullmatch(r"(.*) \((.*)\)", line) for line in path.read_text(encoding="utf-8").splitlines()
        ]
        texts[kind] = {line[2]: line[1] for line in lines if line}
    utterances = read_manifest(trained.dev_manifest)
    assert texts["ref"] == {utterance.id: utterance.text for utterance in utterances}
    assert list(texts["hyp"]) == list(texts["ref"])
    assert count_errors(list(texts["ref"].values()), list(texts["hyp"].values())).wer == result["wer"]


def test_the_last_dev_wer_of_training_is_what_evaluation_finds(trained: TrainingJob) -> None:
    """Training leaves nothing out of dev here, so the two hear the same."""
    result = train(trained)
    assert result.already_finished
    assert evaluated(trained)["dev"]["wer"] == result.dev_wer


def test_a_single_checkpoint_can_be_evaluated(trained: TrainingJob) -> None:
    assert trained.dev_manifest is not None
    path = step_path(trained.run_dir, saved_steps(trained.run_dir)[-1])
    alone = evaluate(path, {"dev": trained.dev_manifest}, trained.data_root, "cpu")
    whole = evaluated(trained)["dev"]
    assert alone["dev"].pop("speed").keys() == whole.pop("speed").keys()  # type: ignore[attr-defined]
    assert alone["dev"] == whole | {"checkpoint": path.name}


def test_an_utterance_is_heard_the_same_alone_and_in_a_batch(trained: TrainingJob) -> None:
    recogniser = load_recogniser(trained.run_dir, "cpu")
    utterances = read_manifest(trained.train_manifest)[:12]
    together = recognise(recogniser, utterances, trained.data_root).by_layer("greedy")
    for index, utterance in enumerate(utterances):
        alone = recognise(recogniser, [utterance], trained.data_root).by_layer("greedy")
        assert {layer: texts[index] for layer, texts in together.items()} == {
            layer: texts[0] for layer, texts in alone.items()
        }


def test_a_recording_in_another_rate_and_in_stereo_is_converted_and_it_is_said(
    trained: TrainingJob, tmp_path: Path
) -> None:
    samples = tones("the red flower", seed=3)
    soundfile.write(tmp_path / "plain.flac", samples, SAMPLE_RATE_HZ)
    faster = resample(torch.from_numpy(samples), SAMPLE_RATE_HZ, 44_100).numpy()
    soundfile.write(tmp_path / "music.wav", np.stack([faster, faster], axis=1), 44_100)
    said: list[str] = []
    paths = [tmp_path / "plain.flac", tmp_path / "music.wav"]
    texts = transcribe(trained.run_dir, paths, "cpu", said.append)
    assert [path for path, _ in texts] == paths
    assert texts[0][1] == texts[1][1] != ""
    assert "final.pt" in said[0] and "cpu" in said[0]
    assert [line for line in said if "music.wav" in line] == [
        f"{paths[1]}: 2 channels mixed to one, 44100 Hz resampled to 16000 Hz"
    ]
    assert not any("plain.flac" in line for line in said)


def test_a_long_recording_of_utterances_and_silences_has_the_words_of_each(
    trained: TrainingJob, tmp_path: Path
) -> None:
    recogniser, parts, expected = load_recogniser(trained.run_dir, "cpu"), [], []
    hiss = np.random.default_rng(5)
    for number, utterance in enumerate(read_manifest(trained.train_manifest)[:10]):
        samples, _ = soundfile.read(trained.data_root / utterance.audio, dtype="float32")
        parts += [samples, 0.01 * hiss.standard_normal(SAMPLE_RATE_HZ).astype(np.float32)]
        soundfile.write(tmp_path / f"{number}.wav", np.concatenate(parts[-2:]), SAMPLE_RATE_HZ)
        alone = transcript_of(recogniser, tmp_path / f"{number}.wav")
        expected += [word.text for word in alone.words]
        assert all(0 <= word.start_seconds < word.end_seconds <= alone.seconds for word in alone.words)
    soundfile.write(tmp_path / "all.wav", np.concatenate(parts), SAMPLE_RATE_HZ)
    found = transcript_of(recogniser, tmp_path / "all.wav", cutting=Cutting(longest_seconds=8.0)).words
    errors = count_errors([" ".join(expected)], [" ".join(word.text for word in found)])
    assert errors.wer <= 0.2, "what stands around an utterance may change a word of it, no more"


def test_a_recording_that_is_absent_or_damaged_is_refused(trained: TrainingJob, tmp_path: Path) -> None:
    (tmp_path / "bad.flac").write_bytes(b"no audio")
    for name, advice in (("bad.flac", "convert"), ("none.flac", "no such file")):
        with pytest.raises(StudentError, match=advice):
            transcribe(trained.run_dir, [tmp_path / name], "cpu")


def test_silence_and_a_recording_shorter_than_a_frame_are_no_crash(
    trained: TrainingJob, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(100), SAMPLE_RATE_HZ)
    assert transcribe(trained.run_dir, [tmp_path / "short.wav"], "cpu")[0][1] == ""


def test_an_utterance_too_short_to_hear_counts_as_deletions(trained: TrainingJob, tmp_path: Path) -> None:
    """Beside others in its batch, and alone."""
    soundfile.write(tmp_path / "short.wav", np.zeros(100), SAMPLE_RATE_HZ)
    short = Utterance("short", str(tmp_path / "short.wav"), "a ship", 100 / SAMPLE_RATE_HZ)
    others = read_manifest(trained.train_manifest)[:2]
    recogniser = load_recogniser(trained.run_dir, "cpu")
    texts = recognise(recogniser, [others[0], short, others[1]], trained.data_root).rows["greedy"]
    plain = recognise(recogniser, others, trained.data_root).rows["greedy"]
    assert texts == [plain[0], "", plain[1]]


def test_a_folder_without_a_model_is_refused(trained: TrainingJob, tmp_path: Path) -> None:
    with pytest.raises(StudentError, match="bert2ctc train"):
        load_recogniser(tmp_path, "cpu")
    with pytest.raises(StudentError, match="no manifest"):
        evaluate(trained.run_dir, {"x": tmp_path / "x.jsonl"}, trained.data_root, "cpu")


def test_a_split_without_utterances_is_refused(trained: TrainingJob, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(StudentError, match="no reference"):
        evaluate(trained.run_dir, {"none": tmp_path / "none.jsonl"}, trained.data_root, "cpu")


def test_a_run_moves_with_its_folder(trained: TrainingJob, tmp_path: Path) -> None:
    """final.pt is self-contained: no manifest, cache or units beside it is read."""
    (tmp_path / "elsewhere").mkdir()
    final = tmp_path / "elsewhere" / "final.pt"
    final.write_bytes((trained.run_dir / "final.pt").read_bytes())
    soundfile.write(tmp_path / "a.flac", tones("red ship"), SAMPLE_RATE_HZ)
    moved = transcribe(final.parent, [tmp_path / "a.flac"], "cpu")
    assert moved == transcribe(replace(trained).run_dir, [tmp_path / "a.flac"], "cpu")
