"""Nonsense in a config or a ladder is refused in one line that names the key and what is allowed."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import TABLES, load_config
from pipeline.errors import PipelineError
from pipeline.experiments.ladder import load_ladder, trainings_of
from pipeline.report.settings_page import SHOWN
from teacher_cache.common.typed import Fault, typed
from teacher_cache.settings import setting_of

# Of every numeric field of every table: its bounds, so that no number is left that nobody thought of
NUMBERS = {
    (name, field.name): kind
    for name, table in SHOWN.items()
    for field in dataclasses.fields(table)
    for kind in [typing.get_type_hints(table)[field.name]]
    if kind in (int, float, tuple[int, ...], tuple[float, ...], str | float)
}
HUGE = 10**23
NOT_NUMBERS = [
    math.nan,
    math.inf,
    -math.inf,
    HUGE,
    -HUGE,
    float(HUGE),
    1e300,
    "x",
    "",
    True,
    None,
    {},
    {"a": 1},
]
WRONG_FOR_WORDS = [0, 1.5, True, [], ["x", 1], {"a": "b"}, "\0", "a\nb", "\ud800", "x" * 5000]


def refused(table: str, key: str, value: Any) -> str:
    """The line in which the whole table with this one value is refused."""
    required = {"data": {"splits": {"train": {"folders": ["a"]}}}, "teacher": {"model": "m"}}
    required |= {"teacher_training": {"text": ["t"]}, "data.splits.NAME": {}}
    with pytest.raises(Fault) as caught:
        typed(SHOWN[table], {**required.get(table, {}), key: value}, table)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    return str(caught.value)


@pytest.mark.parametrize(("table", "key"), NUMBERS, ids=[f"{table}.{key}" for table, key in NUMBERS])
def test_every_number_has_bounds_and_no_nonsense_is_one(table: str, key: str) -> None:
    field = next(field for field in dataclasses.fields(SHOWN[table]) if field.name == key)
    declared = setting_of(field)
    assert declared is not None
    assert declared.low is not None or declared.above is not None, "nothing below is refused"
    assert declared.high is not None or declared.below is not None, "nothing above is refused"
    for value in [*NOT_NUMBERS, -1, [[1]], [math.nan], [HUGE], ["x"]]:
        told = refused(table, key, value)
        assert key in told and declared.range in told, (value, told)


@given(st.sampled_from(sorted(NUMBERS)), st.floats() | st.integers())
def test_a_number_outside_the_bounds_is_never_taken(where: tuple[str, str], value: float) -> None:
    table, key = where
    field = next(field for field in dataclasses.fields(SHOWN[table]) if field.name == key)
    declared = setting_of(field)
    assert declared is not None
    if declared.fault(value):
        is_list = typing.get_origin(NUMBERS[where]) is tuple
        assert key in refused(table, key, [value] if is_list else value)


WORDS = {
    (name, field.name): kind
    for name, table in SHOWN.items()
    for field in dataclasses.fields(table)
    for kind in [typing.get_type_hints(table)[field.name]]
    if kind in (str, bool, tuple[str, ...]) or name == "data" and field.name == "splits"
}


@pytest.mark.parametrize(("table", "key"), WORDS, ids=[f"{table}.{key}" for table, key in WORDS])
def test_every_word_and_list_of_words_is_held_to_its_type(table: str, key: str) -> None:
    kind = WORDS[table, key]
    for value in WRONG_FOR_WORDS:
        if (kind is bool and value is True) or (kind == tuple[str, ...] and value == []):
            continue
        told = refused(table, key, [value] if kind == tuple[str, ...] and isinstance(value, str) else value)
        assert key in told, (value, told)


MINIMAL = (
    '[data]\ncorpus = "speech"\n[data.splits]\ntrain = { folders = ["train"] }\n[teacher]\nmodel = "bert"\n'
)


def told_of(path: Path, text: str | bytes, *overrides: str) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PipelineError) as caught:
        load_config(str(path), overrides)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"\xff", "is not UTF-8"),
        (MINIMAL.encode("utf-16"), "is not UTF-8"),
        ("base = 5\n", "base 5 is neither"),
        ('base = ["demo"]\n', "base ['demo'] is neither"),
        ('base = "nowhere"\n', "no config 'nowhere'"),
        ('base = "gone.toml"\n', "there is no such file"),
        ('base = "\\u0000"\n', "no config"),
        ("trainer = []\n" + MINIMAL, "[trainer] is not a table: []"),
        ("trainer = 3\n" + MINIMAL, "[trainer] is not a table: 3"),
        (MINIMAL + "[[trainer]]\nseed = 1\n", "[trainer] is not a table: [{'seed': 1}]"),
        ("data = []\n[teacher]\nmodel = 'a'\n", "[data] is not a table"),
        ("teacher = 1979-05-27\n[data]\nsplits.train.ids = 'a'\n", "[teacher] is not a table"),
        (MINIMAL.replace('folders = ["train"]', ""), "[data.splits.train] a split is either"),
        (MINIMAL.replace('{ folders = ["train"] }', "[]"), "[data.splits.train] is not a table"),
        (MINIMAL.replace("train =", "test ="), "hold no train split"),
        (MINIMAL.replace("[teacher]", '"../../train" = { folders = ["a"] }\n[teacher]'), "is no name"),
        (MINIMAL.replace("[teacher]", '"" = { folders = ["a"] }\n[teacher]'), "split name '' is no name"),
        (MINIMAL.replace("[teacher]", '".hidden" = { folders = ["a"] }\n[teacher]'), "is no name"),
        (MINIMAL.replace('"speech"', '"/etc"'), "corpus '/etc' must be a path below"),
        (MINIMAL.replace('"speech"', '"../speech"'), "corpus '../speech' must be a path below"),
        (MINIMAL.replace('["train"]', '["a/../../b"]'), "folders 'a/../../b' must be a path below"),
        (MINIMAL.replace('folders = ["train"]', 'manifest = "/a.jsonl"'), "manifest '/a.jsonl' must be"),
        (MINIMAL + "[teacher_training]\n", "[teacher_training] lacks 'text'"),
        (MINIMAL + '[build]\nsplits = ["train", "tset"]\n', "[build] splits names 'tset'"),
        (MINIMAL.replace('model = "bert"', 'name = "../bert"'), "[teacher] name '../bert' is no name"),
        (MINIMAL + "[trainer]\nmax_steps = 1e5\n", "max_steps = 100000.0 is not of type int; allowed: >="),
        (MINIMAL + "[trainer]\nmax_steps = 0x" + 250 * "f" + "\n", "max_steps"),
        (MINIMAL + "[trainer]\nmax_steps = 0x" + 3000 * "f" + "\n", "integer of 12,000 bits"),
        (MINIMAL + "[conformer]\nnum_heads = 0\n", "[conformer] num_heads 0 must be >= 1, <= 256"),
        (MINIMAL + "[conformer]\ndropout = 2\n", "[conformer] dropout 2.0 must be >= 0, < 1"),
        (MINIMAL + "[trainer]\nweight_decay = -1\n", "[trainer] weight_decay -1.0 must be >= 0, <= 10"),
        (MINIMAL + "[trainer]\nevaluate_every_steps = 0\n", "evaluate_every_steps 0 must be >= 1"),
        (MINIMAL + f"[trainer]\nmax_steps = {HUGE}\n", f"max_steps {HUGE} must be >= 1, <= 1,000,000,000"),
        (MINIMAL + "[trainer]\nlearning_rate = inf\n", "learning_rate inf must be finite, >= 0, <= 10"),
        (MINIMAL + f'[trainer]\n"{"x" * 5000}" = 1\n', "unknown key"),
        ("a" * 5000 + " = 1\n" + MINIMAL, "unknown table"),
        ("x = " + "[" * 100_000, "nested deeper"),
    ],
)  # fmt: skip
def test_nonsense_in_a_file_is_one_line(tmp_path: Path, text: str | bytes, told: str) -> None:
    assert told in told_of(tmp_path / "own.toml", text)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.max_steps=", "trainer.max_steps = '' is not of type int; allowed"),
        ("trainer.max_steps=[[[", "trainer.max_steps = '[[[' is not of type int"),
        ("trainer.=1", "unknown key"),
        (".a=1", "unknown table"),
        ("trainer.max_steps=nan", "trainer.max_steps = nan is not of type int"),
        ("data.splits={}", "hold no train split"),
        ("data.splits=[]", "data.splits = [] is not of type"),
        ("teacher=1", "write section.key=value"),
    ],
)
def test_nonsense_in_an_override_is_one_line(tmp_path: Path, override: str, told: str) -> None:
    assert told in told_of(tmp_path / "own.toml", MINIMAL, override)
    assert "[trainer] is not a table" in told_of(
        tmp_path / "own.toml", "trainer = []\n" + MINIMAL, "trainer.a=1"
    )


@pytest.mark.parametrize("name", ["a b.toml", "é.toml", ".toml.toml", "-x.toml", "x" * 150 + ".toml"])
def test_a_file_whose_name_no_cache_can_have_is_refused(tmp_path: Path, name: str) -> None:
    assert "is no name" in told_of(tmp_path / name, MINIMAL)


@pytest.mark.parametrize("reference", ["\0", "a\nb", "x" * 5000, "\ud800", "", ".", "/"])
def test_a_reference_that_can_be_no_file_is_one_line(reference: str) -> None:
    for load in (load_config, load_ladder):
        with pytest.raises(PipelineError, match="no (config|ladder)") as caught:
            load(reference)
        assert "\n" not in str(caught.value)


def test_a_config_without_dev_labels_train_alone_and_one_with_dev_both(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(MINIMAL)
    assert load_config(str(tmp_path / "own.toml")).labelled_splits == ("train",)
    with_dev = MINIMAL.replace("[teacher]", 'dev = { folders = ["dev"] }\n[teacher]')
    (tmp_path / "own.toml").write_text(with_dev)
    assert load_config(str(tmp_path / "own.toml")).labelled_splits == ("train", "dev")


LADDER = 'config = "demo"\nevaluate = ["test"]\n[students.one]\n"objective.ctc_weight" = 0.5\n'


def test_a_sound_ladder_loads_and_every_student_has_a_config(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(LADDER + '[students.two]\n"augmentation.speed_factors" = [0.9, 1.0]\n')
    one, two = trainings_of(load_ladder(str(tmp_path / "own.toml")), ())
    assert one.config.student.objective.ctc_weight == 0.5
    assert two.config.student.augmentation.speed_factors == (0.9, 1.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"\xff", "is not UTF-8"),
        ("", "config = None must name a config"),
        ('config = "demo"\n', "needs at least one [students.NAME]"),
        ('config = 5\n[students.a]\n"trainer.seed" = 1\n', "config = 5 must name a config"),
        ('config = "demo"\n[[students]]\na = 1\n', "students = [{'a': 1}] must be tables"),
        ('config = "demo"\nstudents.a = 1\n', "students.a = 1 is not a table"),
        ('config = "demo"\n[students]\n', "students = {} must be tables"),
        ('config = "demo"\nevaluate = "dev"\n[students.a]\n"trainer.seed" = 1\n', "evaluate = 'dev' must"),
        ('config = "demo"\nevaluate = []\n[students.a]\n"trainer.seed" = 1\n', "evaluate = [] must"),
        ('config = "demo"\n[students."../a"]\n"trainer.seed" = 1\n', "'../a' is no name"),
        ('config = "demo"\n[students.a.trainer]\nseed = 1\n', "students.a] "),
        (LADDER + "more = 1\n", "[students.one] --set 'more=1'"),
        (LADDER.replace("ctc_weight", "ctc_wieght"), "[students.one] "),
        (LADDER.replace("0.5", "nan"), "ctc_weight nan must be finite, > 0, <= 1"),
        (LADDER.replace("0.5", '"much"'), "objective.ctc_weight = 'much' is not of type float"),
        (LADDER.replace('"demo"', '"nowhere"'), "no config 'nowhere'"),
        ("wrong = 1\n" + LADDER, "unknown key 'wrong'"),
    ],
)  # fmt: skip
def test_nonsense_in_a_ladder_is_told_before_anything_runs(
    tmp_path: Path, text: str | bytes, told: str
) -> None:
    path = tmp_path / "own.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PipelineError) as caught:
        trainings_of(load_ladder(str(path)), ())
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_every_table_is_tried() -> None:
    assert {table for table, _ in (*NUMBERS, *WORDS)} == set(SHOWN) >= set(TABLES)
    assert len(NUMBERS) > 70 and not re.search("nan", str(sorted(NUMBERS)))
