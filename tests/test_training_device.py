"""Devices and precision are chosen aloud; these tests bend the machine's answers, never the code's."""

from __future__ import annotations

import time

import pytest
import torch

from student.errors import StudentError
from student.training import device

CPU = torch.device("cpu")


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("without_cuda")
def test_auto_without_any_gpu_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_NVIDIA_TRACES", ())
    assert device.choose_device("auto") == CPU


@pytest.mark.usefixtures("without_cuda")
def test_auto_beside_a_gpu_that_cannot_be_used_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(device, "_NVIDIA_TRACES", (tmp_path,))
    with pytest.raises(StudentError, match=r"trainer\.device=cpu"):
        device.choose_device("auto")
    assert device.choose_device("cpu") == CPU


@pytest.mark.usefixtures("without_cuda")
@pytest.mark.parametrize("name", ["cuda", "mps", "tpu"])
def test_a_device_that_is_absent_is_an_error(name: str) -> None:
    with pytest.raises(StudentError, match=name):
        device.choose_device(name)


@pytest.mark.parametrize(
    "unit, gain, dtype",
    [
        ("avx512_bf16", 1.9, torch.bfloat16),
        ("avx512_bf16", 0.5, torch.float32),
        ("avx2", 9.0, torch.float32),
    ],
)
def test_auto_precision_is_bfloat16_where_units_for_it_are_faster(
    monkeypatch: pytest.MonkeyPatch, unit: str, gain: float, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True, "avx512_f": True})
    monkeypatch.setattr(device, "bfloat16_gain", lambda: gain)
    precision = device.choose_precision("auto", CPU)
    assert precision.dtype == dtype
    assert "bfloat16" in precision.reason


def test_bfloat16_is_taken_where_it_is_asked_for_though_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(device, "bfloat16_gain", lambda: 0.5)
    assert device.choose_precision("bfloat16", CPU).dtype == torch.bfloat16


def test_one_rank_that_is_faster_in_float32_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ranks(device.Ranks):
        def largest(self, value: int) -> int:
            return max(value, 1)  # the other rank's

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(device, "bfloat16_gain", lambda: 3.0)
    assert device.choose_precision("auto", CPU, Ranks()).dtype == torch.float32
    assert device.choose_precision("auto", CPU).dtype == torch.bfloat16


def test_the_measured_gain_follows_the_time_that_products_take(monkeypatch: pytest.MonkeyPatch) -> None:
    product = torch.mm

    def slower_in_bfloat16(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        time.sleep(0.002 if one.dtype == torch.bfloat16 else 0.0005)
        return product(one, other)

    monkeypatch.setattr(torch, "mm", slower_in_bfloat16)
    assert device.bfloat16_gain(width=8, rounds=5) == pytest.approx(0.25, rel=0.3)


def test_emulated_bfloat16_is_refused_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(StudentError, match="float32"):
        device.choose_precision("bfloat16", CPU)
    assert device.choose_precision("float32", CPU).dtype == torch.float32
