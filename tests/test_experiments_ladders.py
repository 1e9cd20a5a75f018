"""Shipped ladders: every student is a config that can be trained, and no two of a ladder are the same."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import CONFIG_FOLDER, ExperimentConfig
from pipeline.errors import PipelineError
from pipeline.experiments.ladder import load_ladder, trainings_of
from pipeline.toml_value import toml_value
from student.loss.objective import objective_weights

LADDERS = sorted(path.stem for path in (CONFIG_FOLDER / "ladders").glob("*.toml"))


def students_of(ladder_name: str) -> dict[str, ExperimentConfig]:
    """The first training of each student."""
    trainings = trainings_of(load_ladder(ladder_name), ())
    return {training.student: training.config for training in reversed(trainings)}


@pytest.mark.parametrize("ladder", LADDERS)
def test_no_two_students_of_a_ladder_are_the_same(ladder: str) -> None:
    students, compared = students_of(ladder), load_ladder(ladder).compared
    assert len({repr(config.student) for config in students.values()}) == len(students) > 1
    assert len({students[name].student.trainer.max_steps for name in compared}) == 1


def test_the_family_has_the_terms_of_its_names() -> None:
    terms = {name: set(objective_weights(c.student)) for name, c in students_of("demo-family").items()}
    ctc = {"ctc", "ctc_tap2", "ctc_tap3"}
    hard, soft, aligned = (
        {f"{kind}_{layer}" for layer in ("final", "tap2", "tap3")} for kind in ("ce", "kd", "ctc_pieces")
    )
    assert terms == {
        "ctc": {"ctc"},
        "interctc": ctc,
        "self_conditioned": ctc,
        "aed_hard": ctc | {"ce_final"},
        "interaed_hard": ctc | hard,
        "aed_kd": ctc | {"kd_final"},
        "interaed_kd": ctc | soft,
        "teacher_forced_kd": ctc | hard | soft,
        "alignment_kd": ctc | {"ctc_pieces_final", "kd_final"},
        "inter_alignment_kd": ctc | aligned | soft,
    }


def test_a_ladder_without_seeds_and_corpora_names_runs_as_its_students() -> None:
    trainings = trainings_of(load_ladder("demo"), ())
    assert [training.run for training in trainings] == ["base", "ctc", "interaed_hard", "interaed_kd"]
    assert [training.begins_with for training in trainings] == ["", "base", "base", "base"]
    assert {(training.seed, training.corpus.name) for training in trainings} == {(1, "")}
    assert {training.corpus.cache_name for training in trainings} == {"demo"}
    assert [training.seed for training in trainings_of(load_ladder("demo"), ["trainer.seed=2"])] == [2] * 4


def test_seeds_and_corpora_multiply_students_and_every_run_is_its_own() -> None:
    trainings = trainings_of(load_ladder("demo-seeds"), ())
    assert len({training.run for training in trainings}) == len(trainings) == 6 * 3 * 2
    assert {training.seed for training in trainings} == {1, 2, 3}
    (other,) = (one for one in trainings if one.run == "interaed_kd-seed-2-other_cues")
    assert other.config.student.trainer.seed == 2 and other.config.demo_corpus is not None
    assert (other.config.demo_corpus.seed, other.config.data.corpus) == (2, "demo-other-cues")
    assert other.config.teacher_training is not None
    assert other.config.teacher_training.text == ("demo-other-cues/teacher.txt",)
    assert {one.corpus.cache_name for one in trainings} == {"demo", "demo-other_cues"}
    by_seed = [one.config.student for one in trainings if one.run.startswith("ctc") and one.seed == 3]
    assert len(by_seed) == 2 and by_seed[0] == by_seed[1], "a corpus changed the student"


def test_a_student_begins_with_the_base_of_its_own_seed_and_corpus(tmp_path: Path) -> None:
    path = tmp_path / "branches.toml"
    path.write_text(BRANCHES, encoding="utf-8")
    ladder = load_ladder(str(path))
    assert ladder.compared == ("more", "kd")
    begins = {one.run: one.begins_with for one in trainings_of(ladder, ())}
    steps = {one.student: one.config.student.trainer.max_steps for one in trainings_of(ladder, ())}
    assert steps == {"base": 600, "more": 900, "kd": 900}, "settings are for all, a student's own come last"
    assert begins == {
        "base-seed-1": "", "base-seed-2": "", "more-seed-1": "base-seed-1", "more-seed-2": "base-seed-2",
        "kd-seed-1": "base-seed-1", "kd-seed-2": "base-seed-2",
    }  # fmt: skip


def test_a_student_s_decoders_are_its_own_else_the_file_s_else_greedy(tmp_path: Path) -> None:
    path = tmp_path / "decoded.toml"
    path.write_text(f"config = 'demo'\n{STUDENT}\n[students.kd]\n", encoding="utf-8")
    assert load_ladder(str(path)).decoders == {"ctc": ("greedy",), "kd": ("greedy",)}
    text = f"config = 'demo'\ndecoders = ['greedy', 'words']\n{STUDENT}\n[students.kd]\ndecoders = ['beam']\n"
    path.write_text(text, encoding="utf-8")
    ladder = load_ladder(str(path))
    assert ladder.decoders == {"ctc": ("greedy", "words"), "kd": ("beam",)}
    assert all("decoders" not in table for table in ladder.students.values())


def test_decoders_with_weights_need_a_dev_split(tmp_path: Path) -> None:
    config = tmp_path / "undev.toml"
    splits = "[data.splits]\ntrain={folders=['a']}\ntest={folders=['b']}\n"
    config.write_text(f"[data]\ncorpus='x'\n{splits}[teacher]\nmodel='bert'\n", encoding="utf-8")
    path = tmp_path / "decoded.toml"
    text = f"config='undev.toml'\nevaluate=['test']\n{STUDENT}\ndecoders=['words']\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match="decoders of ctc are tuned on dev, which undev lacks"):
        trainings_of(load_ladder(str(path)), ())
    path.write_text(text.replace("words", "beam"), encoding="utf-8")
    assert len(trainings_of(load_ladder(str(path)), ())) == 1


BRANCHES = """
config = "demo"
seeds = [1, 2]
[settings]
"trainer.max_steps" = 900
"objective.branch_from_step" = 0
[students.base]
"trainer.max_steps" = 600
[students.more]
begins_with = "base"
[students.kd]
begins_with = "base"
"""
STUDENT = "[students.ctc]"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"config = 'demo'\nseed = [1]\n{STUDENT}", "unknown key 'seed'; did you mean 'seeds'"),
        (f"config = 'demo'\nseeds = []\n{STUDENT}", "seeds = .* at least one"),
        (f"config = 'demo'\nseeds = [1, true]\n{STUDENT}", "must be a list of int"),
        (f"config = 'demo'\nseeds = 3\n{STUDENT}", "must be a list of int"),
        (f"config = 'demo'\nseeds = [1, 1]\n{STUDENT}", "twice"),
        (f"config = 'demo'\nseeds = [-1]\n{STUDENT}", r"\[students.ctc\] .*\[trainer\] seed"),
        (f"config = 'demo'\nevaluate = 'dev'\n{STUDENT}", "must be a list of str"),
        (f"config = 'demo'\nevaluate = ['tset']\n{STUDENT}", "evaluate names tset; demo has"),
        (f"config = 1\n{STUDENT}", "must name a config"),
        (f"config = 'dmeo'\n{STUDENT}", "no config 'dmeo'"),
        ("config = 'demo'", "at least one"),
        ("config = 'demo'\n[students]", "must be tables"),
        ("config = 'demo'\n[students.'../ctc']", "is no name"),
        ("config = 'demo'\n[students]\nctc = 3", "is not a table"),
        (f"config = 'demo'\n[corpora]\n{STUDENT}", "must be tables"),
        (f"config = 'demo'\n[corpora.'a b']\n{STUDENT}", "'a b' is no name"),
        (f"config = 'demo'\n[corpora.a]\n'data.corpsu' = 'x'\n{STUDENT}", r"\[corpora.a\] .*'corpus'"),
        (f"config = 'demo'\n{STUDENT}\n'objective.tail' = 'bukket'", r"\[students.ctc\] .*tail"),
        (f"config = 'demo'\n{STUDENT}\nobjective = {{ tail = 'bucket' }}", "section.key=value"),
        (f"config = 'demo'\nseeds = [1]\n{STUDENT}\n'trainer.seed' = 2", r"\[students.ctc\] sets it too"),
        (
            f"config='demo'\n[settings]\n'cache.top_k' = 8\n{STUDENT}",
            r"cache.top_k: 64 -> 8.*\[corpora.NAME\]",
        ),
        (f"config='demo'\n[corpora.a]\n{STUDENT}\n'teacher.name'='b'", r"teacher.name.*\[corpora.a\]"),
        ("config='demo'\n[corpora.b]\n[corpora.a-b]\n[students.x]\n[students.x-a]", "share the run 'x-a-b'"),
        ("config = demo", "is not valid TOML"),
        (f"config = 'demo'\nsettings = 3\n{STUDENT}", "settings = 3 must be a table"),
        (f"config = 'demo'\n[settings]\n'trainer.max_stepz' = 3\n{STUDENT}", "max_stepz"),
        (
            f"config='demo'\n{STUDENT}\nbegins_with='ctc'",
            "begins_with = 'ctc' must be a student above it: none",
        ),
        (
            f"config='demo'\ndecoders=['wrods']\n{STUDENT}",
            "no decoder 'wrods'; there are greedy, beam, .*words",
        ),
        (f"config='demo'\n{STUDENT}\ndecoders=['lm']", "students.ctc: no decoder 'lm'; there are greedy"),
        (f"config='demo'\n{STUDENT}\ndecoders='words'", "students.ctc: decoders = 'words' must be a list"),
        (f"config='demo'\ndecoders=['beam','beam']\n{STUDENT}", "names one of them twice"),
        (f"config='demo'\ntuning=3\n{STUDENT}", "tuning = 3 must be a table"),
        (f"config='demo'\n[tuning]\nbeams=3\n{STUDENT}", "unknown key of .tuning. 'beams'"),
        (f"config='demo'\n[tuning]\nbeam=3\n{STUDENT}", "tuning.beam = 3 must be a table"),
        (f"config='demo'\n[tuning]\nbeam={{beam=3}}\n{STUDENT}", "unknown decoder of tuning.beam 'beam'"),
        (f"config='demo'\n[tuning]\nutterances=0\n{STUDENT}", "utterances = 0 must be a whole number"),
        (f"config='demo'\n[tuning]\nbeam={{words=true}}\n{STUDENT}", "words = True must be a whole number"),
        (f"config='demo'\n{STUDENT}\nbegins_with='kd'\n[students.kd]", "must be a student above it: none"),
        (f"config='demo'\n{STUDENT}\n[students.kd]\nbegins_with=1", "begins_with = 1 must be .*: ctc"),
        (
            f"config='demo'\n{STUDENT}\n[students.kd]\nbegins_with='ctc'\n'trainer.initial_checkpoint'='x'",
            "students.kd: begins_with and trainer.initial_checkpoint",
        ),
        (
            f"config='demo'\n{STUDENT}\n[students.kd]\nbegins_with='ctc'\n'conformer.model_dim'=48",
            "kd cannot begin with the weights of ctc: .*model_dim.*48",
        ),
    ],
)
def test_a_ladder_that_cannot_be_is_refused_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PipelineError, match=told) as caught:
        trainings_of(load_ladder(str(path)), ())
    assert str(path) in str(caught.value)


def test_a_seed_on_the_command_line_beside_seeds_is_refused() -> None:
    with pytest.raises(PipelineError, match="--set sets it too"):
        trainings_of(load_ladder("demo-seeds"), ["trainer.seed=4"])


letters = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]))
values = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | letters,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(letters, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=40)
@given(values)
def test_a_value_reaches_a_config_as_the_ladder_has_it(value: object) -> None:
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value
