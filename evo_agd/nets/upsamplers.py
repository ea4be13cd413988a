"""From features at low resolution to an RGB correction at high resolution.

Each starts small: the skeleton adds it to a bilinear enlargement of the input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.nets.elastic import ElasticConv, activate

START = 0.1  # factor on the initial weights of the last convolution


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
        return F.pixel_shuffle(self.conv(x), self.scale)

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
        y = F.pixel_shuffle(self.first(x, width and 4 * width), 2)
        return F.pixel_shuffle(self.last(activate(y)), self.rest)

    def cut(self, features: int, width: int) -> ShuffleTwice:
        child = ShuffleTwice(features, width, 2 * self.rest)
        child.first = self.first.cut(features, 4 * width, 3)
        child.last = self.last.cut(width, 3 * self.rest**2, 3)
        return child


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
        if self.scale > 2:
            x = F.interpolate(x, scale_factor=self.scale // 2, mode="nearest")
        x = activate(self.first(x, width))
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self._finish(activate(self.second(x, width)))

    def _finish(self, x: Tensor) -> Tensor:
        return self.last(x)

    def cut(self, features: int, width: int) -> Nearest:
        child = Nearest(features, width, self.scale)
        child.first = self.first.cut(features, width, 3)
        child.second = self.second.cut(width, width, 3)
        child.last = self.last.cut(width, 3, 3)
        return child


class Esrgan(Nearest):
    """:class:`Nearest` with one more convolution at full resolution: the tail of ESRGAN and AGD."""

    def __init__(self, features: int, width: int, scale: int) -> None:
        super().__init__(features, width, scale)
        self.third = ElasticConv(width, width, 3)

    def _finish(self, x: Tensor) -> Tensor:
        return self.last(activate(self.third(x, x.shape[1])))

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
