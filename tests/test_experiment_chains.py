"""The commands of an experiment: what each is told, and which wait for which."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.experiment_chains import (
    labels_chain,
    labels_name,
    speech_commands,
    speech_stages,
    student_chain,
    trains_beside_students,
    waits_for,
)
from pipeline.jobs.pool import Later, known
from pipeline.ladder import Ladder, Training, load_ladder, trainings_of
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
