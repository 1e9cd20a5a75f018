"""A whole experiment, tiny and real: two seeds on two corpora, killed once; and one student alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fakes import WORDS, sentences, tiny_bert, write_corpus
from test_whole_road import CONFIG

from pipeline.cli import main
from student.training.run_folder import metrics, saved_steps
from teacher_cache.store import list_caches

pytestmark = pytest.mark.slow

LADDER = """
config = "tones.toml"
evaluate = ["dev"]
seeds = [1, 2]
[corpora.main]
[corpora.other]
"data.corpus" = "other"
[students.kd]
"trainer.checkpoint_every_steps" = 1
"""
ALONE = """
config = "tones.toml"
[students.kd]
"trainer.checkpoint_every_steps" = 1
"""


class Place:
    """A folder with two corpora, a config and two ladders."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        for corpus, seed in (("tones", 1), ("other", 2)):
            spoken = [text for text in sentences(60, seed=seed, words=WORDS, max_words=5) if " " in text]
            write_corpus(folder / "data" / corpus, spoken[:30], folder="train")
            write_corpus(folder / "data" / corpus, spoken[30:36], folder="dev", first_speaker=900)
        config = CONFIG.format(teacher=tiny_bert(folder / "bert")) + "threads = 1\n"
        for name, text in (("tones", config), ("many", LADDER), ("alone", ALONE)):
            (folder / f"{name}.toml").write_text(text, encoding="utf-8")

    def arguments(self, ladder: str, *more: str) -> list[str]:
        roots = [
            part
            for name in ("data", "cache", "runs", "scratch")
            for part in (f"--{name}-root", str(self.folder / name))
        ]
        return ["experiment", str(self.folder / f"{ladder}.toml"), *more, *roots]

    def run(self, ladder: str, *more: str) -> Result:
        return CliRunner().invoke(main, self.arguments(ladder, *more))

    def results(self, ladder: str) -> dict[str, Any]:
        return dict(json.loads((self.runs / ladder / "results.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The ladder `many`, killed while it trains, then gone on with to its end, two students at a time."""
    place = Place(tmp_path_factory.mktemp("experiment"))
    command = [sys.executable, "-m", "pipeline.cli", *place.arguments("many", "--jobs", "2")]
    with (place.folder / "said").open("w") as said:
        process = subprocess.Popen(command, stderr=said, start_new_session=True)
    deadline = time.monotonic() + 120
    first = place.runs / "many" / "kd-seed-1-main"
    while not saved_steps(first) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, (place.folder / "said").read_text(encoding="utf-8")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert saved_steps(first) and not (place.runs / "many" / "results.json").exists()
    done = place.run("many", "--jobs", "2")
    assert done.exit_code == 0, done.output
    place.output = done.output  # type: ignore[attr-defined]
    return place


def test_every_student_has_its_run_and_its_line(place: Place) -> None:
    rows = place.results("many")["rows"]
    runs = [f"kd-seed-{seed}-{corpus}" for corpus in ("main", "other") for seed in (1, 2)]
    assert [row["run"] for row in rows] == runs
    assert [(row["name"], row["seed"], row["corpus"]) for row in rows] == [
        ("kd", seed, corpus) for corpus in ("main", "other") for seed in (1, 2)
    ]
    assert len({row["splits"]["dev"]["tap_wer"]["1"] for row in rows} | {row["cer"] for row in rows}) > 1
    output = place.output  # type: ignore[attr-defined]
    assert all(f"{run}: $ bert2ctc train" in output for run in runs)
    assert "going on from step" in output, "the killed training began anew"


def test_each_corpus_has_a_cache_with_a_name_and_its_students_use_it(place: Place) -> None:
    caches = {entry.names: entry.fingerprint for entry in list_caches(place.folder / "cache")}
    assert set(caches) == {("tones",), ("tones-other",)}
    for row in place.results("many")["rows"]:
        record = json.loads((place.runs / "many" / row["run"] / "run.json").read_text(encoding="utf-8"))
        name = "tones" if row["corpus"] == "main" else "tones-other"
        assert record["cache"] == caches[(name,)]
    seconds = place.results("many")["seconds"]
    assert {"cache_main", "cache_other", "train_kd-seed-2-other"} <= set(seconds)


def test_the_figures_are_those_of_one_student_at_a_time_that_nobody_killed(place: Place) -> None:
    done = place.run("alone")
    assert done.exit_code == 0, done.output
    (alone,) = place.results("alone")["rows"]
    assert alone["run"] == "kd" and (place.runs / "alone" / "kd" / "final.pt").is_file()
    (same,) = (row for row in place.results("many")["rows"] if row["run"] == "kd-seed-1-main")
    apart = {"run", "seconds", "corpus"}
    assert {key: alone[key] for key in alone.keys() - apart} == {
        key: same[key] for key in same.keys() - apart
    }
    runs = [place.runs / run for run in ("alone/kd", "many/kd-seed-1-main")]
    losses = [[entry.get("loss") for entry in metrics(run)] for run in runs]
    assert losses[0] == losses[1] and len(losses[0]) > 12


def test_what_cannot_be_is_refused_before_any_work(place: Place) -> None:
    before = sorted(place.folder.rglob("*"))
    for more, told in (
        (("--jobs", "0"), "--jobs 0: at least 1"),
        (("--jobs", "2", "--set", "trainer.threads=2"), "one thread each"),
        (("--set", "trainer.seed=2"), "trainer.seed comes from seeds"),
        (("--set", "conformer.taps=[9]"), "taps"),
    ):
        result = place.run("many", *more)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1
        assert told in result.stderr
    assert sorted(place.folder.rglob("*")) == before
