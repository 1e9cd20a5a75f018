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


def test_a_folder_with_foreign_files_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose me")
    with pytest.raises(PipelineError, match="holds files but no run.json"):
        claim_run(tmp_path, TABLES, {})


def test_a_damaged_record_is_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(PipelineError, match="damaged"):
        read_record(tmp_path)
    assert (tmp_path / "run.json").read_text() == "{"
