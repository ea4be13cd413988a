"""What an architecture costs, counted from its layers without building it.

Convention: ``gmacs`` are multiply-accumulates of the convolutions / 1e9 at the space's input
size, biases, norms and activations not counted, transposed convolutions by the multiplications
that they do (on their input's grid; most papers count them on the output's, see
:meth:`ConvLayer.published_macs`); ``memory_mb`` is parameters x 4 / 1e6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """One convolution: channels, square kernel, groups, and its output grid.

    ``zoom`` is the output's side length over the network input's (2 after one x2 upsampling).
    ``stride`` is that of the convolution; a ``transposed`` one enlarges by it. ``norm`` says that
    an instance norm follows: it has no parameters and is not counted, but it takes time.
    """

    c_in: int
    c_out: int
    kernel: int
    groups: int = 1
    zoom: Fraction = Fraction(1)
    bias: bool = True
    stride: int = 1
    transposed: bool = False
    norm: bool = False

    @property
    def weights(self) -> int:
        return self.c_out * (self.c_in // self.groups) * self.kernel**2

    @property
    def params(self) -> int:
        """Weights, and one bias per output channel where there are biases."""
        return self.weights + self.bias * self.c_out

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for a network input of ``height`` x ``width`` pixels."""
        grid = self.zoom / self.stride if self.transposed else self.zoom
        return int(self.weights * (height * grid) * (width * grid))

    def published_macs(self, height: int, width: int) -> int:
        """As thop and most papers count: transposed convolutions on the output's grid."""
        return int(self.weights * (height * self.zoom) * (width * self.zoom))


@dataclass(frozen=True, slots=True)
class Cost:
    """The analytic objectives of one architecture; milliseconds where a table is known."""

    gmacs: float
    params: int
    latency_ms: float | None = None

    @property
    def memory_mb(self) -> float:
        return self.params * 4 / 1e6


def cost_of(
    layers: Iterable[ConvLayer],
    height: int,
    width: int,
    table: Mapping[ConvLayer, float] | None = None,
) -> Cost:
    """Sum the layers up at the given input size.

    Args:
        table: milliseconds of each layer.
    """
    macs = params = 0
    milliseconds = 0.0
    for layer in layers:
        macs += layer.macs(height, width)
        params += layer.params
        if table is not None:
            milliseconds += table[layer]
    return Cost(macs / 1e9, params, None if table is None else milliseconds)
