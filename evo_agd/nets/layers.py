"""AGD's searched layer, elastic: four operators and any width in one set of weights.

What an operator adds to is carried unchanged where it can be: the 1x1 and 3x3 convolutions and the
skips start as the identity, so that a channel means the same behind every operator and every width
from the first step on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.nets.elastic import ElasticConv
from evo_agd.nets.norm import normalise
from evo_agd.space.layers import EXPANSION, Layer

START = 0.1  # factor on the initial weights beside the identity


class ElasticLayer(nn.Module):
    """(N, C, H, W) to (N, width, H, W): one of AGD's operators.

    Args:
        c_in: input channels, the most held.
        choices: what it can be; a student's layer is one of them, which is then its default.
        norm: instance norm behind each convolution, as in the translation space.
        bias: behind each convolution, as where norms are frozen.
    """

    def __init__(
        self, c_in: int, choices: Iterable[Layer], *, norm: bool, bias: bool = False
    ) -> None:
        super().__init__()
        choices = list(choices)
        self.own = choices[0]
        self.norm = norm
        width = max(c.width for c in choices)
        kinds = {c.operator for c in choices}
        student = len(choices) == 1
        conv = partial(_carrying, bias=bias)
        skips = kinds & {"residual", "inverted"} and not (student and c_in == width)
        self.point = conv(c_in, width, 1) if "conv1x1" in kinds else None
        self.spatial = conv(c_in, width, 3) if "conv3x3" in kinds else None
        self.first = conv(c_in, width, 3) if "residual" in kinds else None
        self.second = conv(width, width, 3) if "residual" in kinds else None
        hidden = EXPANSION * c_in
        self.expand = conv(c_in, hidden, 1) if "inverted" in kinds else None
        self.depthwise = _depthwise(hidden, bias=bias) if "inverted" in kinds else None
        self.project = conv(hidden, width, 1) if "inverted" in kinds else None
        self.skip = conv(c_in, width, 1) if skips else None
        if not norm:
            with torch.no_grad():
                for layer in (self.second, self.project):
                    if layer is not None:
                        layer.weight.mul_(START)

    def _normed(self, x: Tensor) -> Tensor:
        return normalise(x) if self.norm else x

    def forward(self, x: Tensor, choice: Layer | None = None) -> Tensor:
        """Be the chosen layer; without a choice, the one that a student's layer is."""
        choice = choice or self.own
        width = choice.width
        if choice.operator == "conv1x1":
            assert self.point is not None
            return F.relu(self._normed(self.point(x, width)))
        if choice.operator == "conv3x3":
            assert self.spatial is not None
            return F.relu(self._normed(self.spatial(x, width)))
        if choice.operator == "residual":
            assert self.first is not None and self.second is not None
            change = self.second(F.relu(self._normed(self.first(x, width))), width)
        else:
            assert self.expand is not None and self.depthwise is not None
            assert self.project is not None
            hidden = F.relu(self._normed(self.expand(x, EXPANSION * x.shape[1])))
            hidden = F.relu(self._normed(self.depthwise(hidden, hidden.shape[1])))
            change = self.project(hidden, width)
        carried = x
        if x.shape[1] != width:
            assert self.skip is not None
            carried = self._normed(self.skip(x, width))
        return F.relu(self._normed(change) + carried)

    def cut(self, choice: Layer, c_in: int) -> ElasticLayer:
        """The fixed layer of this choice, with a copy of this one's weights."""
        child = ElasticLayer(c_in, [choice], norm=self.norm)
        width, hidden = choice.width, EXPANSION * c_in
        sizes = {
            "point": (c_in, width, 1),
            "spatial": (c_in, width, 3),
            "first": (c_in, width, 3),
            "second": (width, width, 3),
            "expand": (c_in, hidden, 1),
            "depthwise": (hidden, hidden, 3),
            "project": (hidden, width, 1),
            "skip": (c_in, width, 1),
        }
        for name, size in sizes.items():
            if getattr(child, name) is not None:
                setattr(child, name, getattr(self, name).cut(*size))
        return child


def fixed_chain(
    layers: Sequence[Layer], c_in: int, *, norm: bool, bias: bool = False
) -> nn.Sequential:
    """Student layers in a row behind ``c_in`` channels."""
    made = []
    for layer in layers:
        made.append(ElasticLayer(c_in, [layer], norm=norm, bias=bias))
        c_in = layer.width
    return nn.Sequential(*made)


def cut_chain(elastic: Sequence[ElasticLayer], layers: Sequence[Layer], c_in: int) -> nn.Sequential:
    """Student layers in a row with a copy of the elastic layers' weights."""
    made = []
    for source, layer in zip(elastic, layers, strict=True):
        made.append(source.cut(layer, c_in))
        c_in = layer.width
    return nn.Sequential(*made)


def _carrying(c_in: int, c_out: int, kernel: int, *, bias: bool) -> ElasticConv:
    """A convolution that starts by passing its first channels on."""
    layer = ElasticConv(c_in, c_out, kernel, bias=bias)
    middle = kernel // 2
    with torch.no_grad():
        layer.weight.mul_(START)
        for channel in range(min(c_in, c_out)):
            layer.weight[channel, channel, middle, middle] += 1.0
    return layer


def _depthwise(channels: int, *, bias: bool) -> ElasticConv:
    layer = ElasticConv(channels, channels, 3, depthwise=True, bias=bias)
    with torch.no_grad():
        layer.weight.mul_(START)
        layer.weight[:, 0, 1, 1] += 1.0
    return layer
