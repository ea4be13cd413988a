"""The elastic convolutions: one weight tensor that holds every narrower and smaller convolution.

The first channels of a wide layer are the narrow layer, the centre of a large kernel is the small
one (Once-for-All, Cai et al., ICLR 2020). A student holds the same class at its own size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of LeakyReLU, as in ESRGAN and AGD


def activate(x: Tensor) -> Tensor:
    """LeakyReLU as ESRGAN has it."""
    return F.leaky_relu(x, SLOPE)


def activate_(x: Tensor) -> Tensor:
    """:func:`activate` in place, for what nobody else holds, such as a convolution's output.

    Its gradient needs the output only, so training may do it too.
    """
    return F.leaky_relu_(x, SLOPE)


State = tuple[Tensor, ...]


class Step(NamedTuple):
    """One of the things that a path does in turn, from the input on.

    Two paths whose first keys are equal have the same state behind them: what it is worth is that
    a search need not compute it twice (:mod:`evo_agd.evolve.scoring`). A step leaves the state
    that it is given as it is.
    """

    key: Hashable
    run: Callable[[State], State]


def walk(steps: list[Step], x: Tensor) -> Tensor:
    """What the steps of a path make of an input."""
    state: State = (x,)
    for step in steps:
        state = step.run(state)
    return state[0]


class ElasticConv(nn.Module):
    """Same-padded 2-d convolution whose output channels and kernel can be chosen per call.

    Args:
        c_in, c_out, kernel: the largest sizes held; ``kernel`` is odd.
        depthwise: one filter per channel; then ``c_in == c_out``.
        bias: whether there is one per output channel.
        stride: of the convolution; the output has 1/stride of the input's sides.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        *,
        depthwise: bool = False,
        bias: bool = True,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.depthwise = depthwise
        self.stride = stride
        per_group = 1 if depthwise else c_in
        self.weight = nn.Parameter(torch.empty(c_out, per_group, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        nn.init.kaiming_normal_(self.weight, a=SLOPE)

    def slices(self, c_in: int, c_out: int, kernel: int) -> tuple[Tensor, Tensor | None]:
        """Weight (c_out, c_in or 1, kernel, kernel) and bias of the smaller convolution inside."""
        edge = (self.weight.shape[-1] - kernel) // 2
        inside = slice(edge, edge + kernel)
        per_group = 1 if self.depthwise else c_in
        bias = None if self.bias is None else self.bias[:c_out]
        return self.weight[:c_out, :per_group, inside, inside], bias

    def forward(self, x: Tensor, c_out: int | None = None, kernel: int | None = None) -> Tensor:
        """Convolve (N, C, H, W) with the first C input channels; None means the full size."""
        c_out = c_out or self.weight.shape[0]
        kernel = kernel or self.weight.shape[-1]
        weight, bias = self.slices(x.shape[1], c_out, kernel)
        groups = x.shape[1] if self.depthwise else 1
        return F.conv2d(x, weight, bias, self.stride, padding=kernel // 2, groups=groups)

    def cut(self, c_in: int, c_out: int, kernel: int) -> ElasticConv:
        """A copy that holds just the smaller convolution."""
        weight, bias = self.slices(c_in, c_out, kernel)
        child = ElasticConv(
            c_in,
            c_out,
            kernel,
            depthwise=self.depthwise,
            bias=bias is not None,
            stride=self.stride,
        )
        child.weight = nn.Parameter(weight.detach().clone())
        if bias is not None:
            child.bias = nn.Parameter(bias.detach().clone())
        return child


class ElasticTransposed(nn.Module):
    """Transposed 3x3 convolution of stride 2; doubles both sides.

    Args:
        c_in, c_out: the largest sizes held.
        bias: whether there is one per output channel.
    """

    def __init__(self, c_in: int, c_out: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_in, c_out, 3, 3))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        nn.init.kaiming_normal_(self.weight, a=SLOPE, mode="fan_out")

    def forward(self, x: Tensor, c_out: int | None = None) -> Tensor:
        """(N, C, H, W) to (N, c_out, 2H, 2W)."""
        c_out = c_out or self.weight.shape[1]
        weight = self.weight[: x.shape[1], :c_out]
        bias = None if self.bias is None else self.bias[:c_out]
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)

    def cut(self, c_in: int, c_out: int) -> ElasticTransposed:
        """A copy that holds just the smaller convolution."""
        child = ElasticTransposed(c_in, c_out, bias=self.bias is not None)
        child.weight = nn.Parameter(self.weight[:c_in, :c_out].detach().clone())
        if self.bias is not None:
            child.bias = nn.Parameter(self.bias[:c_out].detach().clone())
        return child
