"""Every stage end to end through the commands, with a tiny real BERT and real FLAC files, each run twice."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from fakes import WORDS, sentences, tiny_bert, write_corpus

from pipeline.cli import main
from student.training.checkpoint import load_checkpoint
from student.training.run_folder import dev_wers, metrics, saved_steps

pytestmark = pytest.mark.slow

CONFIG = """
[data]
corpus = "tones"
unit_vocabulary_size = 60
max_characters_per_second = 100.0
min_seconds = 0.01
[data.splits]
train = {{ folders = ["train"] }}
dev = {{ folders = ["dev"] }}
[teacher]
model = "{teacher}"
[cache]
top_k = 16
[build]
workers = 1
[augmentation]
time_masks = 0
frequency_masks = 0
[conformer]
num_layers = 3
model_dim = 32
num_heads = 2
feed_forward_dim = 64
conv_kernel_frames = 7
subsampling_channels = 8
taps = [1, 2]
dropout = 0.0
[decoder]
num_layers = 1
num_heads = 2
feed_forward_dim = 64
min_count = 1
[objective]
top_k = 8
[trainer]
max_steps = 12
batch_seconds = 20.0
micro_batch_seconds = 10.0
warmup_steps = 4
checkpoint_every_steps = 5
evaluate_every_steps = 6
device = "cpu"
precision = "float32"
"""


class Road:
    """A folder with data, config and roots, and a way to run commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "tones.toml"
        self.options = {name: str(folder / name) for name in ("data", "cache", "runs", "scratch")}

    def run(self, *arguments: str, roots: str) -> Result:
        given = [part for name in roots.split() for part in (f"--{name}-root", self.options[name])]
        return CliRunner().invoke(main, [*arguments, *given])

    def json(self, *arguments: str, roots: str) -> dict[str, Any]:
        result = self.run(*arguments, "--json", roots=roots)
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    """A prepared corpus, a built cache and a trained, evaluated student."""
    road = Road(tmp_path_factory.mktemp("road"))
    teacher = tiny_bert(road.folder / "bert")
    texts = sentences(50, seed=1, words=WORDS, max_words=6)
    write_corpus(road.folder / "data" / "tones", texts[:40], folder="train")
    write_corpus(road.folder / "data" / "tones", texts[40:], folder="dev", first_speaker=900)
    road.config.write_text(CONFIG.format(teacher=teacher), encoding="utf-8")
    config = str(road.config)
    road.first = {  # type: ignore[attr-defined]
        "prepare": road.json("data", "prepare", config, roots="data runs"),
        "cache": road.json("cache", "build", config, roots="data cache runs"),
        "train": road.json("train", config, roots="data cache runs"),
        "evaluate": road.json("evaluate", "tones", roots="data runs"),
    }
    return road


def test_the_first_time_everything_is_made(road: Road) -> None:
    first = road.first  # type: ignore[attr-defined]
    assert first["prepare"]["splits"]["train"]["utterances"] == 40
    assert first["cache"]["rows_scored"] > 50
    assert first["train"]["steps"] == 12
    scores = first["evaluate"]["splits"]["dev"]
    assert set(scores["tap_wer"]) == {"1", "2", "3"}
    assert scores["words"] == sum(len(text.split()) for text in sentences(50, seed=1, max_words=6)[40:])


@pytest.mark.parametrize(
    ("arguments", "roots", "says_reused"),
    [
        (("data", "prepare"), "data runs", lambda done: done["is_reused"]),
        (("cache", "build"), "data cache runs", lambda done: done["is_reused"] and done["rows_scored"] == 0),
        (("train",), "data cache runs", lambda done: done["already_finished"]),
    ],
)
def test_the_second_time_nothing_is_done_and_nothing_changes(
    road: Road, arguments: tuple[str, ...], roots: str, says_reused: Callable[[dict[str, Any]], bool]
) -> None:
    def snapshot() -> dict[Path, bytes]:
        kept = [road.folder / "cache", road.folder / "runs" / "prepared"]
        return {path: path.read_bytes() for top in kept for path in top.rglob("*") if path.is_file()}

    before = snapshot()
    assert says_reused(road.json(*arguments, str(road.config), roots=roots))
    assert snapshot() == before


def test_another_config_on_the_same_run_is_refused_and_the_keys_are_named(road: Road) -> None:
    result = road.run("train", str(road.config), "--set", "trainer.max_steps=13", roots="data cache runs")
    assert result.exit_code == 1
    assert "trainer.max_steps: 12 -> 13" in result.stderr
    assert "RUN=" in result.stderr


