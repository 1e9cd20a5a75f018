"""A run keeps the labels in memory while they fit its limit, and maps them from scratch otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_cache import make, passages_named, plan_of
from tiny_run import CACHE_CONFIG, tiny_config

from student.data.training_data import TrainingJob, open_cache


@pytest.mark.parametrize(
    ("megabytes", "has_scratch", "backend"),
    [(64, True, "memory"), (0, True, "map"), (0, False, "chunks")],
)
def test_the_limit_and_the_scratch_root_choose_how_labels_are_kept(
    tmp_path: Path, megabytes: int, has_scratch: bool, backend: str
) -> None:
    plan = plan_of(passages_named(20), config=CACHE_CONFIG)
    job = TrainingJob(
        config=tiny_config(label_memory_megabytes=megabytes),
        train_manifest=tmp_path / "train.jsonl",
        dev_manifest=None,
        units_model=tmp_path / "units.model",
        data_root=tmp_path,
        cache_path=make(tmp_path / "caches", plan),
        cache_config=CACHE_CONFIG,
        run_dir=tmp_path / "run",
        scratch=tmp_path / "scratch" if has_scratch else None,
    )
    reader = open_cache(job)
    assert reader.backend == backend
    assert len(reader.targets(plan.passages[0].digest).top_ids[0]) == job.config.objective.top_k
    assert len(list((tmp_path / "scratch").glob("*.map"))) == (backend == "map")
