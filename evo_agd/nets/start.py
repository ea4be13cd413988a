"""Initial weights with which a translation network is near its input.

A generator without a skip has to learn to reproduce its input before it can learn to change it,
which takes most of a small budget. Here the first channels of stem and header carry the picture
down and up again, and the layers between pass their first channels on (``nets/layers.py``).

Each quantity (luma, two differences of colour) travels as a pair of channels, one for its positive
and one for its negative part, since instance norm and ReLU stand between. Luma keeps all 16 pixels
of a 4x4 field, colour the means of its quarters: 6, 24 and 48 channels at full, half and quarter
resolution. What is left of the widths starts at random as usual; where a width is smaller, what
does not fit is lost.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

# Luma and two differences of colour, and back (ITU-R BT.601, full range).
TO_LUMA = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))
FROM_LUMA = ((1.0, 0.0, 1.402), (1.0, -0.344, -0.714), (1.0, 1.772, 0.0))
# Spread of photographs in -1..1, over what the norms make of it, for each quantity.
SPREAD = (0.3, 0.07, 0.07)
REST = 0.1  # factor on the random weights of the last convolution
PARTS = ((0, 1.0), (1, -1.0))  # positive and negative part of a quantity
FIELD = ((0, 0), (0, 1), (1, 0), (1, 1))  # pixels of a 2x2 field


def _full(quantity: int, part: int) -> int:
    return 2 * quantity + part


def _half(quantity: int, pixel: int, part: int) -> int:
    """Where one pixel of a 2x2 field travels."""
    return 8 * quantity + 2 * pixel + part


def _quarter(quantity: int, outer: int, pixel: int, part: int) -> int:
    """Where a pixel of a 4x4 field of luma, or a quarter of a field of colour, travels."""
    if quantity == 0:
        return 8 * outer + 2 * pixel + part
    return 32 + 8 * (quantity - 1) + 2 * outer + part


def _put(weight: Tensor, to: int, source: int, at: tuple[int, int], value: float) -> None:
    """Set one element of a (to, source, k, k) weight, if there are such channels."""
    if to < weight.shape[0] and source < weight.shape[1]:
        weight[to, source, at[0], at[1]] = value


@torch.no_grad()
def start_at_the_picture(
    down: tuple[Tensor, Tensor, Tensor], up: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Overwrite the weights of the channels that carry the picture.

    Args:
        down: weights of the stem: 7x7, and two 3x3 of stride 2 and padding 1, each (out, in, k, k).
        up: of the header: two transposed 3x3 of stride 2, each (in, out, 3, 3), and 7x7.
    """
    full, half, quarter = down
    full[:6], half[:24], quarter[:48] = 0.0, 0.0, 0.0
    for quantity, (part, sign) in product(range(3), PARTS):
        for colour in range(3):
            _put(full, _full(quantity, part), colour, (3, 3), sign * TO_LUMA[quantity][colour])
        for other, direction in PARTS:
            way = sign * direction
            for pixel, (y, x) in enumerate(FIELD):
                to, source = _half(quantity, pixel, part), _full(quantity, other)
                _put(half, to, source, (1 + y, 1 + x), way)
            for (outer, (y, x)), pixel in product(enumerate(FIELD), range(4)):
                to, source = _quarter(quantity, outer, pixel, part), _half(quantity, pixel, other)
                share = 1.0 if quantity == 0 else 0.25
                _put(quarter, to, source, (1 + y, 1 + x), share * way)
    _start_up(up[0].transpose(0, 1), up[1].transpose(0, 1), up[2])


def _start_up(half: Tensor, full: Tensor, last: Tensor) -> None:
    """The way back; of a transposed convolution, pixel (y, x) of a field takes element 1+y, 1+x."""
    half[:24], full[:6] = 0.0, 0.0
    last.mul_(REST)
    last[:, :6] = 0.0
    for quantity, (part, sign) in product(range(3), PARTS):
        for other, direction in PARTS:
            way = sign * direction
            for (outer, (y, x)), pixel in product(enumerate(FIELD), range(4)):
                to, source = _half(quantity, pixel, part), _quarter(quantity, outer, pixel, other)
                _put(half, to, source, (1 + y, 1 + x), way)
            for pixel, (y, x) in enumerate(FIELD):
                to, source = _full(quantity, part), _half(quantity, pixel, other)
                _put(full, to, source, (1 + y, 1 + x), way)
        for colour in range(3):
            value = sign * SPREAD[quantity] * FROM_LUMA[colour][quantity]
            _put(last, colour, _full(quantity, part), (3, 3), value)
