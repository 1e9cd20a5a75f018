"""Every setting of the student: it changes what a run does, or it is named here as one that must not."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import tiny_config, tiny_job

from student.config import StudentConfig
from student.training.checkpoint import load_checkpoint
from student.training.trainer import TrainingJob, train

STEPS = 4
TIMED = {"audio_seconds_per_second", "data_wait_seconds", "seconds"}

# table.key: another value; a run with it must differ in weights, figures, files or what it says
CHANGES: dict[str, Any] = {
    "features.mel_bins": 40,
    "features.window_milliseconds": 20.0,
    "features.hop_milliseconds": 12.5,
    "features.highest_hz": 5800.0,
    "augmentation.speed_factors": (1.0,),
    "augmentation.frequency_masks": 2,
    "augmentation.frequency_mask_bins": 20,
    "augmentation.time_masks": 2,
    "augmentation.time_mask_fraction": 0.3,
    "augmentation.masks_from_step": 2,
    "augmentation.word_masks_below_cer": 1.0,
    "augmentation.word_mask_seconds": (0.1, 0.2),
    "conformer.num_layers": 3,
    "conformer.model_dim": 32,
    "conformer.num_heads": 4,
    "conformer.feed_forward_dim": 64,
    "conformer.conv_kernel_frames": 5,
    "conformer.subsampling": 8,
    "conformer.subsampling_channels": 8,
    "conformer.dropout": 0.2,
    "conformer.taps": (1, 2),
    "conformer.self_conditioning": True,
    "decoder.num_layers": 2,
    "decoder.num_heads": 4,
    "decoder.feed_forward_dim": 32,
    "decoder.dropout": 0.3,
    "decoder.shared": False,
    "decoder.separate": True,
    "decoder.self_attention": False,
    "decoder.history": 0.5,
    "decoder.attention": "aligned",
    "decoder.aligned_from_step": 2,
    "decoder.window_frames": 0,
    "decoder.window_from_previous": True,
    "decoder.min_count": 40,
    "objective.ctc_weight": 0.5,
    "objective.intermediate_ctc_weight": 0.2,
    "objective.branch": "alignment",
    "objective.branch_from_step": 2,
    "objective.branch_on_taps": False,
    "objective.branch_share": 0.5,
    "objective.share_every_steps": 2,
    "objective.distillation_weight": 0.6,
    "objective.top_k": 3,
    "objective.temperature": 2.0,
    "objective.tail": "renormalise",
    "objective.label_smoothing": 0.0,
    "trainer.max_steps": 3,
    "trainer.batch_seconds": 8.0,
    "trainer.micro_batch_seconds": 6.0,
    "trainer.learning_rate": 1e-3,
    "trainer.warmup_steps": 5,
    "trainer.final_learning_rate_fraction": 0.5,
    "trainer.weight_decay": 0.5,
    "trainer.gradient_clip": 0.1,
    "trainer.average_decay": 0.5,
    "trainer.precision": "bfloat16",
    "trainer.compile": True,
    "trainer.seed": 2,
    "trainer.threads": 2,
    "trainer.checkpoint_every_steps": 3,
    "trainer.evaluate_every_steps": 3,
    "trainer.keep_checkpoints": 1,
    "trainer.early_stop_evaluations": 1,
    "trainer.initial_checkpoint": "first",
}
# what they decide costs time, memory or patience alone, and has a test of its own
KEEPS: dict[str, Any] = {
    "decoder.logits_megabytes": 0.001,
    "decoder.window_unit": "piece",  # this teacher has one piece a word
    "trainer.device": "auto",
    "trainer.data_workers": 1,
    "trainer.audio_memory_megabytes": 0,
    "trainer.label_memory_megabytes": 0,
    "trainer.gradient_clip_ratio": 0.5,  # from the 21st step on
    "trainer.max_bad_steps": 1,
    "trainer.explosion_ratio": 20.0,
    "trainer.keep_best_checkpoints": 2,  # where the best are among the last
}
FIXED = {"features.sample_rate_hz"}  # of the corpus: another one is refused
NEEDS: dict[str, dict[str, Any]] = {  # what else must be so for the setting to matter
    "conformer.subsampling": {"features.hop_milliseconds": 5.0},  # letters do not fit otherwise
    "conformer.taps": {"conformer.num_layers": 3},
    "augmentation.word_masks_below_cer": {"augmentation.time_masks": 5},
    "augmentation.word_mask_seconds": {
        "augmentation.word_masks_below_cer": 1.0,
        "augmentation.time_masks": 5,
        "augmentation.time_mask_fraction": 0.3,
    },
    "decoder.aligned_from_step": {"decoder.attention": "aligned"},
    "decoder.window_frames": {"decoder.attention": "aligned"},
    "decoder.window_from_previous": {"decoder.attention": "aligned"},
    "trainer.final_learning_rate_fraction": {"trainer.warmup_steps": 1},
    "trainer.keep_checkpoints": {"trainer.checkpoint_every_steps": 1},
    "trainer.early_stop_evaluations": {"trainer.evaluate_every_steps": 1},
}


def with_settings(config: StudentConfig, settings: dict[str, Any]) -> StudentConfig:
    """The config with these `table.key` settings, all tables at once."""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        table, key = name.split(".")
        tables.setdefault(table, {})[key] = value
    return replace(config, **{name: replace(getattr(config, name), **keys) for name, keys in tables.items()})


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingJob]:
    threads = torch.get_num_threads()
    settings = {"max_steps": STEPS, "warmup_steps": 2, "evaluate_every_steps": 2}
    job = tiny_job(tmp_path_factory.mktemp("settings"), num_train=24, num_dev=2)
    yield replace(job, config=tiny_config(**settings), scratch=job.run_dir.parent / "scratch")
    torch.set_num_threads(threads)


def outcome(job: TrainingJob, settings: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """What a run with these settings left behind, times and paths apart."""
    settings = {k: str(job.run_dir) if v == "first" else v for k, v in settings.items()}
    train(replace(job, config=with_settings(job.config, settings), run_dir=run_dir))
    log = (run_dir / "log.txt").read_text(encoding="utf-8")
    metrics = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    final = load_checkpoint(run_dir / "final.pt")
    return {
        "weights": {name: tensor.double().sum().item() for name, tensor in final.model.items()},
        "figures": [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in metrics],
        "files": sorted(path.name for path in (run_dir / "checkpoints").iterdir()),
        "said": re.sub(r"^\S+ \S+ |in \d+ s \(.*|/\S+", "", log, flags=re.MULTILINE),
    }


@pytest.fixture(scope="module")
def plain(job: TrainingJob) -> dict[str, Any]:
    return outcome(job, {}, job.run_dir)


def test_every_setting_is_named_here_once() -> None:
    tables = typing.get_type_hints(StudentConfig)
    names = {f"{table}.{f.name}" for table, kind in tables.items() for f in dataclasses.fields(kind)}
    assert names == CHANGES.keys() | KEEPS.keys() | FIXED
    assert len(names) == len(CHANGES) + len(KEEPS) + len(FIXED)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_changes_what_a_run_does(
    name: str, job: TrainingJob, plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    needed = NEEDS.get(name, {})
    before = outcome(job, needed, tmp_path / "before") if needed else plain
    assert outcome(job, needed | {name: CHANGES[name]}, tmp_path / "after") != before


@pytest.mark.slow
@pytest.mark.parametrize("name", KEEPS)
def test_a_setting_of_the_machine_changes_nothing_of_the_result(
    name: str, job: TrainingJob, plain: dict[str, Any], tmp_path: Path
) -> None:
    after = outcome(job, {name: KEEPS[name]}, tmp_path)
    if name == "decoder.logits_megabytes":  # other sums in another order
        assert after["files"] == plain["files"]
        for one, other in zip(after["figures"], plain["figures"], strict=True):
            for figure in {"loss", "share_all"} & one.keys():
                assert one[figure] == pytest.approx(other[figure], rel=1e-3)
        return
    assert after == plain


def test_the_probe_sees_no_difference_where_there_is_none(
    job: TrainingJob, plain: dict[str, Any], tmp_path: Path
) -> None:
    assert outcome(job, {}, tmp_path) == plain
