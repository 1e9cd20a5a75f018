"""A compiled encoder gives the labels of the eager one, and is chosen only where the work pays for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from build_helpers import entries_of, quiet, texts

from teacher_cache import compilation
from teacher_cache.build import build_cache
from teacher_cache.config import BuildConfig, CacheConfig
from teacher_cache.errors import CacheError
from teacher_cache.job import BuildJob, BuildRequest
from teacher_cache.layout import CHUNK_ROWS
from teacher_cache.passages import passages_of
from teacher_cache.plan import BuildPlan
from teacher_cache.preview import preview_build
from teacher_cache.recompute import recompute_cache
from teacher_cache.records import read_manifest
from teacher_cache.verify import verify_cache

TEXTS = texts(120)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of TorchInductor's own


@pytest.fixture(scope="module")
def compiler() -> None:
    reason = compilation.why_not()
    if reason:
        pytest.skip(f"cannot compile here: {reason}")


def request_of(bert_folder: Path, root: Path, policy: str, dtype: str = "float32") -> BuildRequest:
    return BuildRequest(
        entries={"train": entries_of(TEXTS)},
        teacher_folder=bert_folder,
        cache_config=CacheConfig(top_k=8, dtype=dtype),
        build_config=BuildConfig(workers=1, rows_per_shard=CHUNK_ROWS, batch_tokens=512, compile=policy),
        root=root,
        name="demo",
        normaliser={"name": "plain", "version": 1},
    )


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_build_holds_the_labels_of_an_eager_teacher(
    dtype: str, bert_folder: Path, tmp_path: Path
) -> None:
    """Of every length and batch shape that the texts make: one compilation serves them all."""
    result = build_cache(request_of(bert_folder, tmp_path, "always", dtype), quiet)
    assert read_manifest(result.path).build["compiled"]
    assert verify_cache(result.path) == []
    eager = recompute_cache(result.path, bert_folder, passages_of(entries_of(TEXTS), CacheConfig()), 1.0)
    assert (eager.passages, eager.faults) == (len(TEXTS), ())


def test_auto_compiles_long_bfloat16_work_on_a_cpu_alone() -> None:
    long = 2 * compilation.PAYING_SECONDS * compilation.ASSUMED_FLOPS_PER_SECOND
    assert compilation.pays(long, 1, "bfloat16", "cpu")
    assert not compilation.pays(long, 4, "bfloat16", "cpu")  # four threads make it short
    assert not compilation.pays(long, 1, "float32", "cpu")
    assert not compilation.pays(long, 1, "bfloat16", "cuda")


@pytest.mark.usefixtures("compiler")
def test_the_plan_of_a_long_build_compiles_and_that_of_a_short_one_does_not(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(bert_folder, tmp_path, "auto", dtype="bfloat16")
    job = BuildJob.of(request)
    assert not job.plan().compiled
    assert not preview_build(request).compiled
    monkeypatch.setattr(compilation, "PAYING_SECONDS", 1e-9)
    assert job.plan().compiled
    assert preview_build(request).compiled


def test_a_machine_without_a_compiler_says_so_and_stays_eager(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "PAYING_SECONDS", 0.0)
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    compilation.why_not.cache_clear()
    try:
        assert compilation.why_not().startswith("no C++ compiler")
        assert not BuildJob.of(request_of(bert_folder, tmp_path, "auto", dtype="bfloat16")).plan().compiled
    finally:
        compilation.why_not.cache_clear()


def test_what_cannot_be_compiled_is_told_in_one_line() -> None:
    def encode(ids: torch.Tensor) -> torch.Tensor:
        raise OSError("Python.h: no such file\nand a long command line")

    with pytest.raises(
        CacheError, match=r"^cannot compile .*Python\.h.*compile = \"never\".*unfinished build"
    ) as raised:
        compilation.compiled(encode, "cpu")
    assert "\n" not in str(raised.value)


def test_a_plan_from_before_there_was_a_choice_is_eager(bert_folder: Path, tmp_path: Path) -> None:
    plan = BuildJob.of(request_of(bert_folder, tmp_path, "never")).plan()
    plan.write(tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(path.read_text().replace(',\n "compiled": false', ""))
    assert "compiled" not in path.read_text()
    assert BuildPlan.read(tmp_path) == dataclasses.replace(plan, compiled=False)
