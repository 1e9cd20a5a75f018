"""An experiment with language models: made once, tuned, resumed; twice the same; runs from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_experiments_run import Place, run_here

from pipeline.errors import PipelineError
from pipeline.processes import REUSED

pytestmark = pytest.mark.slow

LADDER = """
config = "tones.toml"
evaluate = ["dev"]
decoders = ["greedy", "words", "beam_lm"]
[settings]
"trainer.max_steps" = 6
[tuning]
utterances = 3
beam = { beam_lm = 2, words = 4 }
[students.kd]
[students.plain]
decoders = ["greedy"]
"trainer.learning_rate" = 1e-3
"""
NETWORK = """
[language_model]
num_layers = 1
hidden_dim = 16
num_heads = 2
max_steps = 3
"""


class Recorder:
    """`run_command` in this process: results are kept, and the last command may be made to fail."""

    def __init__(self) -> None:
        self.results: list[tuple[str, Mapping[str, Any]]] = []
        self.fails = False

    def __call__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
        if self.fails and arguments[0] == "evaluate" and "beam_lm" in arguments:
            raise PipelineError("killed here")
        result = run_here(*arguments)
        self.results.append((arguments[0], result))
        return result

    def reused(self, stage: str) -> list[bool]:
        return [bool(result["is_reused"]) for name, result in self.results if name == stage]


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Iterator[Place]:
    """The ladder `decoded`, killed between tuning and evaluation, and run again."""
    place = Place(tmp_path_factory.mktemp("decoded"))
    for name in ("decoded", "later"):
        (place.folder / f"{name}.toml").write_text(LADDER, encoding="utf-8")
    with (place.folder / "tones.toml").open("a", encoding="utf-8") as config:
        config.write(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.experiments.run.run_command", recorder)
        for recorder.fails in (True, False):
            done = place.run("decoded")
        assert done.exit_code == 0, done.output
        yield place


def kept(place: Place) -> dict[Path, bytes]:
    """All that was made but the table, which is written anew: there is the time in it."""
    tops = [place.runs / "decoded", place.runs / "language_models"]
    found = (path for top in tops for path in top.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.read_bytes() for path in found if path.parent != place.runs / "decoded"}


def test_every_decoder_has_a_row_and_tables_show_it(place: Place) -> None:
    results = place.results("decoded")
    rows = [(row["name"], row["student"], row["decoder"], row["run"]) for row in results["rows"]]
    assert rows == [
        ("kd", "kd", "greedy", "kd"),
        ("kd + words", "kd", "words", "kd"),
        ("kd + beam_lm", "kd", "beam_lm", "kd"),
        ("plain", "plain", "greedy", "plain"),
    ]
    for row in results["rows"]:
        low, high = row["intervals"]["wer"]
        assert low <= row["wer"] <= high and row["decoder_seconds"] > 0
        assert row["encoder_seconds"] == results["rows"][0]["encoder_seconds"] or row["student"] == "plain"
    written = json.loads((place.runs / "decoded" / "kd" / "evaluation" / "words" / "dev.json").read_text())
    assert written["wer"] == results["rows"][1]["wer"]
    differences = {(one["student"], one["minus"]) for one in results["differences"]}
    assert {("plain", "kd"), ("plain", "kd + words"), ("kd + beam_lm", "kd")} <= differences
    markdown = (place.runs / "decoded" / "results.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in markdown if line.startswith("| kd + words |")]
    assert [line for line in markdown if line.startswith("| plain - kd + words |")]
    assert {"decode_kd", "train_plain"} <= results["seconds"].keys()
    assert sum(name.startswith("language_model_") for name in results["seconds"]) == 2


def test_what_was_tuned_before_the_kill_was_not_tuned_again(place: Place, recorder: Recorder) -> None:
    assert recorder.reused("lm") == [False, False, True, True]
    assert recorder.reused("tune") == [False, True]
    assert recorder.reused("evaluate") == [False, True, False]
    tuning = json.loads((place.runs / "decoded" / "kd" / "tuning" / "beam_lm.json").read_text())
    assert tuning["settings"]["beam"] == 2 and tuning["utterances"] == 3


def test_run_twice_it_does_nothing_and_finds_the_same(place: Place, recorder: Recorder) -> None:
    before, results = kept(place), place.results("decoded")
    recorder.results.clear()
    assert place.run("decoded").exit_code == 0
    for stage, count in (("lm", 2), ("tune", 1), ("evaluate", 2)):
        assert recorder.reused(stage) == [True] * count
    assert kept(place) == before
    again = place.results("decoded")
    for part in ("rows", "differences", "seconds"):
        assert again[part] == results[part], part


def test_side_by_side_it_finds_the_same(place: Place) -> None:
    before, results = kept(place), place.results("decoded")
    done = place.run("decoded", "--jobs", "2")
    assert done.exit_code == 0, done.output
    assert kept(place) == before
    for part in ("rows", "differences", "seconds"):
        assert place.results("decoded")[part] == results[part], part
    told = [line for line in done.stderr.splitlines() if line.endswith(REUSED)]
    assert sum(line.startswith("language model ") for line in told) == 2
    assert sum(line.startswith("kd decoded: ") for line in told) == 2


def test_another_language_model_is_tuned_and_decoded_anew(place: Place, recorder: Recorder) -> None:
    tuning = place.runs / "decoded" / "kd" / "tuning" / "words.json"
    before = json.loads(tuning.read_text(encoding="utf-8"))
    recorder.results.clear()
    other = ("--set", "language_model.word_order=2")
    done = place.run("decoded", *other)
    assert done.exit_code == 0, done.output
    after = json.loads(tuning.read_text(encoding="utf-8"))
    assert after["language_model_digest"] != before["language_model_digest"]
    assert recorder.reused("tune") == [False] and recorder.reused("evaluate") == [True, False]


def test_a_packed_run_of_another_seed_joins_its_student_and_other_names_stand_alone(
    place: Place, tmp_path: Path
) -> None:
    for name, seed in (("decoded", 1), ("later", 2)):
        assert place.run(name, "--set", f"trainer.seed={seed}").exit_code == 0
    packed = tmp_path / "packed"
    packed.mkdir()
    for run in ("kd", "plain"):
        path = packed / f"{run}.json"
        run_here("runs", "pack", str(place.runs / "later" / run), str(path), "--runs-root", str(place.runs))
    text = json.loads((packed / "plain.json").read_text(encoding="utf-8"))
    text["config"]["trainer"]["learning_rate"] = 5e-4
    (packed / "plain.json").write_text(json.dumps(text), encoding="utf-8")
    done = place.run("decoded", "--set", "trainer.seed=1", "--with", str(packed))
    assert done.exit_code == 0, done.output
    rows = place.results("decoded")["rows"]
    names = [(row["name"], row["seed"]) for row in rows[4:]]
    assert sorted(names) == [
        ("kd", 2), ("kd + beam_lm", 2), ("kd + words", 2), ("later/plain", 2),
    ]  # fmt: skip
    there = {row["name"]: row for row in place.results("later")["rows"]}
    for row in rows[4:7]:
        assert row["wer"] == there[row["name"]]["wer"] and row["steps"] == 6
        assert row["intervals"] == there[row["name"]]["intervals"]
    assert "later/plain" in done.output
    differences = place.results("decoded")["differences"]
    assert [one["seeds"] for one in differences if one["minus"] == "kd" and one["student"] == "plain"] == [
        [1, 2]
    ]
    assert any((one["student"], one["minus"]) == ("later/plain", "kd") for one in differences)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config": {"trainer": {"seed": 1}}}, "kd is kd with seed 1, which the table has already"),
        ({"config": {"data": {"corpus": "other"}}}, "of corpus 'other', the ladder of tones"),
        ({"config": {"trainer": {"seed": 5}}, "evaluations": {}}, "was not evaluated on dev"),
    ],
)
def test_a_packed_run_that_does_not_belong_is_refused_in_one_line(
    place: Place, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    path = tmp_path / "kd.json"
    run_here("runs", "pack", str(place.runs / "decoded" / "kd"), str(path), "--runs-root", str(place.runs))
    text = json.loads(path.read_text(encoding="utf-8"))
    for name, part in change.items():
        for table, values in part.items():
            text[name][table] |= values
        text[name] = text[name] if part else part
    path.write_text(json.dumps(text), encoding="utf-8")
    refused = place.run("decoded", "--with", str(tmp_path))
    assert refused.exit_code == 1 and told in refused.stderr.splitlines()[-1]


def test_a_folder_without_runs_is_refused_before_any_work(place: Place, tmp_path: Path) -> None:
    refused = place.run("decoded", "--with", str(tmp_path))
    assert refused.exit_code == 1 and "no folder of JSON files" in refused.stderr
    assert refused.stderr.count("\n") == 1
