"""Depthwise convolution over time, without the CPU library whose code generator can loop for ever.

oneDNN, as PyTorch 2.11 carries it, hangs while it generates the depthwise kernel of some batches (seen:
B 15, T 50, D 144, kernel 15, bfloat16, in `brdgmm_microkernel`). Shifted products need no generated code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class DepthwiseConvolution(nn.Module):
    """(B, T, D) to (B, T, D): every channel with a kernel of its own, zeros beyond both ends.

    num_kernel_frames : odd
    """

    def __init__(self, num_channels: int, num_kernel_frames: int) -> None:
        super().__init__()
        bound = num_kernel_frames**-0.5  # as nn.Conv1d begins
        self.weight = nn.Parameter(torch.empty(num_channels, 1, num_kernel_frames).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_channels).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """The convolved sequence; on a CPU summed in float32 and rounded to x's dtype once."""
        # torch.compile 2.11 gets the gradients of the function below wrong, without a word
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            num_channels, _, width = self.weight.shape
            convolved = functional.conv1d(
                x.transpose(1, 2), self.weight, self.bias, padding=width // 2, groups=num_channels
            )
            return convolved.transpose(1, 2)
        shifted: Tensor = _ShiftedProducts.apply(x, self.weight.squeeze(1).t(), self.bias)  # type: ignore[no-untyped-call]
        return shifted


class _ShiftedProducts(torch.autograd.Function):
    """Sum over k of x shifted by k times kernel[k]; autograd alone would keep every shifted product.

    x : (B, T, D)     kernel : (K, D)     bias : (D,)
    """

    @staticmethod
    def forward(context: Any, x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        """(B, T, D)."""
        padded = _padded(x, len(kernel))
        context.save_for_backward(padded, kernel)
        context.dtype = x.dtype
        convolved = bias.expand(x.shape).clone()
        for shift, weights in enumerate(kernel):
            convolved.addcmul_(padded[:, shift : shift + x.shape[1]], weights)
        return convolved.to(x.dtype)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, kernel and bias."""
        padded, kernel = context.saved_tensors
        num_frames, last = gradients[0].shape[1], len(kernel) - 1
        padded_gradient = _padded(gradients[0], len(kernel))
        gradient = padded_gradient[:, last // 2 : last // 2 + num_frames]
        for_x = torch.zeros(gradient.shape)
        for shift, weights in enumerate(kernel):
            for_x.addcmul_(padded_gradient[:, last - shift : last - shift + num_frames], weights)
        product = torch.empty_like(for_x)
        for_kernel = [
            torch.mul(padded[:, shift : shift + num_frames], gradient, out=product).sum((0, 1))
            for shift in range(len(kernel))
        ]
        return for_x.to(context.dtype), torch.stack(for_kernel), gradient.sum((0, 1))


def _padded(x: Tensor, width: int) -> Tensor:
    """x in float32 with zeros beyond both ends, written once."""
    margin, (num_utterances, num_frames, num_channels) = width // 2, x.shape
    padded = torch.zeros(num_utterances, num_frames + 2 * margin, num_channels)
    padded[:, margin : margin + num_frames] = x
    return padded
