"""Running a command again is always safe: equal configs go on, others are refused, nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.run_record import claim_run, read_record, write_record

TABLES = {"trainer": {"max_steps": 5, "seed": 1}}


def test_an_equal_config_gets_the_record_that_stands_there(tmp_path: Path) -> None:
    first = claim_run(tmp_path / "run", TABLES, {"cache": "abc"})
    write_record(tmp_path / "run", {**first, "state": "finished"})
    again = claim_run(tmp_path / "run", TABLES, {"cache": "other"})
    assert again["state"] == "finished"
    assert again["cache"] == "abc"


def test_another_config_is_refused_with_its_keys_and_a_free_name(tmp_path: Path) -> None:
    claim_run(tmp_path / "run", TABLES, {})
    (tmp_path / "run-2").mkdir()
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(PipelineError, match=r"trainer\.max_steps: 5 -> 6.*RUN=\S*run-3"):
        claim_run(tmp_path / "run", {"trainer": {"max_steps": 6, "seed": 1}}, {})
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def asked_twice(folder: Path, ctc_weights: tuple[float, float]) -> None:
    """A run of the first weight, asked for again with the second and another teacher."""
    for number, weight in enumerate(ctc_weights):
        teacher = {"teacher_training": {"max_steps": number}, "cache": {"top_k": 8 + number}}
        claim_run(folder, {**TABLES, **teacher, "objective": {"ctc_weight": weight}}, {})


def test_a_run_of_ctc_alone_goes_on_whatever_became_of_the_teacher(tmp_path: Path) -> None:
    asked_twice(tmp_path / "run", (1.0, 1.0))
    with pytest.raises(PipelineError, match=r"max_steps: 0 -> 1"):
        asked_twice(tmp_path / "other", (0.3, 0.3))
    with pytest.raises(PipelineError, match=r"ctc_weight: 1\.0 -> 0\.3"):
        asked_twice(tmp_path / "third", (1.0, 0.3))


def test_a_folder_with_foreign_files_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(PipelineError, match="holds files but no run.json"):
        claim_run(tmp_path, TABLES, {})


def test_a_damaged_record_is_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(PipelineError, match="damaged"):
        read_record(tmp_path)
    assert (tmp_path / "run.json").read_text() == "{"
