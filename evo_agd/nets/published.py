"""Generators whose checkpoints are recognised by the key names that their authors published."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.errors import InputError

Norm = Literal["instance", "affine", "batch"]
State = dict[str, Tensor]

_FIRST_BLOCK = 10  # index of the first residual block in CycleGAN's ``model``
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# ITU-R BT.601, studio range (16 to 235), for RGB in 0..1: what MATLAB's rgb2ycbcr computes.
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_LUMA_OFFSET = 16 / 255
_LUMA_SPAN = 219 / 255


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels, affine=kind == "affine")


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection."""

    def __init__(self, channels: int, norm: Norm, dropout: bool) -> None:
        super().__init__()
        bias = norm != "batch"

        def convolution() -> list[nn.Module]:
            conv = nn.Conv2d(channels, channels, 3, bias=bias)
            return [nn.ReflectionPad2d(1), conv, _norm(norm, channels)]

        middle: list[nn.Module] = [nn.ReLU(), *([nn.Dropout(0.5)] if dropout else [])]
        self.conv_block = nn.Sequential(*convolution(), *middle, *convolution())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class CycleGANGenerator(nn.Module):
    """The ResNet generator of CycleGAN (Zhu et al., ICCV 2017), with the original's key names.

    Maps RGB in -1..1, (N, 3, H, W) with H and W divisible by 4, to the same shape and range.

    Args:
        features: channels after the first convolution.
        blocks: residual blocks at a quarter of the resolution (9 for 256x256, 6 for 128x128).
        norm: ``instance`` has no parameters; ``affine`` is instance norm with scale and shift;
            with ``batch`` the convolutions before a norm have no bias.
        dropout: blocks with a dropout between their convolutions, which shifts their key names.
    """

    def __init__(
        self,
        features: int = 64,
        blocks: int = 9,
        *,
        norm: Norm = "instance",
        dropout: bool = False,
    ) -> None:
        super().__init__()
        bias = norm != "batch"
        f = features

        def then_norm(convolution: nn.Module, channels: int) -> list[nn.Module]:
            return [convolution, _norm(norm, channels), nn.ReLU()]

        def up(c_in: int, c_out: int) -> nn.Module:
            return nn.ConvTranspose2d(
                c_in, c_out, 3, stride=2, padding=1, output_padding=1, bias=bias
            )

        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            *then_norm(nn.Conv2d(3, f, 7, bias=bias), f),
            *then_norm(nn.Conv2d(f, 2 * f, 3, stride=2, padding=1, bias=bias), 2 * f),
            *then_norm(nn.Conv2d(2 * f, 4 * f, 3, stride=2, padding=1, bias=bias), 4 * f),
            *(_ResidualBlock(4 * f, norm, dropout) for _ in range(blocks)),
            *then_norm(up(4 * f, 2 * f), 2 * f),
            *then_norm(up(2 * f, f), f),
            nn.ReflectionPad2d(3),
            nn.Conv2d(f, 3, 7),
            nn.Tanh(),
        )

    @property
    def blocks(self) -> int:
        """Number of residual blocks."""
        return sum(isinstance(m, _ResidualBlock) for m in self.model)

    def forward(self, x: Tensor) -> Tensor:
        """The translated picture."""
        return self.model(x)


class _HiddenLayer(nn.Module):
    """One hidden convolution of VDSR, under the name ``conv`` that its files have."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x), inplace=True)


class VDSR(nn.Module):
    """Very deep super-resolution (Kim et al., CVPR 2016): a correction to an enlarged luma.

    Maps luma in studio range / 255, (N, 1, H, W), to the same shape; see :class:`LumaEnlarger`.

    Args:
        features: channels of the hidden layers.
        layers: hidden layers, between the first and the last convolution.
    """

    def __init__(self, features: int = 64, layers: int = 18) -> None:
        super().__init__()
        self.input = nn.Conv2d(1, features, 3, padding=1, bias=False)
        self.residual_layer = nn.Sequential(*(_HiddenLayer(features) for _ in range(layers)))
        self.output = nn.Conv2d(features, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The corrected luma."""
        return x + self.output(self.residual_layer(F.relu(self.input(x), inplace=True)))


class LumaEnlarger(nn.Module):
    """A bicubic enlargement of RGB whose luma a network corrects.

    Args:
        net: (N, 1, H, W) to the same shape, luma in studio range / 255 (16/255 to 235/255).
        scale: the enlargement.
    """

    def __init__(self, net: nn.Module, scale: int) -> None:
        super().__init__()
        self.net = net
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """RGB in 0..1, (N, 3, H, W) to (N, 3, H * scale, W * scale); not clamped."""
        # Antialiased, torch has MATLAB's and Pillow's kernel (a = -0.5). Published figures start
        # from an enlargement in 8 bits: without the rounding Set5 x4 comes out at 31.45 dB
        # where 31.35 is published.
        large = F.interpolate(x, scale_factor=self.scale, mode="bicubic", antialias=True)
        large = large.clamp(0, 1).mul(255).round().div(255)
        weights = large.new_tensor(_LUMA).view(1, 3, 1, 1)
        luma = (large * weights).sum(1, keepdim=True) + _LUMA_OFFSET
        # With the chroma kept, a change of luma is the same change of red, green and blue.
        return large + (self.net(luma) - luma) / _LUMA_SPAN


