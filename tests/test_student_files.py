"""A disk that refuses is one line, whatever of the student was writing, and leaves what was there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from synthetic_cache import make, passages_named, plan_of
from test_training_checkpoint import checkpoint_of_student, files_no_larger_than
from tiny_run import ctc_alone, tiny_job

from student.data.manifest import Utterance, write_manifest
from student.data.units import train_units
from student.errors import StudentError
from student.files import AppendedFile, disk_faults_told, write_bytes, write_json, write_text
from student.inference.evaluation import evaluate
from student.inference.export import export_model
from student.training.checkpoint import save_checkpoint
from student.training.event_file import EventFile
from student.training.log import RunLog
from student.training.run_cache import note_cache
from student.training.run_folder import TrainingResult, mark_best, run_lock, write_result
from student.training.trainer import TrainingJob, train
from teacher_cache.store import read_manifest as read_cache

FULL = Path("/dev/full")  # takes no byte: the system itself says that no space is left
needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
UTTERANCE = Utterance("one", "one.flac", "a sea of words", 1.0)


def result_of() -> TrainingResult:
    numbers = dict.fromkeys(("steps", "epoch", "skipped_steps", "left_out_utterances", "parameters"), 1)
    seconds = dict.fromkeys(("padding_fraction", "seconds", "audio_seconds", "data_wait_seconds"), 1.0)
    texts = dict.fromkeys(("cache_fingerprint", "device", "precision"), "")
    none = dict.fromkeys(("dev_wer", "best_dev_wer", "best_step"))
    return TrainingResult(inference_parameters=1, **numbers, **seconds, **texts, **none)  # type: ignore[arg-type]


def write_lock(path: Path) -> None:
    with run_lock(path.parent):
        pass


def write_appended(path: Path) -> None:
    with closing(AppendedFile(path)) as file:
        file.write(b"four")


def write_log(path: Path) -> None:
    with RunLog(path.parent, 0) as log:
        log.say("a line")


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "bytes": ("a.bin", partial(write_bytes, content=b"four")),
    "text": ("a.txt", partial(write_text, text="four")),
    "json": ("a.json", partial(write_json, content={"four": 4})),
    "appended": ("a.log", write_appended),
    "manifest": ("train.jsonl", partial(write_manifest, utterances=[UTTERANCE])),
    "units": ("units.vocab", lambda path: train_units(["a sea"], path.with_suffix(".model"), 8)),
    "best": ("checkpoints/best.json", lambda path: mark_best(path.parent.parent, 1, 0.5)),
    "result": ("result.json", lambda path: write_result(path.parent, result_of())),
    "lock": (".lock", write_lock),
    "events": ("tensorboard/events", lambda path: EventFile(path.parent, 1)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_cannot_grow_is_one_line_that_names_it(tmp_path: Path, writer: str) -> None:
    name, write = WRITERS[writer]
    with pytest.raises(StudentError) as caught, files_no_larger_than(0):
        write(tmp_path / name)
    message = str(caught.value)
    assert f"{tmp_path / name}" in message and "cannot be written (File too large)" in message
    assert "\n" not in message
    assert not list(tmp_path.rglob("*.partial"))


@needs_full_device
def test_a_full_disk_under_the_run_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to(FULL)
    with pytest.raises(StudentError, match=r"log\.txt: cannot be written \(No space left on device\)"):
        write_log(tmp_path / "log.txt")


def test_a_full_disk_under_the_metrics_is_named(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log, files_no_larger_than(0):
        with pytest.raises(StudentError, match=r"metrics\.jsonl: cannot be written \(File too large\)"):
            log.figures(1, "train", {"loss": 1.0})


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl"])
def test_a_pipe_in_place_of_a_log_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(StudentError, match=name):
        RunLog(tmp_path, 0)


@needs_full_device
def test_an_error_of_the_training_is_not_hidden_by_a_log_that_cannot_take_it(tmp_path: Path) -> None:
    (tmp_path / "log.txt").symlink_to(FULL)
    with pytest.raises(ZeroDivisionError), RunLog(tmp_path, 0):
        raise ZeroDivisionError


def test_what_was_there_stays_when_the_disk_is_full(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "before")
    with pytest.raises(StudentError), files_no_larger_than(3):
        write_text(tmp_path / "a.txt", "after")
    assert (tmp_path / "a.txt").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_is_no_folder_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudentError, match=r"a\.txt: cannot be written \("):
        write_text(tmp_path / "file" / "a.txt", "text")
    with pytest.raises(StudentError, match=r"\.lock: cannot be written \("), run_lock(tmp_path / "file"):
        pass


def test_a_library_that_hides_the_systems_error_is_told_and_other_errors_are_not(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"cannot be written \(disk full\)"):
        with disk_faults_told(tmp_path, (OSError, RuntimeError)):
            raise RuntimeError("disk\nfull")
    with pytest.raises(ValueError), disk_faults_told(tmp_path):
        raise ValueError


def test_the_note_of_the_runs_cache(tmp_path: Path) -> None:
    manifest = read_cache(make(tmp_path / "caches", plan_of(passages_named(3))))
    with pytest.raises(StudentError, match=r"cache\.json: cannot be written"), files_no_larger_than(10):
        note_cache(tmp_path / "run", manifest)


def test_an_export_leaves_nothing_behind(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "run" / "final.pt", checkpoint_of_student(tmp_path))
    with pytest.raises(StudentError, match=r"model: cannot be written"), files_no_larger_than(100_000):
        export_model(tmp_path / "run", tmp_path / "exports" / "model")
    assert not list((tmp_path / "exports").iterdir())


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    return ctc_alone(tiny_job(tmp_path_factory.mktemp("job"), num_train=20, num_dev=4), max_steps=2)


@needs_full_device
def test_a_training_ends_in_one_line_and_goes_on_when_there_is_space(
    job: TrainingJob, tmp_path: Path
) -> None:
    run = replace(job, run_dir=tmp_path)
    (tmp_path / "log.txt").symlink_to(FULL)
    with pytest.raises(StudentError, match=r"log\.txt: cannot be written \(No space left on device\)"):
        train(run)
    (tmp_path / "log.txt").unlink()
    assert train(run).steps == 2


def test_an_evaluation_that_cannot_be_kept(job: TrainingJob, tmp_path: Path) -> None:
    run = replace(job, run_dir=tmp_path)
    train(run)
    assert job.dev_manifest is not None
    splits = {"dev": job.dev_manifest}
    (tmp_path / "evaluation").touch()  # where a folder should be
    with pytest.raises(StudentError, match=r"dev\.utterances\.jsonl: cannot be written"):
        evaluate(tmp_path, splits, job.data_root, "cpu")
