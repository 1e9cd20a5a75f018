"""The student trains without the teacher's world: shown in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


def modules_loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def loaded_for_training() -> set[str]:
    return modules_loaded_by(
        "import student.training.trainer, student.inference.evaluation, student.inference.transcription; "
        "import teacher_cache.store"
    )


@pytest.mark.parametrize("package", ["transformers", "dask", "distributed", "pipeline"])
def test_training_never_loads(package: str, loaded_for_training: set[str]) -> None:
    assert "student.training.trainer" in loaded_for_training
    assert package not in loaded_for_training


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"json", "dask"} <= modules_loaded_by("import json, dask")
