"""A preparation that changed since it was made: every command that reads it says so before any work."""

# ruff: noqa: F811  # fixtures of another file are arguments here

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from spoiling import bit_flipped, texts_exchanged
from test_stages_train_from_url import cache, folder, roots_of  # noqa: F401  # two are fixtures

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.corpus.prepared import FILES_SHA256, RECORD_NAME, sound_preparation
from pipeline.errors import PipelineError
from pipeline.paths import Roots

COMMANDS = (
    "train",
    "train --dry-run",
    "cache build",
    "data prepare --leave-out-bad",
    "lm ngram --of units",
    "lm ngram",  # which reads no units
)


def other_units(prepared: Path) -> None:
    """One bit of a piece's score: another model, as sound as the first."""
    bit_flipped(prepared / "units.model")


def pipe(prepared: Path) -> None:
    (prepared / "train.jsonl").unlink()
    os.mkfifo(prepared / "train.jsonl")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "texts exchanged": (
        lambda p: texts_exchanged(p / "train.jsonl"),
        "train.jsonl: is not as it was prepared",
    ),
    "other units": (other_units, "units.model: is not as it was prepared"),
    "a pipe": (pipe, "train.jsonl: is a pipe, not a file"),
}


@pytest.fixture
def roots(folder: Path, tmp_path: Path) -> Roots:
    """The corpus, and a copy of its preparation that may be spoilt."""
    shutil.copytree(folder / "runs", tmp_path / "runs")
    return Roots(data=folder / "data", cache=tmp_path, runs=tmp_path / "runs", scratch=tmp_path / "scratch")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_command_works_with_what_was_not_prepared(
    folder: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch, command: str, fault: str
) -> None:
    plant, said = FAULTS[fault]
    config = load_config(f"{folder}/tones.toml")
    plant(sound_preparation(config, roots))
    for name in ("data", "cache", "runs", "scratch"):
        monkeypatch.setenv(f"BERT2CTC_{name.upper()}", str(getattr(roots, name)))
    done = CliRunner().invoke(main, [*command.split(), f"{folder}/tones.toml"])
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.exit_code == 1 and said in line and "run `bert2ctc data prepare" in line


def test_a_preparation_of_before_is_taken_as_it_is(folder: Path, roots: Roots) -> None:
    config = load_config(f"{folder}/tones.toml")
    prepared = sound_preparation(config, roots)
    record = json.loads((prepared / RECORD_NAME).read_text())
    assert sorted(record[FILES_SHA256]) == ["train.jsonl", "units.model"]
    other_units(prepared)
    with pytest.raises(PipelineError):
        sound_preparation(config, roots)
    del record[FILES_SHA256]
    (prepared / RECORD_NAME).write_text(json.dumps(record))
    assert sound_preparation(config, roots) == prepared
