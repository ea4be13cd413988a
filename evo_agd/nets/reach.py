"""How far a network looks: what a change of its input reaches in its output."""

from __future__ import annotations

import torch
from torch import Tensor

from evo_agd.nets.probing import Fitted, picture

FIRST, MOST = 32, 128  # input pixels on each side of the line that a probe changes at
ACROSS = 40  # pixels along that line: as many samples of what may get through


def _pairs(length: int, across: int) -> list[tuple[Tensor, Tensor]]:
    """Pictures (1, 3, across, length), noise and smooth, each with another one to change to."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(2, 3, across, length, generator=generator)
    smooth = picture(across, length)
    return [(noise[:1], noise[1:]), (smooth, 1 - smooth.flip(3))]


def _beyond(net: Fitted, before: Tensor, after: Tensor, half: int, turned: bool) -> int:
    """How many input pixels a change behind column ``half`` reaches over it, either way."""
    furthest = 0
    for behind in (True, False):
        changed = before.clone()
        columns = slice(half, None) if behind else slice(None, half)
        changed[..., columns] = after[..., columns]
        pair = (before, changed)
        if turned:
            first, second = (net(x.transpose(2, 3)).transpose(2, 3) for x in pair)
        else:
            first, second = map(net, pair)
        (where,) = torch.nonzero((first != second).flatten(0, 2).any(0), as_tuple=True)
        if len(where) == 0:
            continue
        if behind:
            reached = half - int(where[0]) // net.scale
        else:
            reached = int(where[-1]) // net.scale - (half - 1)
        furthest = max(furthest, reached)
    return furthest


def reach(net: Fitted) -> int | None:
    """The radius of the receptive field in input pixels; None where it is the whole picture.

    Everything on one side of a line is changed, and the last pixel on the other side that answers
    differently is looked for, in four directions; what a tile's seam would do, and more than one
    changed pixel tells through the rounding of an INT8 network. More than 128 pixels count as the
    whole picture.

    Args:
        net: takes multiples of ``net.multiple`` as they are, larger than ``net.smallest``.
    """

    def rounded(side: int) -> int:
        return -(-side // net.multiple) * net.multiple

    half = FIRST
    while half <= MOST:
        length = rounded(half)
        pairs = _pairs(2 * length, max(rounded(ACROSS), net.smallest))
        found = max(
            _beyond(net, *pair, length, turned) for pair in pairs for turned in (False, True)
        )
        # Strides and patches: where a line lies between them decides how far a change gets.
        found += net.multiple if net.multiple > 1 else 0
        if found < half:
            return found
        half *= 2
    return None
