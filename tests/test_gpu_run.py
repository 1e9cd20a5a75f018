"""The long run on a lent GPU, as far as a CPU can tell: it cannot be tried twice."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from pipeline.config import load_config
from student.data.dataset import read_audio

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A work folder of its own for modules that learn of theirs when they are imported."""
    monkeypatch.setenv("WORK", str(tmp_path / "work"))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    names = [path.stem for path in BENCHMARKS.glob("on_a_gpu*.py")]
    yield tmp_path / "work"
    for name in names:
        sys.modules.pop(name, None)


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_every_student_of_the_run_has_a_config_and_branches_share_the_bases_encoder() -> None:
    students = tomllib.loads((BENCHMARKS / "on_a_gpu_students.toml").read_text(encoding="utf-8"))["students"]
    configs = {
        name: load_config(
            str(BENCHMARKS / "on_a_gpu.toml"), [f"{key}={json.dumps(value)}" for key, value in own.items()]
        )
        for name, own in students.items()
    }
    assert list(configs)[0] == "base" and not configs["base"].student.objective.uses_branch
    assert len({config.student.conformer for config in configs.values()}) == 1
    assert len({config.student.features for config in configs.values()}) == 1


def test_a_part_that_fails_or_never_ends_stops_no_other(work: Path) -> None:
    parts = module("on_a_gpu_parts")
    ended: list[str] = []
    done = parts.run_side_by_side(
        {
            "good": [sys.executable, "-c", "print('{\"rows\": 3}')"],
            "bad": [sys.executable, "-c", "raise SystemExit(7)"],
            "endless": [sys.executable, "-c", "import time; time.sleep(60)"],
        },
        limit=2.0,
        ended=ended.append,
    )
    assert {name: part.code for name, part in done.items()} == {"good": 0, "bad": 7, "endless": 124}
    assert sorted(ended) == ["bad", "endless", "good"]
    assert parts.json_of("good") == {"rows": 3} and parts.json_of("bad") == {}
    (work.parent / "out").mkdir()
    parts.summarise()
    assert "endless" in (work.parent / "out" / "logs.txt").read_text()
    (work / "logs" / "bad.log").unlink()
    parts.summarise()
    assert parts.json_of("bad") == {} and "endless" in (work.parent / "out" / "logs.txt").read_text()


def test_what_begins_in_the_background_counts_as_begun_at_once(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`students` right after `teacher` waits for it, though its process may not have written a word."""
    program, students = module("on_a_gpu"), module("on_a_gpu_students")
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **options: None)
    assert not students._was_begun("teacher")
    monkeypatch.setattr(sys, "argv", ["on_a_gpu.py", "teacher"])
    program.main()
    assert students._was_begun("teacher") and not students._was_begun("compiled_steps")


def test_speech_that_is_received_is_heard_as_it_was_sent(work: Path, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.4, 16_000).astype(np.float32).clip(-1, 1)
    sent = io.BytesIO()
    soundfile.write(sent, samples, 16_000, format="OGG", subtype="OPUS")
    (tmp_path / "a.opus").write_bytes(sent.getvalue())
    assert module("on_a_gpu_unpacking")._store(("speech/a.opus", sent.getvalue())) == pytest.approx(1.0)
    received = read_audio(work / "data/speech/a.wav", 16_000)
    np.testing.assert_array_equal(received, read_audio(tmp_path / "a.opus", 16_000))


def test_a_meeting_hears_everybody_but_those_who_left(work: Path) -> None:
    meeting = module("on_a_gpu_student").Meeting
    work.mkdir()
    (work / "third.gone").touch()
    heard: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda n=n: heard.append(sorted(meeting(work, f"s{n}", 3).all_say("ms", n))))
        for n in (1.0, 2.0)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [[1.0, 2.0]] * 2


@pytest.mark.parametrize(("is_brought", "seconds"), [(True, 1.0), (True, 0.0), (False, 1.0)])
def test_branches_go_on_from_the_base_and_it_from_an_encoder_that_was_brought_along(
    work: Path, monkeypatch: pytest.MonkeyPatch, is_brought: bool, seconds: float
) -> None:
    script, started = module("on_a_gpu_students"), dict[str, list[str]]()
    monkeypatch.setattr(script, "run_side_by_side", lambda commands, *_: started.update(commands))
    if is_brought:
        (work / "encoder").mkdir(parents=True)
    script.OUT.mkdir()
    options = {"base_seconds": seconds, "branch_seconds": 1.0, "timed_seconds": 0.1, "most_steps": 3}
    script.students(argparse.Namespace(**options, patience=0.0, overrides=[]))
    assert ("base" in started) is bool(seconds) and "windowed_kd" in started
    brought = f"trainer.initial_checkpoint={work / 'encoder'}"
    assert (brought in started.get("base", [])) is (is_brought and bool(seconds))
    assert (
        f"trainer.initial_checkpoint={work / ('runs/base' if seconds else 'encoder')}"
        in started["windowed_kd"]
    )


def test_students_hear_through_an_ear_that_was_brought_along_and_are_measured_so(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, started = module("on_a_gpu_students"), dict[str, list[str]]()
    monkeypatch.setattr(script, "run_side_by_side", lambda commands, *_: started.update(commands))
    monkeypatch.setattr(script, "run_part", lambda name, command, limit: started.update({name: command}))
    script.EAR.mkdir(parents=True)
    (script.RUNS / "ctc").mkdir(parents=True)
    script.OUT.mkdir()
    options = {"base_seconds": 1.0, "branch_seconds": 1.0, "timed_seconds": 0.1, "most_steps": 3}
    script.listen(1.0)
    listening = started["listen"]
    script.HEARD.mkdir()
    (script.HEARD / "index.json").write_text("{}")
    started.clear()
    script.listen(1.0)
    assert not started  # a second call of the loan does not listen again
    script.students(argparse.Namespace(**options, patience=0.0, overrides=[]))
    assert listening[listening.index("--store") + 1] == str(script.HEARD)
    for name in ("base", "ctc", "windowed_kd"):
        assert started[name][-2:] == ["--ear", str(script.HEARD)]
        assert "features.mel_bins=256" in started[name]
    program = [sys.executable, str(BENCHMARKS / "pretrained_ear.py"), "student", "--store", str(script.HEARD)]
    assert started["evaluate_ctc"][:5] == program
    config = load_config(str(BENCHMARKS / "on_a_gpu.toml"), list(script.EAR_SETTINGS))
    assert config.student.augmentation.speed_factors == (1.0,) and config.student.conformer.num_layers == 4


def test_every_command_of_the_script_is_one_of_the_program(work: Path) -> None:
    shown = re.findall(r"on_a_gpu\.sh (\w+)", (BENCHMARKS / "on_a_gpu.sh").read_text(encoding="utf-8"))
    program = [sys.executable, str(BENCHMARKS / "on_a_gpu.py")]
    for command in shown:
        done = subprocess.run([*program, command, "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and f"on_a_gpu.py {command}" in done.stdout, command
    assert len(shown) == 8