def test_a_cache_of_the_config_s_name_by_another_teacher_is_refused_unless_it_is_named(road: Road) -> None:
    """After an edit of [teacher] the name still stands for the cache that the old one labelled."""
    run = road.folder / "runs" / "other-teacher"
    settings = ("--set", "teacher.model=other/roberta", "--set", "trainer.max_steps=1", "--run-dir", str(run))
    refused = road.run("train", str(road.config), *settings, roots="data cache runs")
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1
    assert "labelled by teacher 'bert'; the config names 'other/roberta'" in refused.stderr
    assert not run.exists()
    named = (*settings, "--cache", "tones")
    assert road.json("train", str(road.config), *named, roots="data cache runs")["steps"] == 1


def test_a_cache_of_another_normaliser_is_refused(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipeline.stages.train.sound_preparation", lambda *_: next((road.folder / "runs/prepared").iterdir())
    )
    monkeypatch.setattr(
        "pipeline.stages.train.normaliser_identity", lambda: {"name": "english", "version": 99}
    )
    settings = ("--set", "trainer.max_steps=1", "--run-dir", str(road.folder / "runs" / "other-normaliser"))
    refused = road.run("train", str(road.config), *settings, roots="data cache runs")
    assert refused.exit_code == 1
    assert "was built otherwise: normaliser" in refused.stderr


def test_the_student_is_trained_without_the_teacher_s_files(road: Road) -> None:
    hidden = shutil.move(road.folder / "bert", road.folder / "bert-away")
    try:
        trained = road.json(
            "train",
            str(road.config),
            "--run-dir",
            str(road.folder / "runs" / "alone"),
            roots="data cache runs",
        )
    finally:
        shutil.move(hidden, road.folder / "bert")
    assert trained["steps"] == 12


def test_a_recording_is_transcribed_as_evaluation_heard_it(road: Road) -> None:
    recording = sorted((road.folder / "data" / "tones" / "dev").rglob("*.flac"))[0]
    result = road.json("transcribe", "tones", str(recording), roots="runs")
    lines = (road.folder / "runs" / "tones" / "evaluation" / "dev.hyp.trn").read_text().splitlines()
    heard = {line.rsplit(" (", 1)[1][:-1]: line.rsplit(" (", 1)[0] for line in lines}
    assert result["transcripts"] == [{"audio": str(recording), "text": heard[recording.stem]}]


def test_a_model_is_exported_once_and_transcribes_as_its_run(road: Road) -> None:
    recording = sorted((road.folder / "data" / "tones" / "dev").rglob("*.flac"))[0]
    folder = str(road.folder / "exported")
    assert not road.json("export", "tones", folder, roots="runs")["is_reused"]
    assert road.json("export", "tones", folder, roots="runs")["is_reused"]
    result = [road.json("transcribe", run, str(recording), roots="runs") for run in ("tones", folder)]
    assert result[0] == result[1]


def test_an_average_is_evaluated_beside_the_run_s_own_figures(road: Road) -> None:
    own = road.folder / "runs" / "tones" / "evaluation" / "dev.json"
    before = own.read_bytes()
    scores = road.json("evaluate", "tones", "--average", "2", roots="data runs")["splits"]
    assert scores["dev"]["checkpoint"] == "average-last-2"
    assert own.read_bytes() == before and (own.parent / "average-last-2" / "dev.json").is_file()
    result = road.run("evaluate", "tones", "--average", "9", "--average-of", "best", roots="data runs")
    assert result.exit_code == 1 and "keep_best_checkpoints=9" in result.stderr


def test_a_dry_run_says_what_training_takes_and_writes_nothing(road: Road) -> None:
    before = sorted(path for path in road.folder.rglob("*") if "scratch" not in path.parts)
    run = str(road.folder / "runs" / "planned")
    result = road.json("train", str(road.config), "--dry-run", "--run-dir", run, roots="data cache runs")
    assert result["steps"] == 12 and result["parameters"] > result["inference_parameters"] > 0
    assert result["free_megabytes"] > result["disk_megabytes"] > 0
    assert sorted(path for path in road.folder.rglob("*") if "scratch" not in path.parts) == before
    result = road.run("train", str(road.config), "--dry-run", "--run-dir", run, roots="data cache runs")
    assert all(word in result.stdout for word in ("parameters", "memory", "steps", "time", "disk"))


