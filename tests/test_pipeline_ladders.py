"""Shipped ladders: every student is a config that can be trained, and no two of a ladder are the same."""

from __future__ import annotations

import pytest

from pipeline.config import CONFIG_FOLDER, ExperimentConfig, load_config
from pipeline.experiment import load_ladder
from student.loss.objective import objective_weights

LADDERS = sorted(path.stem for path in (CONFIG_FOLDER / "ladders").glob("*.toml"))


def students_of(ladder_name: str) -> dict[str, ExperimentConfig]:
    ladder = load_ladder(ladder_name)
    return {
        name: load_config(ladder.config, [f"{key}={_toml(value)}" for key, value in changes.items()])
        for name, changes in ladder.students.items()
    }


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("ladder", LADDERS)
def test_no_two_students_of_a_ladder_are_the_same(ladder: str) -> None:
    students = students_of(ladder)
    assert len({repr(config.student) for config in students.values()}) == len(students) > 1
    assert len({config.student.trainer.max_steps for config in students.values()}) == 1


def test_the_family_has_the_terms_of_its_names() -> None:
    terms = {name: set(objective_weights(c.student)) for name, c in students_of("demo-family").items()}
    ctc = {"ctc", "ctc_tap2", "ctc_tap4"}
    hard, soft, aligned = (
        {f"{kind}_{place}" for place in ("final", "tap2", "tap4")} for kind in ("ce", "kd", "ctc_pieces")
    )
    assert terms == {
        "ctc": {"ctc"},
        "interctc": ctc,
        "self_conditioned": ctc,
        "aed_hard": ctc | {"ce_final"},
        "interaed_hard": ctc | hard,
        "aed_kd": ctc | {"ce_final", "kd_final"},
        "interaed_kd": ctc | hard | soft,
        "alignment_kd": ctc | {"ctc_pieces_final", "kd_final"},
        "inter_alignment_kd": ctc | aligned | soft,
    }
