"""From features at low resolution to an RGB correction at high resolution.

Each starts small: the skeleton adds it to a bilinear enlargement of the input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.nets.elastic import ElasticConv, activate_

START = 0.1  # factor on the initial weights of the last convolution
# A 4x4 kernel W of stride 2 does what a 3x3 one w does behind a nearest-neighbour enlargement by 2:
# W = ENLARGE w ENLARGE^T, as each pixel of the input is seen by up to two rows of w at once.
ENLARGE = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
LANES = 8  # channels that convolution kernels for CPUs handle at once


class Upsampler(nn.Module, ABC):
    """What the skeleton needs of an upsampler, elastic or fixed."""

    @abstractmethod
    def __init__(self, features: int, width: int, scale: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        """(N, F, H, W) to (N, 3, H * scale, W * scale); None means the largest width held."""

    @abstractmethod
    def cut(self, features: int, width: int) -> Upsampler:
        """The fixed upsampler of this size, with a copy of this one's weights."""


class Shuffle(Upsampler):
    """One convolution and a sub-pixel shuffle (ESPCN, Shi et al., CVPR 2016); has no width."""

    def __init__(self, features: int, width: int, scale: int) -> None:
        super().__init__(features, width, scale)
        self.scale = scale
        self.conv = ElasticConv(features, 3 * scale**2, 3)
        with torch.no_grad():
            self.conv.weight.mul_(START)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        return _shuffled(self.conv, x, 3, self.scale)

    def cut(self, features: int, width: int) -> Shuffle:
        child = Shuffle(features, width, self.scale)
        child.conv = self.conv.cut(features, 3 * self.scale**2, 3)
        return child


