"""Devices and precision are chosen aloud; these tests bend the machine's answers, never the code's."""

from __future__ import annotations

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


@pytest.mark.parametrize("unit, dtype", [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_auto_precision_follows_the_processors_units(
    monkeypatch: pytest.MonkeyPatch, unit: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: True, "avx512_f": True})
    precision = device.choose_precision("auto", CPU)
    assert precision.dtype == dtype
    assert "bfloat16" in precision.reason


def test_emulated_bfloat16_is_refused_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(StudentError, match="float32"):
        device.choose_precision("bfloat16", CPU)
    assert device.choose_precision("float32", CPU).dtype == torch.float32
