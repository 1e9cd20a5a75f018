"""A whole experiment, tiny and real: two seeds on two corpora; and two students at once, stopped once."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
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

PAIR = """
config = "tones.toml"
evaluate = ["dev"]
seeds = [1, 2]
[students.kd]
"trainer.checkpoint_every_steps" = 1
"""
MANY = f"""{PAIR}
[corpora.main]
[corpora.other]
"data.corpus" = "other"
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
        for name, text in (("tones", config), ("many", MANY), ("pair", PAIR)):
            (folder / f"{name}.toml").write_text(text, encoding="utf-8")

    def run(self, ladder: str, *more: str) -> Result:
        names = ("data", "cache", "runs", "scratch")
        roots = [part for name in names for part in (f"--{name}-root", str(self.folder / name))]
        return CliRunner().invoke(main, ["experiment", str(self.folder / f"{ladder}.toml"), *more, *roots])

    def results(self, ladder: str) -> dict[str, Any]:
        return dict(json.loads((self.runs / ladder / "results.json").read_text(encoding="utf-8")))


def run_here(*arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`run_command` in this process: to start Python and PyTorch is most of what a tiny stage costs."""
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The ladder `many`, one student at a time."""
    place = Place(tmp_path_factory.mktemp("experiment"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.experiments.run.run_command", run_here)
        done = place.run("many")
        assert done.exit_code == 0, done.output
        yield place


def test_every_training_has_a_run_and_a_row(place: Place) -> None:
    rows = place.results("many")["rows"]
    expected = [("kd", seed, corpus) for corpus in ("main", "other") for seed in (1, 2)]
    assert [(row["name"], row["seed"], row["corpus"]) for row in rows] == expected
    assert [row["run"] for row in rows] == [f"kd-seed-{seed}-{corpus}" for _, seed, corpus in expected]
    losses = {tuple(entry.get("loss") for entry in metrics(place.runs / "many" / row["run"])) for row in rows}
    assert len(losses) == 4
    for row in rows:
        low, high = row["intervals"]["wer"]
        assert low <= row["wer"] <= high


def test_each_corpus_has_a_cache_with_a_name_and_its_students_use_it(place: Place) -> None:
    caches = {entry.names: entry.fingerprint for entry in list_caches(place.folder / "cache")}
    assert set(caches) == {("tones",), ("tones-other",)}
    for row in place.results("many")["rows"]:
        record = json.loads((place.runs / "many" / row["run"] / "run.json").read_text(encoding="utf-8"))
        assert record["cache"] == caches[("tones",) if row["corpus"] == "main" else ("tones-other",)]
    assert {"cache_main", "cache_other", "train_kd-seed-2-other"} <= set(place.results("many")["seconds"])


def stop_once_saved(run: Path, seconds: float = 200) -> None:
    """Signal this process as a queue would, once the run has a checkpoint."""
    deadline = time.monotonic() + seconds
    while not saved_steps(run) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def untimed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without what differs from run to run: names, seconds, and each split's speed."""
    kept = {key: value for key, value in row.items() if key not in ("run", "corpus") and "seconds" not in key}
    without_speed = {
        split: {key: value for key, value in scores.items() if key != "speed"}
        for split, scores in row["splits"].items()
    }
    return kept | {"splits": without_speed}


def test_two_at_once_that_were_stopped_and_went_on_give_the_same_rows(place: Place) -> None:
    first = place.runs / "pair" / "kd-seed-1"
    queue = threading.Thread(target=stop_once_saved, args=(first,), daemon=True)
    queue.start()
    stopped = place.run("pair", "--jobs", "2")
    queue.join()
    assert stopped.exit_code == 75, stopped.output
    assert "SIGTERM: kd-seed-1, kd-seed-2 stopped" in stopped.stderr.splitlines()[-1]
    assert not (place.runs / "pair" / "results.json").exists()
    done = place.run("pair", "--jobs", "2")
    assert done.exit_code == 0, done.output
    assert "kd-seed-1: going on from step" in done.stderr or "kd-seed-1: done before" in done.stderr
    one_by_one = [row for row in place.results("many")["rows"] if row["corpus"] == "main"]
    for row, same in zip(place.results("pair")["rows"], one_by_one, strict=True):
        assert untimed(row) == untimed(same)
        runs = [place.runs / "pair" / row["run"], place.runs / "many" / same["run"]]
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
