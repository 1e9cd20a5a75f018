"""What a CUDA device computes is what the CPU computes; skipped where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_loss_objective import ALIGNED, batch_of, config, model_of
from tiny_run import ctc_alone, listening, tiny_job

from student.loss.objective import compute_objective
from student.loss.unit_alignment import unit_frames
from student.training.compilation import compile_or_say_why_not
from student.training.trainer import train
from teacher_cache.config import CacheConfig
from teacher_cache.passages import Passage
from teacher_cache.teacher.masked_teacher import MaskedTeacher

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("objective", [{}, ALIGNED], ids=["attention", "alignment"])
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns of PyTorch
def test_terms_and_gradients_are_those_of_the_cpu(objective: dict[str, str], is_compiled: bool) -> None:
    settings = config(**objective)
    here, there = model_of(settings), model_of(settings).cuda()
    if is_compiled:
        assert "blocks run compiled" in compile_or_say_why_not(there, torch.device("cuda"))
    expected = compute_objective(here, batch_of(settings), settings, 3.0)
    actual = compute_objective(there, batch_of(settings).to("cuda"), settings, 3.0)
    expected.loss.backward(), actual.loss.backward()
    for name, term in expected.terms.items():
        torch.testing.assert_close(actual.terms[name].cpu(), term, rtol=1e-3, atol=1e-3)
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(other.grad.cpu(), one.grad, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_student_learns_in_every_precision(tmp_path: Path, precision: str) -> None:
    job = ctc_alone(tiny_job(tmp_path, num_train=40, num_dev=4), max_steps=60, warmup_steps=15)
    trainer = replace(job.config.trainer, device="cuda", precision=precision, evaluate_every_steps=60)
    result = train(replace(job, config=replace(job.config, trainer=trainer)))
    assert result.device.startswith("cuda") and result.dev_wer is not None and result.dev_wer < 0.9


def test_a_teacher_scores_as_on_the_cpu(bert_folder: Path) -> None:
    rows = []
    for device in ("cpu", "cuda"):
        teacher = MaskedTeacher.load(bert_folder, "float32", device)
        encoded = teacher.tokenizer.encode([Passage("", text, "") for text in ("the ship sails", "a hat")])
        wanted = np.ones(sum(passage.own_length for passage in encoded), dtype=bool)
        rows.append(teacher.score(encoded, wanted, CacheConfig(top_k=8), 64))
    np.testing.assert_allclose(rows[1].top_logprob, rows[0].top_logprob, atol=1e-3)
    np.testing.assert_array_equal(rows[1].gold_id, rows[0].gold_id)


def test_units_are_aligned_as_on_the_cpu() -> None:
    random = torch.Generator().manual_seed(2)
    logits, units = (
        2 * torch.randn(4, 120, 33, generator=random),
        torch.randint(1, 33, (4, 40), generator=random),
    )
    lengths, unit_lengths = torch.tensor([120, 99, 80, 30]), torch.tensor([40, 31, 7, 40])
    here = unit_frames(logits, lengths, units, unit_lengths)
    there = unit_frames(logits.cuda(), lengths.cuda(), units.cuda(), unit_lengths.cuda())
    assert there.is_aligned.tolist() == here.is_aligned.tolist() == [True, True, True, False]
    for row, length in enumerate(unit_lengths[:3]):
        assert torch.equal(there.frames[row, :length].cpu(), here.frames[row, :length])


def test_listening_decoders_train(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, num_train=40, num_dev=4)
    config = listening(job.config)
    trainer = replace(config.trainer, device="cuda", precision="auto")
    result = train(replace(job, config=replace(config, trainer=trainer)))
    assert result.device.startswith("cuda") and result.skipped_steps == 0
    figures = (job.run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    assert "share_all" in figures and "kd_per_token_deaf_final" in figures
