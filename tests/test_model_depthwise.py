"""The depthwise convolution equals PyTorch's, forward and backward, whatever the lengths."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from student.model.depthwise import DepthwiseConvolution


@pytest.mark.parametrize(("frames", "width"), [(1, 3), (4, 15), (50, 15), (67, 31)])
def test_values_and_gradients_equal_conv1d_in_float64(frames: int, width: int) -> None:
    torch.manual_seed(frames)
    ours = DepthwiseConvolution(6, width)
    x = torch.randn(3, frames, 6, requires_grad=True)
    upstream = torch.randn(3, frames, 6)
    ours(x).backward(upstream)
    found = (ours(x).detach(), x.grad, ours.weight.grad, ours.bias.grad)
    weight, bias = (parameter.detach().double().requires_grad_() for parameter in (ours.weight, ours.bias))
    reference_x = x.detach().double().requires_grad_()
    expected = functional.conv1d(reference_x.transpose(1, 2), weight, bias, padding=width // 2, groups=6)
    expected.transpose(1, 2).backward(upstream.double())
    wanted = (expected.transpose(1, 2).detach(), reference_x.grad, weight.grad, bias.grad)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


def test_bfloat16_input_is_summed_in_float32_and_rounded_once() -> None:
    convolution = DepthwiseConvolution(4, 5)
    x = torch.randn(2, 9, 4).bfloat16()
    assert torch.equal(convolution(x), convolution(x.float()).bfloat16())
