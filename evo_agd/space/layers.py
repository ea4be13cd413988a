"""AGD's searched layer: one of four operators and an output width (Fu et al., ICML 2020).

========  ===  ===================================================================
operator  id   convolutions
========  ===  ===================================================================
conv1x1   p    1x1 (AGD's "skip")
conv3x3   c    3x3
residual  r    3x3, 3x3, added to the input
inverted  i    1x1 to four times the input's channels, 3x3 depthwise, 1x1, added to
               the input
========  ===  ===================================================================

Where the number of channels changes, what is added goes through a 1x1 convolution. No biases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from evo_agd.space.cost import ConvLayer

LAYER_OPERATORS = {"conv1x1": "p", "conv3x3": "c", "residual": "r", "inverted": "i"}
EXPANSION = 4  # of the inverted residual
_LETTERS = {letter: operator for operator, letter in LAYER_OPERATORS.items()}
LAYER_PATTERN = r"[pcri]\d+"


@dataclass(frozen=True, slots=True)
class Layer:
    """One searched layer: its operator and its output channels."""

    operator: str
    width: int

    @property
    def name(self) -> str:
        """As in an id: ``c40``."""
        return f"{LAYER_OPERATORS[self.operator]}{self.width}"


def parse_layer(text: str) -> Layer:
    """The layer that has this name."""
    assert re.fullmatch(LAYER_PATTERN, text)
    return Layer(_LETTERS[text[0]], int(text[1:]))


def layer_convolutions(
    layer: Layer, c_in: int, *, zoom: Fraction = Fraction(1), norm: bool = False
) -> tuple[ConvLayer, ...]:
    """The convolutions of one layer behind ``c_in`` channels."""

    def conv(wide: int, out: int, kernel: int, groups: int = 1) -> ConvLayer:
        return ConvLayer(wide, out, kernel, groups, zoom, bias=False, norm=norm)

    width, hidden = layer.width, EXPANSION * c_in
    skip = () if c_in == width else (conv(c_in, width, 1),)
    if layer.operator == "conv1x1":
        return (conv(c_in, width, 1),)
    if layer.operator == "conv3x3":
        return (conv(c_in, width, 3),)
    if layer.operator == "residual":
        return (conv(c_in, width, 3), conv(width, width, 3), *skip)
    return (
        conv(c_in, hidden, 1),
        conv(hidden, hidden, 3, hidden),
        conv(hidden, width, 1),
        *skip,
    )


def chain_convolutions(
    layers: Sequence[Layer], c_in: int, *, zoom: Fraction = Fraction(1), norm: bool = False
) -> tuple[ConvLayer, ...]:
    """The convolutions of layers in a row."""
    found: tuple[ConvLayer, ...] = ()
    for layer in layers:
        found += layer_convolutions(layer, c_in, zoom=zoom, norm=norm)
        c_in = layer.width
    return found
