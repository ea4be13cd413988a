"""The same function as integer kernels like it: plain convolutions at the lowest resolution.

What INT8 leaves of a network's time is mostly its ends: enlarging, moving pixels, convolutions of
few channels at full resolution, transposed convolutions, for which ONNX Runtime has no integer
kernel. All of them are convolutions of the small picture whose output channels are the pixels
(phases) of the large one (Shi et al., "Is the deconvolution layer the same as a convolutional
layer?", 2016). They are written that way here, exactly, and the phases are put in their places once
at the end. As floating point it is no faster; as INT8 it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.nets.build import Student
from evo_agd.nets.elastic import ElasticConv, ElasticTransposed, activate
from evo_agd.nets.super_resolution import SRStudent
from evo_agd.nets.translation import TranslationStudent
from evo_agd.nets.upsamplers import Shuffle, ShuffleTwice

OPSET = 18  # of the operator below
GREY = 0.5  # what the stem of a translation takes for black beyond the edge: 0 of -1..1


def behind_shuffle(weight: Tensor) -> Tensor:
    """A convolution behind a sub-pixel shuffle by 2 as one in front of it.

    Args:
        weight: (C', C, k, k), k odd; of the convolution at twice the resolution, same-padded.

    Returns:
        (C', 2, 2, C, 2, 2, k', k'): output channel and phase, input channel and phase, and a
        kernel of k' = 2 * ceil(k / 4) + 1 at the low resolution, same-padded.
    """
    reach = -(-(weight.shape[-1] // 2) // 2)  # cells to each side
    cells = 2 * reach + 1
    phases = []
    for row in range(2):
        for column in range(2):
            sides = []
            for phase in (column, row):  # F.pad takes the last axis first
                before = 2 * reach + phase - weight.shape[-1] // 2
                sides += [before, 2 * cells - weight.shape[-1] - before]
            phases.append(F.pad(weight, sides))
    stacked = torch.stack(phases, 1).unflatten(1, (2, 2))  # (C', 2, 2, C, 2k', 2k')
    split = stacked.unflatten(-1, (cells, 2)).unflatten(-3, (cells, 2))
    return split.permute(0, 1, 2, 3, 5, 7, 4, 6).contiguous()


def transposed_as_convolution(weight: Tensor) -> Tensor:
    """A transposed 3x3 convolution of stride 2 as a 2x2 one whose outputs are phases.

    Args:
        weight: (C, C', 3, 3), of a transposed convolution with padding and output padding of 1.

    Returns:
        (C', 2, 2, C, 2, 2): output channel and phase, input channel, kernel; of a convolution
        that is padded by one pixel below and to the right.
    """
    padded = F.pad(weight, (0, 1, 0, 1))  # tap 3 is 0
    # Even pixels see the middle tap; odd ones the last tap of this pixel and the first of the next.
    taps = torch.tensor([1, 3, 2, 0])
    placed = padded[:, :, taps][:, :, :, taps].unflatten(3, (2, 2)).unflatten(2, (2, 2))
    return placed.permute(1, 2, 4, 0, 3, 5).contiguous()


def bilinear_weights(scale: int) -> Tensor:
    """Bilinear enlargement as a convolution of an edge-padded picture: (scale, scale, 3, 3).

    All weights are multiples of 1 / (4 * scale ** 2).
    """
    offset = (torch.arange(scale) + 0.5) / scale - 0.5  # of a phase's centre from the pixel's
    line = torch.stack([(-offset).clamp(min=0), 1 - offset.abs(), offset.clamp(min=0)], 1)
    return torch.einsum("ai,bj->abij", line, line)


def phases_to_pixels(x: Tensor, by: int) -> Tensor:
    """(N, by * by * C, H, W), phase first, to (N, C, by * H, by * W).

    Channels of one phase together move whole rows of pixels where they are the last axis, as
    integer convolutions have it. ONNX calls it DepthToSpace in DCR mode, torch has no name for it.
    """
    n, channels, height, width = x.shape
    size = (n, channels // by**2, height * by, width * by)
    if torch.onnx.is_in_onnx_export():
        result: Tensor = torch.onnx.ops.symbolic(
            "DepthToSpace",
            (x,),
            {"blocksize": by, "mode": "DCR"},
            dtype=x.dtype,
            shape=size,
            version=OPSET,
        )
        return result
    x = x.reshape(n, by, by, channels // by**2, height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(size)


class _Convolution(nn.Module):
    """A convolution of given weights, with any padding (left, right, top, bottom)."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, sides: tuple[int, int, int, int]
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.sides
        if left == right == top == bottom:
            return F.conv2d(x, self.weight, self.bias, padding=left)
        return F.conv2d(F.pad(x, self.sides), self.weight, self.bias)


def _bias(conv: ElasticConv | ElasticTransposed) -> Tensor:
    channels = conv.weight.shape[int(isinstance(conv, ElasticTransposed))]
    return torch.zeros(channels) if conv.bias is None else conv.bias


class SRIntegerForm(nn.Module):
    """An :class:`SRStudent` with a tail of sub-pixel shuffles.

    Everything, the bilinear base included, happens at the low resolution.
    """

    def __init__(self, net: SRStudent) -> None:
        super().__init__()
        scale = self.scale = net.scale
        self.stem, self.body = net.stem, net.body
        self.first: ElasticConv | None = None
        tail = net.upsampler
        if isinstance(tail, Shuffle):
            weight = tail.conv.weight.unflatten(0, (3, scale, scale)).permute(1, 2, 0, 3, 4, 5)
            bias = _bias(tail.conv).unflatten(0, (3, scale, scale)).permute(1, 2, 0)
        else:
            assert isinstance(tail, ShuffleTwice)
            self.first, rest = tail.first, tail.rest
            # (channel, phase in the phase y, x; phase y, x; inputs and their phases; kernel)
            wide = behind_shuffle(tail.last.weight).unflatten(0, (3, rest, rest))
            weight = wide.permute(3, 1, 4, 2, 0, 5, 6, 7, 8, 9).flatten(5, 7)
            weight = weight.flatten(2, 3).flatten(0, 1)
            bias = _bias(tail.last).unflatten(0, (3, rest, rest)).permute(1, 2, 0)
            bias = bias.repeat(2, 2, 1)
        base = torch.zeros(scale, scale, 3, 3, 3, 3)
        for channel in range(3):
            base[:, :, channel, channel] = bilinear_weights(scale)
        one = (1, 1, 1, 1)
        self.last = _Convolution(weight.flatten(0, 2), bias.flatten(), one)
        self.base = _Convolution(base.flatten(0, 2), None, (0, 0, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """As that of the student."""
        y = activate(self.body(self.stem(x)))
        if self.first is not None:
            y = activate(self.first(y))
        base = self.base(F.pad(x, (1, 1, 1, 1), mode="replicate"))
        return phases_to_pixels(self.last(y) + base, self.scale)


class TranslationIntegerForm(nn.Module):
    """A frozen :class:`TranslationStudent` without transposed convolutions."""

    def __init__(self, net: TranslationStudent) -> None:
        super().__init__()
        self.scale = 1
        first = net.stem_full
        edge = first.weight.shape[-1] // 2
        shifted = _bias(first) - first.weight.sum(dim=(1, 2, 3))
        self.edge = (edge,) * 4
        self.stem_full = _Convolution(2 * first.weight, shifted, (0, 0, 0, 0))
        self.stem_half, self.stem_quarter = net.stem_half, net.stem_quarter
        self.layers = net.layers
        self.header_half = _phases_of(net.header_half)
        wide = transposed_as_convolution(net.header_full.weight)
        # Here channels come first, as the next one takes its phases where they are.
        self.header_full = _Convolution(
            wide.flatten(0, 2), _bias(net.header_full).repeat_interleave(4), (0, 1, 0, 1)
        )
        last = behind_shuffle(net.last.weight).permute(1, 2, 0, 3, 4, 5, 6, 7)
        reach = last.shape[-1] // 2
        self.last = _Convolution(
            last.flatten(3, 5).flatten(0, 2), _bias(net.last).repeat(4), (reach,) * 4
        )

    def forward(self, x: Tensor) -> Tensor:
        """As that of the student."""
        x = F.relu(self.stem_full(F.pad(x, self.edge, value=GREY)))
        x = F.relu(self.stem_quarter(F.relu(self.stem_half(x))))
        x = phases_to_pixels(F.relu(self.header_half(self.layers(x))), 2)
        x = self.last(F.relu(self.header_full(x)))
        return 0.5 + 0.5 * phases_to_pixels(x, 2).tanh()


def _phases_of(conv: ElasticTransposed) -> _Convolution:
    """A transposed convolution as one with phases first."""
    weight = transposed_as_convolution(conv.weight).permute(1, 2, 0, 3, 4, 5)
    return _Convolution(weight.flatten(0, 2), _bias(conv).repeat(4), (0, 1, 0, 1))


Exportable = Student | SRIntegerForm | TranslationIntegerForm


def integer_form(net: Student) -> Exportable:
    """The network as it is best quantized; itself where nothing is known to be better.

    Args:
        net: folded. Layers that stay as they are, are shared with it.
    """
    if isinstance(net, SRStudent) and isinstance(net.upsampler, Shuffle | ShuffleTwice):
        return SRIntegerForm(net).eval()
    if isinstance(net, TranslationStudent) and net.frozen:
        return TranslationIntegerForm(net).eval()
    return net.eval()