class ShuffleTwice(Upsampler):
    """A sub-pixel shuffle by 2 to ``width`` channels, an activation, a shuffle to the picture."""

    def __init__(self, features: int, width: int, scale: int) -> None:
        super().__init__(features, width, scale)
        self.rest = scale // 2
        self.first = ElasticConv(features, 4 * width, 3)
        self.last = ElasticConv(width, 3 * self.rest**2, 3)
        with torch.no_grad():
            self.last.weight.mul_(START)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        # pixel_shuffle counts channels first and phases last: a prefix of 4w channels is w whole
        # ones, so narrow upsamplers are prefixes of wide ones here too.
        y = _shuffled(self.first, x, width or self.first.weight.shape[0] // 4, 2)
        return _shuffled(self.last, activate_(y), 3, self.rest)

    def cut(self, features: int, width: int) -> ShuffleTwice:
        child = ShuffleTwice(features, width, 2 * self.rest)
        child.first = self.first.cut(features, 4 * width, 3)
        child.last = self.last.cut(width, 3 * self.rest**2, 3)
        return child


def _shuffled(conv: ElasticConv, x: Tensor, channels: int, by: int) -> Tensor:
    """A convolution and a sub-pixel shuffle to so many channels.

    In inference mode the convolution has its outputs in the order in which the enlarged picture has
    them in memory, channels last: then whole rows of a phase are moved, in half of the time.
    """
    if not torch.is_inference_mode_enabled():
        return F.pixel_shuffle(conv(x, channels * by**2), by)
    weight, bias = conv.slices(x.shape[1], channels * by**2, conv.weight.shape[-1])
    weight = _phases_first(weight, channels)
    bias = None if bias is None else _phases_first(bias, channels)
    y = F.conv2d(x, weight, bias, padding="same").permute(0, 2, 3, 1)
    n, height, width, _ = y.shape
    y = y.reshape(n, height, width, by, by * channels).permute(0, 1, 3, 2, 4)
    return y.reshape(n, height * by, width * by, channels).permute(0, 3, 1, 2)


def _phases_first(part: Tensor, channels: int) -> Tensor:
    return part.unflatten(0, (channels, -1)).transpose(0, 1).flatten(0, 1)


class Nearest(Upsampler):
    """Nearest-neighbour enlargement in two steps, each followed by a convolution, then one more.

    The tail of ESRGAN without its second convolution at full resolution, at a searchable width.
    """

    def __init__(self, features: int, width: int, scale: int) -> None:
        super().__init__(features, width, scale)
        self.scale = scale
        self.first = ElasticConv(features, width, 3)
        self.second = ElasticConv(width, width, 3)
        self.last = ElasticConv(width, 3, 3)
        with torch.no_grad():
            self.last.weight.mul_(START)

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        width = width or self.first.weight.shape[0]
        if torch.is_inference_mode_enabled():
            return self._unenlarged(x, width)
        if self.scale > 2:
            x = F.interpolate(x, scale_factor=self.scale // 2, mode="nearest")
        x = activate_(self.first(x, width))
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self._finish(activate_(self.second(x, width)))

    def _unenlarged(self, x: Tensor, width: int) -> Tensor:
        """The same to rounding without ever making an enlarged picture, for inference only.

        An enlargement and a convolution are one transposed convolution: 4/9 of the
        multiplications, and none of the memory traffic. (Training, export and INT8 simulation do
        as the network is described.)
        """
        inside = -(-width // LANES) * LANES
        weight, bias = self.first.slices(x.shape[1], width, 3)
        if self.scale > 2:
            x = _enlarged(x, weight, bias, inside)
        else:
            weight = F.pad(weight, (0,) * 6 + (0, inside - width))
            x = activate_(F.conv2d(x, weight, _padded(bias, inside), padding=1))
        weight, bias = self.second.slices(width, width, 3)
        x = _enlarged(x, weight, bias, inside)
        return self._finish_lanes(x, width)

    def _finish_lanes(self, x: Tensor, width: int) -> Tensor:
        return _lanes(x, *self.last.slices(width, 3, 3))

    def _finish(self, x: Tensor) -> Tensor:
        return self.last(x)

    def cut(self, features: int, width: int) -> Nearest:
        child = Nearest(features, width, self.scale)
        child.first = self.first.cut(features, width, 3)
        child.second = self.second.cut(width, width, 3)
        child.last = self.last.cut(width, 3, 3)
        return child


def _enlarged(x: Tensor, weight: Tensor, bias: Tensor | None, channels: int) -> Tensor:
    """Nearest x2, a 3x3 convolution to ``channels``, of which the last may be zeros, activation."""
    rule = ENLARGE.to(weight)
    kernel = (rule @ weight @ rule.T).transpose(0, 1)
    missing = (0,) * 4 + (0, channels - weight.shape[0], 0, x.shape[1] - weight.shape[1])
    kernel = F.pad(kernel, missing).contiguous(memory_format=torch.channels_last)
    bias = _padded(bias, channels)
    return activate_(F.conv_transpose2d(x, kernel, bias, stride=2, padding=1))


def _lanes(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of an input whose last channels are zeros that the weight knows not of."""
    missing = (0,) * 4 + (0, x.shape[1] - weight.shape[1])
    return F.conv2d(x, F.pad(weight, missing), bias, padding=1)


def _padded(bias: Tensor | None, channels: int) -> Tensor | None:
    return None if bias is None else F.pad(bias, (0, channels - len(bias)))


class Esrgan(Nearest):
    """:class:`Nearest` with one more convolution at full resolution: the tail of ESRGAN and AGD."""

    def __init__(self, features: int, width: int, scale: int) -> None:
        super().__init__(features, width, scale)
        self.third = ElasticConv(width, width, 3)

    def _finish(self, x: Tensor) -> Tensor:
        return self.last(activate_(self.third(x, x.shape[1])))

    def _finish_lanes(self, x: Tensor, width: int) -> Tensor:
        weight, bias = self.third.slices(width, width, 3)
        weight = F.pad(weight, (0,) * 6 + (0, x.shape[1] - width))
        x = activate_(_lanes(x, weight, _padded(bias, x.shape[1])))
        return super()._finish_lanes(x, width)

    def cut(self, features: int, width: int) -> Esrgan:
        child = Esrgan(features, width, self.scale)
        child.first = self.first.cut(features, width, 3)
        child.second = self.second.cut(width, width, 3)
        child.third = self.third.cut(width, width, 3)
        child.last = self.last.cut(width, 3, 3)
        return child


UPSAMPLER_CLASSES: dict[str, Callable[[int, int, int], Upsampler]] = {
    "shuffle": Shuffle,
    "shuffle_twice": ShuffleTwice,
    "nearest": Nearest,
    "esrgan": Esrgan,
}
