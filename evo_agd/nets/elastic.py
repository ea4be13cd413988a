"""The elastic convolution: one weight tensor that holds every narrower and smaller convolution.

The first channels of a wide layer are the narrow layer, the centre of a large kernel is the small
one (Once-for-All, Cai et al., ICLR 2020). A student holds the same class at its own size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of LeakyReLU, as in ESRGAN and AGD


def activate(x: Tensor) -> Tensor:
    """LeakyReLU as ESRGAN has it."""
    return F.leaky_relu(x, SLOPE)


class ElasticConv(nn.Module):
    """Same-padded 2-d convolution whose output channels and kernel can be chosen per call.

    Args:
        c_in, c_out, kernel: the largest sizes held; ``kernel`` is odd.
        depthwise: one filter per channel; then ``c_in == c_out``.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, *, depthwise: bool = False) -> None:
        super().__init__()
        self.depthwise = depthwise
        per_group = 1 if depthwise else c_in
        self.weight = nn.Parameter(torch.empty(c_out, per_group, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out))
        nn.init.kaiming_normal_(self.weight, a=SLOPE)

    def slices(self, c_in: int, c_out: int, kernel: int) -> tuple[Tensor, Tensor]:
        """Weight (c_out, c_in or 1, kernel, kernel) and bias of the smaller convolution inside."""
        edge = (self.weight.shape[-1] - kernel) // 2
        inside = slice(edge, edge + kernel)
        per_group = 1 if self.depthwise else c_in
        return self.weight[:c_out, :per_group, inside, inside], self.bias[:c_out]

    def forward(self, x: Tensor, c_out: int | None = None, kernel: int | None = None) -> Tensor:
        """Convolve (N, C, H, W) with the first C input channels; None means the full size."""
        c_out = c_out or self.weight.shape[0]
        kernel = kernel or self.weight.shape[-1]
        weight, bias = self.slices(x.shape[1], c_out, kernel)
        groups = x.shape[1] if self.depthwise else 1
        return F.conv2d(x, weight, bias, padding=kernel // 2, groups=groups)

    def cut(self, c_in: int, c_out: int, kernel: int) -> ElasticConv:
        """A copy that holds just the smaller convolution."""
        weight, bias = self.slices(c_in, c_out, kernel)
        child = ElasticConv(c_in, c_out, kernel, depthwise=self.depthwise)
        child.weight = nn.Parameter(weight.detach().clone())
        child.bias = nn.Parameter(bias.detach().clone())
        return child
