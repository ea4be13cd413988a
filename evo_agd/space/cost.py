"""What an architecture costs, counted from its layers without building it.

Convention: ``gmacs`` are multiply-accumulates of the convolutions / 1e9 at the space's input
size, biases, norms and activations not counted, transposed convolutions by the multiplications
that they do (on their input's grid; most papers count them on the output's, see
:meth:`ConvLayer.published_macs`); ``memory_mb`` is parameters x 4 / 1e6; ``int8_memory_mb`` are the
bytes of the same parameters in INT8 / 1e6, see :attr:`ConvLayer.int8_bytes`.
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

    @property
    def int8_bytes(self) -> int:
        """What an INT8 convolution computes with: a byte a weight, 4 an output channel's scale and
        4 its bias (int32), as ONNX Runtime quantizes convolutions and transposed ones alike.

        Zero points (0 for every weight) and the biases' own scales (those of input and weights
        multiplied) follow from these or are constant; a QDQ file spells them out, see
        ``tests/deploy/test_int8_memory.py`` for how much that adds.
        """
        return self.weights + 4 * self.c_out * (1 + self.bias)

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for a network input of ``height`` x ``width`` pixels."""
        return self._macs(height * width, self.stride if self.transposed else 1)

    def published_macs(self, height: int, width: int) -> int:
        """As thop and most papers count: transposed convolutions on the output's grid."""
        return self._macs(height * width, 1)

    def _macs(self, pixels: int, reduction: int) -> int:
        """On a grid of ``zoom / reduction``; in integers, which a search counts fast enough."""
        over, under = self.zoom.numerator, self.zoom.denominator * reduction
        return self.weights * pixels * over**2 // under**2


@dataclass(frozen=True, slots=True)
class Cost:
    """The analytic objectives of one architecture; milliseconds where a table is known.

    Attributes:
        int8_bytes: of the INT8 convolutions' tensors, see :attr:`ConvLayer.int8_bytes`.
        latency_ms, latency_int8_ms: sums over the layers, of FP32 and of INT8 ones.
    """

    gmacs: float
    params: int
    int8_bytes: int = 0
    latency_ms: float | None = None
    latency_int8_ms: float | None = None

    @property
    def memory_mb(self) -> float:
        return self.params * 4 / 1e6

    @property
    def int8_memory_mb(self) -> float:
        return self.int8_bytes / 1e6


def cost_of(
    layers: Iterable[ConvLayer],
    height: int,
    width: int,
    table: Mapping[ConvLayer, float] | None = None,
    table_int8: Mapping[ConvLayer, float] | None = None,
) -> Cost:
    """Sum the layers up at the given input size.

    Args:
        table, table_int8: milliseconds of each layer, in FP32 and in INT8.
    """
    found = tuple(layers)

    def milliseconds(of: Mapping[ConvLayer, float] | None) -> float | None:
        return None if of is None else float(sum(of[layer] for layer in found))

    return Cost(
        gmacs=sum(layer.macs(height, width) for layer in found) / 1e9,
        params=sum(layer.params for layer in found),
        int8_bytes=sum(layer.int8_bytes for layer in found),
        latency_ms=milliseconds(table),
        latency_int8_ms=milliseconds(table_int8),
    )
