"""Losses against dense float64 references over the whole vocabulary, and the laws of their docstrings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from student.loss.losses import ctc_loss, distillation_loss, smoothed_cross_entropy

B, U, V = 3, 5, 12


def teacher_of(seed: int, temperature: float, sharpness: float = 2.0) -> torch.Tensor:
    """Float64 log-probs over V outputs, the last of which (<eos>) the teacher never names."""
    generator = torch.Generator().manual_seed(seed)
    scores = sharpness * torch.randn(B, U, V, generator=generator, dtype=torch.float64) / temperature
    scores[..., -1] = -torch.inf
    return scores.log_softmax(-1)


def top_of(teacher: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Top indices and log-probs, and the log-prob of the tail summed directly."""
    logprobs, indices = teacher.topk(k)
    tail = teacher.scatter(-1, indices, -torch.inf).logsumexp(-1)
    return indices, logprobs, tail


def student_of(seed: int) -> torch.Tensor:
    return torch.randn(B, U, V, generator=torch.Generator().manual_seed(seed + 999), dtype=torch.float64) * 2


def mask_of(*lengths: int) -> torch.Tensor:
    return torch.arange(U) < torch.tensor(lengths).unsqueeze(1)


FULL = mask_of(U, U, U)


def dense_bucket(teacher: torch.Tensor, logits: torch.Tensor, k: int, temperature: float) -> torch.Tensor:
    """KL token by token, output by output, over k + 1 events: the plainest way to say it."""
    total = torch.zeros((), dtype=torch.float64)
    student = (logits / temperature).softmax(-1)
    for b in range(B):
        for u in range(U):
            best = teacher[b, u].topk(k).indices.tolist()
            p = [teacher[b, u, v].exp().item() for v in best]
            q = [student[b, u, v] for v in best]
            p.append(sum(teacher[b, u, v].exp().item() for v in range(V) if v not in best))
            q.append(sum(student[b, u, v] for v in range(V) if v not in best))  # type: ignore[arg-type]
            for pi, qi in zip(p, q, strict=True):
                if pi > 0:
                    total = total + pi * (torch.log(torch.tensor(pi, dtype=torch.float64)) - qi.log())
    return temperature**2 * total


def dense_renormalised(
    teacher: torch.Tensor, logits: torch.Tensor, k: int, temperature: float
) -> torch.Tensor:
    kept = torch.full_like(teacher, -torch.inf)
    best = teacher.topk(k).indices
    kept = kept.scatter(-1, best, teacher.gather(-1, best)).softmax(-1)
    student = (logits / temperature).log_softmax(-1)
    return temperature**2 * functional.kl_div(student, kept, reduction="sum")


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), k=st.integers(1, V - 1), temperature=st.sampled_from([0.5, 1.0, 2.0]))
@pytest.mark.parametrize("tail_policy", ["bucket", "renormalise"])
def test_value_and_gradient_are_those_of_the_dense_reference(
    tail_policy: str, seed: int, k: int, temperature: float
) -> None:
    teacher, logits = teacher_of(seed, temperature), student_of(seed).requires_grad_()
    indices, logprobs, tail = top_of(teacher, k)
    is_bucket = tail_policy == "bucket"
    reference = (dense_bucket if is_bucket else dense_renormalised)(teacher, logits, k, temperature)
    loss = distillation_loss(
        logits.float(), indices, logprobs.float(), tail.float() if is_bucket else None, FULL, temperature
    )
    torch.testing.assert_close(loss.double(), reference, atol=1e-4, rtol=1e-5)
    (expected,) = torch.autograd.grad(reference, logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 4, V - 1])
