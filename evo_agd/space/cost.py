"""What an architecture costs, counted from its layers without building it.

Convention: ``gmacs`` are multiply-accumulates of the convolutions / 1e9 at the space's input
size, biases and activations not counted; ``memory_mb`` is parameters x 4 / 1e6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """One convolution: channels, square kernel, groups, and its output grid.

    ``zoom`` is the output's side length over the network input's (2 after one x2 upsampling).
    """

    c_in: int
    c_out: int
    kernel: int
    groups: int = 1
    zoom: Fraction = Fraction(1)

    @property
    def weights(self) -> int:
        return self.c_out * (self.c_in // self.groups) * self.kernel**2

    @property
    def params(self) -> int:
        """Weights and one bias per output channel."""
        return self.weights + self.c_out

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for a network input of ``height`` x ``width`` pixels."""
        return int(self.weights * (height * self.zoom) * (width * self.zoom))


@dataclass(frozen=True, slots=True)
class Cost:
    """The analytic objectives of one architecture."""

    gmacs: float
    params: int

    @property
    def memory_mb(self) -> float:
        return self.params * 4 / 1e6


def cost_of(layers: Iterable[ConvLayer], height: int, width: int) -> Cost:
    """Sum the layers up at the given input size."""
    macs = params = 0
    for layer in layers:
        macs += layer.macs(height, width)
        params += layer.params
    return Cost(macs / 1e9, params)
