"""Asking a network what it takes: sizes, scale, channels and the range of its values."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.errors import InputError

Network = Callable[[Tensor], Tensor]

# pix2pix's U-Net for 256x256 halves eight times; most generators do so two to five times.
MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SMALLEST = 8  # pixels a side of a picture that a teacher has to answer

log = logging.getLogger(__name__)


def reason_of(error: BaseException) -> str:
    """An exception as one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Fitted:
    """A network of certain sizes as one of all sizes: pads by reflection and crops.

    Args:
        net: (1, 3, H, W) to (1, 3, H * scale, W * scale).
        scale: output size / input size.
        multiple: what divides H and W.
        smallest: the least H and W.
        layout: the memory format of its input.
    """

    def __init__(
        self, net: Network, scale: int, multiple: int, smallest: int, layout: torch.memory_format
    ) -> None:
        self.net = net
        self.scale = scale
        self.multiple = multiple
        self.smallest = smallest
        self.layout = layout

    def _padded(self, side: int) -> Tensor:
        """Where the pixels of a padded side come from; reflected as often as it takes."""
        m = self.multiple
        target = max(self.smallest, (side + m - 1) // m * m)
        period = max(1, 2 * (side - 1))
        index = torch.arange(target) % period
        return torch.minimum(index, period - index).clamp(max=side - 1)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 3, H * scale, W * scale).

        One picture at a time: a traced network may have its batch of one built in.
        """
        height, width = x.shape[2:]
        rows, columns = self._padded(height), self._padded(width)
        if (len(rows), len(columns)) != (height, width):
            x = x[:, :, rows][..., columns]
        answers = [self.net(one.contiguous(memory_format=self.layout)) for one in x.split(1)]
        return torch.cat(answers).float()[..., : height * self.scale, : width * self.scale]


class Symmetric:
    """A network of the range -1..1 as one of 0..1."""

    def __init__(self, net: Network) -> None:
        self.net = net

    def __call__(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) in 0..1 to the network's answer in 0..1."""
        return self.net(x * 2 - 1) / 2 + 0.5


def picture(height: int, width: int) -> Tensor:
    """Something like a photograph, (1, 3, height, width) in 0..1, always the same.

    Noise of all sizes, the coarser the stronger, as natural images have it (Field, 1987).
    """
    generator = torch.Generator().manual_seed(0)
    layers = [
        F.interpolate(
            torch.randn(1, 3, side, side, generator=generator), (height, width), mode="bilinear"
        )
        / side
        for side in (2, 4, 8, 16, 32)
    ]
    mixed = torch.stack(layers).sum(0)
    low, high = mixed.min(), mixed.max()
    return (mixed - low) / (high - low)


def fit(net: Network, scale: int | None, where: object) -> Fitted:
    """The network for pictures of any size from 8x8.

    Args:
        net: a batch of one picture to one; it may refuse sizes or answer in another size.
        scale: the asked output size / input size; with None it is the network's own.
        where: file or function, for errors.

    Raises:
        InputError: not from RGB to RGB, another scale, or no size is answered.
    """
    reason = ""
    layouts = [torch.channels_last, torch.contiguous_format]
    for layout in layouts if isinstance(net, nn.Module) else layouts[1:]:
        if isinstance(net, nn.Module):
            with contextlib.suppress(RuntimeError):  # 5-d weights have no channels-last form
                net.to(memory_format=layout)
        try:
            multiple, its_scale = _multiple(net, layout, where)
        except _NoSizeError as error:
            reason = str(error)  # a view() inside may want the other layout
            continue
        if scale is None and its_scale >= 1 and its_scale == int(its_scale):
            scale = int(its_scale)
        if scale is None:
            raise InputError(where, "an answer as large as the input, or a multiple", its_scale)
        if its_scale != scale:
            raise InputError(where, f"a teacher of scale {scale}", f"scale {its_scale:g}")
        smallest = _smallest(net, layout, multiple, scale)
        log.info("%s: sizes divisible by %d, at least %d", where, multiple, smallest)
        return Fitted(net, scale, multiple, smallest, layout)
    for channels in (1, 2, 4, 6):
        with contextlib.suppress(Exception):
            answer = _ask(net, torch.rand(1, channels, 96, 96), torch.contiguous_format)
            reason = f"{channels} to {answer.shape[1]} channels"
            break
    raise InputError(where, "a teacher from RGB to RGB, (1, 3, H, W) to the like", reason)


class _NoSizeError(Exception):
    """The network refused all sizes; says what it raised at the last."""


def _ask(net: Network, x: Tensor, layout: torch.memory_format) -> Tensor:
    with torch.inference_mode():
        return net(x.contiguous(memory_format=layout))


def _sides(multiple: int) -> tuple[int, int]:
    """Height and width of a probe: odd times ``multiple``, so divisible by nothing more.

    At least three times: instance norm refuses the 1x1 that is left at the bottom of a network.
    Beyond 32 that would take seconds, for networks that were trained at ``multiple`` itself.
    """
    least = max(-(-24 // multiple), 3 if multiple <= 32 else 1)
    odd = least | 1
    return multiple * odd, multiple * (odd + 2)


def _multiple(net: Network, layout: torch.memory_format, where: object) -> tuple[int, float]:
    """What divides the sizes that the network takes, and output size / input size."""
    reason = other_size = ""
    for multiple in MULTIPLES:
        height, width = _sides(multiple)
        try:
            answer = _ask(net, picture(height, width), layout)
        except Exception as error:  # whatever the user's network raises for a size
            reason = reason_of(error)
            continue
        if not isinstance(answer, Tensor):
            raise InputError(where, "a network that returns one tensor", type(answer).__name__)
        shape = tuple(answer.shape)
        if len(shape) != 4 or shape[0] != 1:
            raise InputError(where, "a picture (1, 3, H, W) as answer", f"shape {shape}")
        if shape[1] != 3:
            raise InputError(where, "a teacher from RGB to RGB", f"3 to {shape[1]} channels")
        if shape[2] * width == shape[3] * height:
            return multiple, shape[2] / height
        other_size = f"{shape[2]}x{shape[3]} pixels in answer to {height}x{width}"
    if other_size:
        raise InputError(where, "an answer as large as the input, or a multiple", other_size)
    raise _NoSizeError(reason)


def _smallest(net: Network, layout: torch.memory_format, multiple: int, scale: int) -> int:
    """The least side that is answered, from the one that a picture of 8x8 is padded to."""
    largest = max(_sides(multiple))
    side = -(-SMALLEST // multiple) * multiple
    while side < largest:
        with contextlib.suppress(Exception):
            if _ask(net, picture(side, side), layout).shape[2:] == (side * scale, side * scale):
                return side
        side *= 2
    return largest


def takes_symmetric(net: Network) -> bool:
    """Whether the network's values are -1..1: its answer in that range goes clearly below 0.

    What ends in a sigmoid or a clamp does not; a network of 0..1 that adds a correction to its
    input does, and needs to be told.

    Args:
        net: (1, 3, H, W) to a picture, any size.
    """
    answer = _ask(net, picture(64, 64) * 2 - 1, torch.contiguous_format)
    return bool((answer < -0.05).float().mean() > 0.01)