def test_distillation_is_zero_at_agreement_and_positive_elsewhere(k: int, temperature: float) -> None:
    teacher = teacher_of(0, temperature)
    indices, logprobs, tail = top_of(teacher, k)
    logits = (teacher * temperature).clamp(min=-200).float().requires_grad_()
    loss = distillation_loss(logits, indices, logprobs.float(), tail.float(), FULL, temperature)
    loss.backward()
    assert abs(loss) < 1e-4 and logits.grad is not None and logits.grad.abs().max() < 1e-5
    other = distillation_loss(logits + student_of(1), indices, logprobs, tail, FULL, temperature)
    assert other > 0.1


def test_renormalised_distillation_is_zero_where_the_student_keeps_to_the_candidates() -> None:
    indices, logprobs, _ = top_of(teacher_of(0, 1.0), 4)
    logits = torch.full((B, U, V), -200.0).scatter(-1, indices, logprobs.float() + 3)
    assert abs(distillation_loss(logits, indices, logprobs, None, FULL, 1.0)) < 1e-4


@pytest.mark.parametrize("tail_policy", ["bucket", "renormalise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_stay_finite_with_a_peaked_teacher_and_a_sure_student(
    tail_policy: str, dtype: torch.dtype
) -> None:
    indices, logprobs, _ = top_of(teacher_of(0, 1.0, sharpness=60.0), 4)
    tail = torch.full((B, U), -80.0)
    tail[0] = -torch.inf
    for scale in (1.0, 50.0, 3000.0):
        logits = (scale * student_of(3)).to(dtype).requires_grad_()
        loss = distillation_loss(
            logits, indices, logprobs.float(), tail if tail_policy == "bucket" else None, FULL, 1.0
        )
        loss.backward()
        assert loss.isfinite() and loss.dtype == torch.float32
        assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("tail_policy", ["bucket", "renormalise"])
def test_a_candidate_of_no_mass_contributes_nothing_wherever_its_index_points(tail_policy: str) -> None:
    teacher, logits = teacher_of(0, 1.0), student_of(0).float().requires_grad_()
    indices, logprobs, _ = top_of(teacher, 4)
    dropped = logprobs.clone()
    dropped[..., 2] = -torch.inf
    tail = torch.log1p(-dropped.exp().sum(-1))
    results = []
    for filling in (0, int(indices[0, 0, 0]), V - 1):  # nothing, a live candidate, <eos>
        pointed = indices.clone()
        pointed[..., 2] = filling
        loss = distillation_loss(
            logits, pointed, dropped, tail if tail_policy == "bucket" else None, FULL, 1.0
        )
        results.append((loss, torch.autograd.grad(loss, logits)[0]))
    without = [0, 1, 3]
    loss = distillation_loss(
        logits, indices[..., without], dropped[..., without],
        tail if tail_policy == "bucket" else None, FULL, 1.0,
    )  # fmt: skip
    results.append((loss, torch.autograd.grad(loss, logits)[0]))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_a_position_whose_candidates_all_left_teaches_its_tail_alone() -> None:
    logits = student_of(0).float().requires_grad_()
    indices = torch.zeros(B, U, 4, dtype=torch.int64)
    logprobs, tail = torch.full((B, U, 4), -torch.inf), torch.zeros(B, U)
    for tail_logprob in (tail, None):
        loss = distillation_loss(logits, indices, logprobs, tail_logprob, FULL, 1.0)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert abs(loss) < 1e-5 and gradient.abs().max() < 1e-6


def test_masked_positions_count_for_nothing_even_where_they_hold_rubbish() -> None:
    indices, logprobs, tail = top_of(teacher_of(0, 1.0), 4)
    logits = student_of(0).float()
    kept = [slice(0, 5), slice(0, 2), slice(0, 0)]
    mask = mask_of(5, 2, 0)
    rubbish = torch.where(mask.unsqueeze(-1), logits, 1e4 * logits).requires_grad_()
    logprobs_padded = logprobs.masked_fill(~mask.unsqueeze(-1), -torch.inf)
    loss = distillation_loss(
        rubbish, indices, logprobs_padded, tail.masked_fill(~mask, -torch.inf), mask, 1.0
    )
    (gradient,) = torch.autograd.grad(loss, rubbish)
    parts = [
        distillation_loss(
            logits[row : row + 1, span],
            indices[row : row + 1, span],
            logprobs[row : row + 1, span],
            tail[row : row + 1, span],
            torch.ones_like(tail[row : row + 1, span], dtype=torch.bool),
            1.0,
        )
        for row, span in enumerate(kept)
    ]
    torch.testing.assert_close(loss, torch.stack(parts).sum(), check_dtype=False)
    assert gradient[~mask].abs().max() == 0


def test_an_empty_mask_is_a_zero_that_still_has_a_graph() -> None:
    indices, logprobs, tail = top_of(teacher_of(0, 1.0), 4)
    logits = student_of(0).requires_grad_()
    loss = distillation_loss(logits, indices, logprobs, tail, mask_of(0, 0, 0), 1.0)
    loss.backward()
    assert loss == 0 and logits.grad is not None and logits.grad.abs().max() == 0
    targets = torch.full((B, U), -100)
    cross_entropy = smoothed_cross_entropy(logits, targets, 0.1)
    assert cross_entropy == 0 and cross_entropy.requires_grad


def test_a_sum_of_micro_batches_is_the_batch() -> None:
    indices, logprobs, tail = top_of(teacher_of(0, 1.0), 4)
    logits = student_of(0)
    whole = distillation_loss(logits, indices, logprobs, tail, FULL, 2.0)
    parts = [
        distillation_loss(*(part[row : row + 1] for part in (logits, indices, logprobs, tail, FULL)), 2.0)
        for row in range(B)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_the_smoothed_target(smoothing: float) -> None:
    logits = student_of(0)
    targets = torch.randint(0, V, (B, U))
    targets[1, 2:] = -100
    kept = targets >= 0
    dense = functional.one_hot(targets.clamp(min=0), V) * (1 - smoothing) + smoothing / V
    expected = -(dense * logits.log_softmax(-1)).sum(-1)[kept].sum()
    torch.testing.assert_close(
        smoothed_cross_entropy(logits, targets, smoothing).double(), expected, atol=1e-4, rtol=1e-5
    )


def test_ctc_sums_over_every_path_of_every_utterance() -> None:
    """Against brute force: all paths of 4 frames over blank and 2 units."""
    logits = torch.randn(2, 4, 3, dtype=torch.float64)
    units, unit_lengths = torch.tensor([[1, 1], [2, 7]]), torch.tensor([2, 1])
    frame_lengths = torch.tensor([4, 3])
    expected = torch.zeros((), dtype=torch.float64)
    for row, (length, wanted) in enumerate(((4, [1, 1]), (3, [2]))):
        probability = torch.zeros((), dtype=torch.float64)
        for path in torch.cartesian_prod(*[torch.arange(3)] * length):
            merged = path.unique_consecutive()
            if merged[merged != 0].tolist() == wanted:
                scores = logits[row, :length].log_softmax(-1)
                probability += scores.gather(1, path.unsqueeze(1)).sum().exp()
        expected -= probability.log()
    torch.testing.assert_close(
        ctc_loss(logits, frame_lengths, units, unit_lengths).double(), expected, atol=1e-5, rtol=1e-5
    )


def test_ctc_is_infinite_not_zero_where_units_do_not_fit() -> None:
    loss = ctc_loss(torch.zeros(1, 2, 3), torch.tensor([2]), torch.tensor([[1, 1]]), torch.tensor([2]))
    assert loss.isinf()


def test_ctc_computes_in_float32_from_bfloat16() -> None:
    logits = torch.randn(1, 6, 4)
    arguments = (torch.tensor([6]), torch.tensor([[1, 2]]), torch.tensor([2]))
    with torch.autocast("cpu", torch.bfloat16):
        loss = ctc_loss(logits.bfloat16(), *arguments)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ctc_loss(logits, *arguments), atol=0.1, rtol=0.02)
