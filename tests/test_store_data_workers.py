"""Data workers read the labels that their parent reads, however they are started and rows are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from synthetic_cache import make, passages_named, plan_of
from torch.utils.data import DataLoader, Dataset

from teacher_cache.config import CacheConfig
from teacher_cache.store import TeacherCacheReader, TeacherTargets
from teacher_cache.store.row_backends import BACKENDS

STARTS = ("fork", "forkserver", "spawn")


def digest_of(targets: TeacherTargets) -> str:
    parts = (targets.gold_ids, targets.top_ids, targets.top_logprobs, targets.tail_logprob)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


class _Labels(Dataset[str]):
    """What a DataLoader worker does with a reader."""

    def __init__(self, reader: TeacherCacheReader, digests: list[bytes]) -> None:
        self.reader, self.digests = reader, digests

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, index: int) -> str:
        return digest_of(self.reader.targets(self.digests[index]))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_data_workers_read_the_same_however_they_start(tmp_path: Path, backend: str, start: str) -> None:
    plan = plan_of(passages_named(60), config=CacheConfig(top_k=20))
    cache = make(tmp_path / "root", plan)
    reader = TeacherCacheReader(
        cache, backend=backend, scratch=tmp_path / "scratch", memory_megabytes=1, top_k=5
    )
    reader.prepare()
    digests = [passage.digest for passage in plan.passages]
    expected = [digest_of(reader.targets(digest)) for digest in digests]
    loader = DataLoader(
        _Labels(reader, digests),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=start,
        generator=torch.Generator(),
    )
    assert list(loader) == expected