def read_state(path: Path) -> State:
    """The tensors of a safetensors file or of what ``torch.save`` wrote, by dotted names.

    Nested dictionaries (``{"state_dict": {...}}``) become prefixes. No code of a pickle runs.

    Raises:
        Exception: whatever unpickling or parsing raised.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[:2] == b"PK" or start[:1] == b"\x80":  # a zip file of torch, or a pickle
        try:
            return _flat(torch.load(path, map_location="cpu", weights_only=True))
        except pickle.UnpicklingError as error:  # torch's text advises to run the file's code
            name = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
            other = f", it names {name[1]}" if name else ""
            raise ValueError(f"a pickle of more than a state_dict's tensors{other}") from error
    if start[8:9] != b"{":  # safetensors: the length of a JSON header, then the header
        raise ValueError(f"neither a torch nor a safetensors file, it begins with {start!r}")
    return load_file(path)


def _flat(value: object, prefix: str = "") -> State:
    """The tensors in nested dictionaries, by their dotted names."""
    if isinstance(value, Tensor):
        return {prefix.removesuffix("."): value}
    found: State = {}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            found |= _flat(inner, f"{prefix}{key}.")
    return found


def _inside(state: State, first: str, second: str, where: object) -> State:
    """The network that has both keys, without the prefix (``module.``, ``netG_A2B.``) it is under.

    Empty where there is none.
    """
    prefixes = [
        key.removesuffix(first)
        for key in state
        if key.endswith(first) and key.removesuffix(first) + second in state
    ]
    prefixes = [p for p in prefixes if not p or p.endswith(".")]
    # A moving average beside the raw weights is the better network of the two.
    prefixes = [p for p in prefixes if "ema" in p] or prefixes
    if len(prefixes) > 1:
        names = ", ".join(p.removesuffix(".") for p in prefixes)
        raise InputError(where, "a checkpoint of one generator", f"several: {names}")
    if not prefixes:
        return {}
    (prefix,) = prefixes
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _filled(net: nn.Module, state: State, where: object, name: str) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(where, f"the weights of a {name}", error) from error


def recognise_cyclegan(state: State, where: object) -> CycleGANGenerator | None:
    """The generator whose published key layout the tensors have, with their values; else None.

    Args:
        state: tensors by name, as :func:`read_state` gives them.
        where: the file, for errors.

    Raises:
        InputError: the layout is this one, but not from RGB to RGB, or tensors do not fit; or
            there are several generators.
    """
    inside = _inside(state, "model.1.weight", f"model.{_FIRST_BLOCK}.conv_block.1.weight", where)
    inside = {k: v for k, v in inside.items() if k.startswith("model.")}
    if not inside:
        return None
    first = inside["model.1.weight"]
    blocks = 0
    while f"model.{_FIRST_BLOCK + blocks}.conv_block.1.weight" in inside:
        blocks += 1
    last = inside.get(f"model.{_FIRST_BLOCK + blocks + 7}.weight")
    if last is None or min(first.dim(), last.dim()) < 4:
        raise InputError(
            where, "a whole CycleGAN generator", f"no last layer after {blocks} blocks"
        )
    if (first.shape[1], last.shape[0]) != (3, 3):
        channels = f"{first.shape[1]} to {last.shape[0]} channels"
        raise InputError(where, "a teacher from RGB to RGB", channels)
    norm: Norm = "instance"
    if "model.2.weight" in inside:
        norm = "affine" if "model.1.bias" in inside else "batch"
    if norm != "batch":
        # PyTorch before 0.4 stored statistics that instance norm never used.
        inside = {k: v for k, v in inside.items() if not k.endswith(_STATISTICS)}
    dropout = f"model.{_FIRST_BLOCK}.conv_block.6.weight" in inside and (
        f"model.{_FIRST_BLOCK}.conv_block.5.weight" not in inside
    )
    net = CycleGANGenerator(first.shape[0], blocks, norm=norm, dropout=dropout)
    _filled(net, inside, where, f"CycleGAN generator with {blocks} blocks")
    return net


def recognise_vdsr(state: State, where: object) -> VDSR | None:
    """The VDSR whose key layout the tensors have, with their values; else None.

    Args:
        state: tensors by name, as :func:`read_state` gives them.
        where: the file, for errors.

    Raises:
        InputError: the layout is this one, but tensors do not fit.
    """
    inside = _inside(state, "input.weight", "residual_layer.0.conv.weight", where)
    if not inside:
        return None
    layers = sum(k.startswith("residual_layer.") for k in inside)
    net = VDSR(inside["input.weight"].shape[0], layers)
    _filled(net, inside, where, "VDSR for luma")
    return net
