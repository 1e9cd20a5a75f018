"""The words that two runs disagree on: counted by hand, ranked, rare ones and homophones named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from evaluated_runs import evaluated_run, utterances_of

from pipeline.cli import main
from pipeline.comparison.words import read_homophones
from pipeline.errors import PipelineError

SAID = ["the sea was calm", "we see a ship", "the sea again", "a rare okapi", "see the sea"] * 4
FIRST = ["the see was calm", "we see a ship", "the sea again", "a rare", "see the see"] * 4
SECOND = ["the sea was calm", "we sea a ship", "the sea again", "a rare okapi", "see the see"] * 4


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    trained_on = ["the sea was calm we see a ship again rare"] * 9
    for name, heard, steps in (("first", FIRST, 10), ("second", SECOND, 20)):
        evaluated_run(
            tmp_path / name, utterances_of(SAID), heard, {"trainer": {"max_steps": steps}},
            trained_on=trained_on,
        )  # fmt: skip
    return tmp_path


def compared(runs: Path, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["compare", *arguments, "--runs-root", str(runs), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(runs: Path, *arguments: str) -> str:
    done = CliRunner().invoke(main, [*arguments, "--runs-root", str(runs)])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1, done.output
    return done.stderr


def test_words_are_ranked_by_how_often_one_run_alone_has_them_right(runs: Path) -> None:
    (found,) = compared(runs, "first", "second")["disagreements"]
    assert (found["ours"], found["minus"], found["disagreed"]) == ("second", "first", 3)
    ranked = [(word["word"], word["count"], word["better"], word["worse"]) for word in found["words"]]
    assert ranked == [("okapi", 4, 4, 0), ("sea", 12, 4, 0), ("see", 8, 0, 4)]
    okapi, sea = found["words"][:2]
    assert okapi["is_rare"] and okapi["training_count"] == 0 and okapi["heard"] == [{}, {"": 4}]
    assert not sea["is_rare"] and sea["training_count"] == 9 and sea["heard"] == [{"see": 4}, {"see": 8}]


def test_a_list_names_homophones_and_each_kind_of_word_has_its_rates(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "sound.txt").write_text("sea see\nwas wuz\n", encoding="utf-8")
    found = compared(runs, "first", "second", "--homophones", str(tmp_path / "sound.txt"))["disagreements"][0]
    assert {word["word"]: word["homophones"] for word in found["words"]} == {
        "okapi": [],
        "sea": ["see"],
        "see": ["sea"],
    }
    groups = {group["name"]: group for group in found["groups"]}
    assert groups["rare"]["words"] == 4 and groups["rare"]["ours"] == 0 and groups["rare"]["minus"] == 1
    assert groups["homophones"]["words"] == 24
    assert groups["others"]["ours"] == groups["others"]["minus"] == 0
    assert groups["rare"]["interval"] == [-1, -1]


def test_the_demo_s_homophones_come_from_its_grammar(tmp_path: Path) -> None:
    for name, heard, steps in (("first", FIRST, 10), ("second", SECOND, 20)):
        settings = {"trainer": {"max_steps": steps}, "demo_corpus": {"seed": 1}}
        evaluated_run(tmp_path / name, utterances_of(SAID), heard, settings)
    found = compared(tmp_path, "first", "second")
    words = {word["word"]: word for word in found["disagreements"][0]["words"]}
    assert words["sea"]["homophones"] == ["see"] and not found["knows_training_counts"]
    assert not words["okapi"]["is_rare"]


def test_a_list_of_single_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sound.txt").write_text("sea see\nlonely\n", encoding="utf-8")
    with pytest.raises(PipelineError, match="line 2 holds one word, 'lonely'"):
        read_homophones(tmp_path / "sound.txt")


def test_a_run_of_elsewhere_is_compared_from_its_json(runs: Path, tmp_path: Path) -> None:
    here = compared(runs, "first", "second")
    file = tmp_path / "packed.json"
    arguments = ["runs", "pack", "second", str(file), "--runs-root", str(runs)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    there = compared(runs, "first", str(file))
    assert there == here
    assert "exists" in refused(runs, *arguments[:4])


def test_decoders_of_one_run_are_compared_by_their_names(runs: Path) -> None:
    evaluated_run(runs / "first", utterances_of(SAID), SAID, {"trainer": {"max_steps": 10}}, decoder="words")
    found = compared(runs, "first", "first@words", "--top", "0")
    assert [rate["name"] for rate in found["rates"]] == ["first", "first@words"]
    assert found["rates"][1]["wer"] == 0 and found["differences"][0]["difference"] < 0
    assert "not evaluated with decoder 'beam'" in refused(runs, "compare", "first", "second@beam")


def test_a_person_sees_figures_words_and_notes(runs: Path) -> None:
    done = CliRunner().invoke(main, ["compare", "first", "second", "--runs-root", str(runs)])
    assert done.exit_code == 0, done.output
    for shown in ("second - first", "okapi", "rare: 0 in training", "5 speakers are few", "(nothing) 4"):
        assert shown in done.stdout
    assert "one seed each" in done.stdout and "--homophones FILE" in done.stdout


def test_bad_runs_and_files_get_one_line(runs: Path, tmp_path: Path) -> None:
    assert "no run is recorded there" in refused(runs, "compare", "first", "nowhere")
    assert "named twice" in refused(runs, "compare", "first", "first")
    (tmp_path / "broken.json").write_text('{"name": 3}', encoding="utf-8")
    assert "runs pack" in refused(runs, "compare", "first", str(tmp_path / "broken.json"))
    (runs / "second" / "evaluation" / "test.utterances.jsonl").write_text("{}\n", encoding="utf-8")
    assert "lacks 'id'" in refused(runs, "compare", "first", "second")