def test_a_fine_tuned_run_keeps_in_its_record_what_it_began_from(road: Road) -> None:
    run = road.folder / "runs" / "tuned"
    initial = str(road.folder / "runs" / "tones")
    settings = ("--set", f"trainer.initial_checkpoint={initial}", "--set", "trainer.early_stop_evaluations=1")
    arguments = ("train", str(road.config), "--run-dir", str(run), *settings)
    trained = road.json(*arguments, roots="data cache runs")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["initial"]["checkpoint"] == f"{initial}/final.pt" and len(record["initial"]["sha256"]) == 64
    assert record["result"]["initial_checkpoint"] == initial
    assert record["result"]["stopped_early"] is trained["stopped_early"]
    result = road.json("runs", "diff", "tones", "tuned", roots="runs cache")
    assert result["settings"] == {
        "trainer.early_stop_evaluations": [0, 1],
        "trainer.initial_checkpoint": ["", initial],
    }
    listed = {run["run"]: run for run in road.json("runs", "ls", roots="runs cache")["runs"]}
    assert listed["tuned"]["state"] == "finished" and listed["tuned"]["cache_names"] == ["tones"]


def start_training(road: Road, run: Path, *settings: str) -> subprocess.Popen[str]:
    """A training in a process and a process group of its own."""
    roots = [part for name in ("data", "cache", "runs") for part in (f"--{name}-root", road.options[name])]
    chosen = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "pipeline", "train", str(road.config), "--run-dir", str(run)]
    return subprocess.Popen(
        [*command, *chosen, *roots], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not happened() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize("data_workers", [0, 1])
def test_a_queue_s_signal_to_the_whole_group_saves_and_ends_with_code_75(
    road: Road, data_workers: int
) -> None:
    run = road.folder / "runs" / f"queued-{data_workers}"
    process = start_training(road, run, "trainer.max_steps=100000", f"trainer.data_workers={data_workers}")
    try:
        wait_until(lambda: dev_wers(run), process)
        os.killpg(process.pid, signal.SIGUSR1)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75, said
    assert "SIGUSR1: saved at step" in said and "Traceback" not in said
    listed = {run["run"]: run for run in road.json("runs", "ls", roots="runs cache")["runs"]}
    assert listed[run.name]["state"] == "stopped" and listed[run.name]["step"] == saved_steps(run)[-1]


def test_a_killed_training_goes_on_as_if_it_had_not_been(road: Road) -> None:
    """kill -9 of the process, whatever it was at; dropout, speed and masks are on."""
    settings = ["trainer.max_steps=30", "trainer.checkpoint_every_steps=1", "trainer.evaluate_every_steps=4"]
    settings += ["conformer.dropout=0.1", "augmentation.time_masks=1", "augmentation.speed_factors=[0.9,1.1]"]
    killed, whole = (road.folder / "runs" / name for name in ("killed", "whole"))
    for steps in (3, 11):
        process = start_training(road, killed, *settings)
        wait_until(lambda least=steps: (saved_steps(killed) or [0])[-1] >= least, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not (killed / "final.pt").exists()
    chosen = [part for setting in settings for part in ("--set", setting)]
    for run in (killed, whole):
        road.json("train", str(road.config), "--run-dir", str(run), *chosen, roots="data cache runs")
    timed = {"audio_seconds_per_second", "data_wait_seconds"}
    figures = [
        [{name: value for name, value in entry.items() if name not in timed} for entry in metrics(run)]
        for run in (killed, whole)
    ]
    assert (
        figures[0] == figures[1] and len(figures[0]) == 30 + 7 + 1 + 2
    )  # train, dev, last dev, first and last gradients
    one, other = (load_checkpoint(run / "final.pt").model for run in (killed, whole))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert not list(killed.rglob("*.partial"))


def test_a_cache_is_listed_described_and_verified_and_a_flipped_byte_is_found(road: Road) -> None:
    (listed,) = road.json("cache", "ls", roots="cache")["caches"]
    assert listed["names"] == ["tones"]
    assert road.json("cache", "info", "tones", roots="cache")["fingerprint"] == listed["fingerprint"]
    assert road.json("cache", "verify", "tones", roots="cache")["faults"] == []
    broken = road.folder / "broken"
    shutil.copytree(road.folder / "cache", broken)
    victim = max(
        (broken / listed["fingerprint"]).rglob("c/*"), key=lambda path: path.is_file() and path.stat().st_size
    )
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(content)
    result = CliRunner().invoke(main, ["cache", "verify", "tones", "--cache-root", str(broken)])
    assert result.exit_code == 1
    assert result.output.strip()


def test_a_missing_cache_is_one_line_with_the_next_command(road: Road, tmp_path: Path) -> None:
    arguments = ["train", str(road.config), "--run-dir", str(tmp_path / "run"), "--cache-root", str(tmp_path)]
    result = CliRunner().invoke(
        main, [*arguments, "--data-root", road.options["data"], "--runs-root", road.options["runs"]]
    )
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert f"`bert2ctc cache build {shlex.quote(str(road.config))} --" in result.stderr
    assert not (tmp_path / "run").exists()


def test_wrong_usage_ends_with_code_2() -> None:
    assert CliRunner().invoke(main, ["train", "--no-such-option"]).exit_code == 2
