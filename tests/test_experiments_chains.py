"""The commands of an experiment: what each is told, and which wait for which."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.experiments.chains import (
    decoding_chain,
    decoding_waits_for,
    labels_chain,
    labels_name,
    language_model_chains,
    speech_commands,
    speech_stages,
    student_chain,
    trains_beside_students,
    waits_for,
)
from pipeline.experiments.ladder import Ladder, Training, load_ladder, trainings_of
from pipeline.jobs.pool import Later, known
from pipeline.paths import Roots


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots(**{name: tmp_path / name for name in ("data", "cache", "runs", "scratch")})


@pytest.fixture
def ladder() -> Ladder:
    return load_ladder("demo-seeds")


def training(ladder: Ladder, run: str) -> Training:
    return next(one for one in trainings_of(ladder, ()) if one.run == run)


def test_a_branch_waits_for_its_own_base_and_for_labels_where_it_has_a_decoder(ladder: Ladder) -> None:
    labels = "teacher and cache other_cues"
    assert waits_for(training(ladder, "base-seed-2-other_cues")) == []
    assert waits_for(training(ladder, "ctc-seed-2-other_cues")) == ["base-seed-2-other_cues"]
    assert waits_for(training(ladder, "interaed_hard-seed-2-other_cues")) == [
        labels,
        "base-seed-2-other_cues",
    ]
    names = {labels_name(one.corpus) for one in trainings_of(ladder, ())}
    assert names == {"teacher and cache main", labels}


def test_a_branch_begins_with_its_base_and_gets_the_cache_that_was_built(
    ladder: Ladder, roots: Roots
) -> None:
    kd = training(ladder, "interaed_kd-seed-3-main")
    train, evaluate = student_chain(kd, ladder, roots, ("data.corpus='mine'",))
    assert Later(labels_name(kd.corpus), "fingerprint") in train
    arguments = known(train, {labels_name(kd.corpus): [{}, {"fingerprint": "0123abcd"}]})
    assert arguments[arguments.index("--cache") + 1] == "0123abcd"
    base = roots.runs / "demo-seeds" / "base-seed-3-main"
    assert f'trainer.initial_checkpoint="{base}"' in arguments
    assert "data.corpus='mine'" in arguments and arguments[:2] == ["train", "demo"]
    assert str(roots.runs / "demo-seeds" / kd.run) == evaluate[1]
    alone, _ = student_chain(training(ladder, "ctc-seed-3-main"), ladder, roots, ())
    assert "--cache" not in alone


def test_stages_and_their_commands_go_together(ladder: Ladder, roots: Roots) -> None:
    corpus = training(ladder, "ctc-seed-1-other_cues").corpus
    commands = [*speech_commands(ladder, corpus, roots, ()), *labels_chain(ladder, corpus, roots, ())]
    assert [command[:2] for command in commands] == [
        ("data", "demo"), ("data", "prepare"), ("teacher", "train"), ("cache", "build"),
    ]  # fmt: skip
    assert speech_stages(corpus) == ("corpus", "prepare")
    assert commands[-1][3:5] == ("--name", "demo-other_cues")
    assert all('data.corpus="demo-other-cues"' in command for command in commands)


def test_a_teacher_takes_one_place_only_beside_students_without_labels() -> None:
    for name, is_beside in {"demo": True, "demo-family": True}.items():
        trainings = trainings_of(load_ladder(name), ())
        assert trains_beside_students(trainings[0].corpus, trainings) == is_beside
    seeds = trainings_of(load_ladder("demo-seeds"), ())
    labelled = [one for one in seeds if waits_for(one) and "teacher" in waits_for(one)[0]]
    assert labelled and not trains_beside_students(labelled[0].corpus, labelled)


DECODED = """
config = "demo"
decoders = ["greedy", "words"]
[tuning]
utterances = 40
beam = { beam_lm = 4 }
[corpora.main]
[corpora.other]
"data.corpus" = "other"
[students.ctc]
"objective.distillation_weight" = 0.0
[students.own_text]
"language_model.transcripts" = false
[students.kd]
decoders = ["greedy", "beam_lm", "words"]
[students.plain]
decoders = ["beam"]
"""


def test_language_models_are_made_once_and_waited_for_by_decoding_alone(tmp_path: Path, roots: Roots) -> None:
    path = tmp_path / "decoded.toml"
    path.write_text(DECODED, encoding="utf-8")
    ladder = load_ladder(str(path))
    trainings = trainings_of(ladder, ())
    made = language_model_chains(trainings, ladder, roots, ("trainer.max_steps=3",))
    assert len(made) == 6, "of both corpora: words of all text, of the text alone, and a network"
    assert all(len(chain) == 1 and "trainer.max_steps=3" in chain[0] for chain in made.values())
    kinds = [chain[0][:2] for chain in made.values()]
    assert kinds.count(("lm", "train")) == 2 and kinds.count(("lm", "ngram")) == 4
    kd = next(one for one in trainings if one.run == "kd-other")
    assert len(student_chain(kd, ladder, roots, ())) == 1 and all("model" not in x for x in waits_for(kd))
    run, *models = decoding_waits_for(kd, ladder, roots)
    assert run == kd.run and len(models) == 2 and set(models) <= made.keys()
    assert all('data.corpus="other"' in made[name][0] for name in models)
    tune, evaluate = decoding_chain(kd, ladder, roots)
    folders = {name: [{"folder": f"models/{place}"}] for place, name in enumerate(models)}
    arguments = known(tune, folders)
    assert arguments[:2] == ["tune", str(roots.runs / "decoded" / "kd-other")]
    for option, value in (("--utterances", "40"), ("--beam", "beam_lm=4")):
        assert arguments[arguments.index(option) + 1] == value
    assert {arguments[arguments.index(one) + 1] for one in ("--words", "--beam-lm")} == {
        "models/0",
        "models/1",
    }
    assert [word for flag, word in pairwise(evaluate) if flag == "--decoder"] == [
        "greedy",
        "beam_lm",
        "words",
    ]
    assert "--reuse" in tune and "--reuse" in evaluate
    plain = next(one for one in trainings if one.run == "plain-main")
    _, evaluate = student_chain(plain, ladder, roots, ())
    assert [word for flag, word in pairwise(evaluate) if flag == "--decoder"] == ["beam"]
