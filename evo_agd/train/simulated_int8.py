"""What a network is worth in INT8, without exporting it.

Inside :class:`SimulatedInt8` a torch network computes as ONNX Runtime runs the quantized file that
``deploy/quantizing.py`` makes of it. Weights are rounded to 129 values (7 bits, as there)
symmetrically for each output channel; what goes from one operator to the next is rounded to 8 bits
from the least to the largest value that calibration has seen there, with one scale a tensor.
Rounding and then computing in floating point is what a quantize-dequantize pair means (Jacob et
al., CVPR 2018).

What is left out is the rounding of biases, which have 32 bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from evo_agd.nets.build import Student
from evo_agd.nets.integer_form import integer_form
from evo_agd.train.images import Photo
from evo_agd.train.pairs import Pair, to_photo, to_tensor
from evo_agd.train.quality import psnr

_LEVELS = 255  # of activations, uint8
_LARGEST = 64  # weight, int8 with a reduced range
_NUMBER, _EXACT = "_evo_agd_number", "_evo_agd_exact"  # marks on tensors

_CONVOLUTIONS = {torch.conv2d: 0, torch.conv_transpose2d: 1}  # axis of the weights' outputs
_POINTWISE = {F.leaky_relu, torch.sigmoid, torch.tanh, Tensor.sigmoid, Tensor.tanh}
_RELUS = {F.relu, torch.relu, Tensor.relu}
_ADDITIONS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}
_MOVES = {F.interpolate, F.pixel_shuffle, torch.pixel_shuffle, F.pad}
_IN_PLACE: dict[Any, Any] = {
    F.leaky_relu_: F.leaky_relu,
    F.relu_: F.relu,
    torch.relu_: torch.relu,
    Tensor.relu_: Tensor.relu,
    Tensor.add_: Tensor.add,
    Tensor.__iadd__: Tensor.add,
}


def rounded_weights(weight: Tensor, axis: int) -> Tensor:
    """Convolution weights as INT8 has them: 129 values from -max to max for each output channel.

    Bilinear weights, multiples of 1/64, stay what they are, as there.

    Args:
        axis: of the output channels: 0, or 1 of a transposed convolution.
    """
    steps = weight * _LARGEST
    if torch.equal(steps, steps.round()) and bool((weight.abs() <= 1).all()):
        return weight
    others = [d for d in range(weight.dim()) if d != axis]
    scale = weight.abs().amax(dim=others) / _LARGEST
    scale = torch.where(scale < torch.finfo(scale.dtype).tiny, torch.ones_like(scale), scale)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zeros, axis, -_LARGEST, _LARGEST)


def rounded(x: Tensor, low: float, high: float) -> Tensor:
    """Activations as UINT8 has them: 256 values from ``low`` to ``high``, 0 one of them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / _LEVELS
    if scale < torch.finfo(torch.float32).tiny:
        scale, zero = 1.0, 0
    else:
        zero = int(np.rint(-low / scale))
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, _LEVELS)


class SimulatedInt8:
    """Runs a network as if it were quantized::

        int8 = SimulatedInt8()
        with int8.calibrate():
            net(calibration)
        with int8.apply():
            output = net(low)

    Tensors are told apart by the order in which a forward makes them: there is one forward in each
    ``with``, always of the same network. Calibrating again widens the ranges. Inside there are no
    gradients and no inference mode, in which networks may take short cuts that are not exported;
    convolutions compute in FP32, whatever autocast says.
    """

    def __init__(self) -> None:
        self.ranges: list[tuple[float, float]] = []
        """Least and largest value of each tensor, in the order in which they are made."""

    @contextmanager
    def calibrate(self) -> Iterator[None]:
        """One forward in FP32, whose ranges are kept.

        Raises:
            ValueError: it is of another network than the one before.
        """
        mode = _Calibration()
        with torch.inference_mode(False), torch.no_grad(), mode:
            yield
        known, found = self.ranges or mode.ranges, mode.ranges
        if len(known) != len(found):
            raise ValueError(f"{len(found)} tensors, {len(known)} before: another network?")
        self.ranges = [
            (min(low, a), max(high, b)) for (low, high), (a, b) in zip(known, found, strict=True)
        ]

    @contextmanager
    def apply(self) -> Iterator[None]:
        """One forward in simulated INT8, its output rounded too.

        Raises:
            ValueError: it has other tensors than calibration has seen.
        """
        mode = _Rounding(self.ranges)
        with torch.inference_mode(False), torch.no_grad(), mode:
            yield
        if mode.made != len(self.ranges):
            raise ValueError(f"{mode.made} tensors, {len(self.ranges)} in calibration")


class _Mode(TorchFunctionMode, ABC):
    """Sees every call of a torch function, and the tensors that the quantizer puts pairs around.

    A tensor is one of these when an operator makes it, or else when the first one takes it that is
    quantized. A ReLU has no pair in front of it: it is the lower end of the range behind it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    @abstractmethod
    def pair(self, x: Tensor, number: int) -> Tensor:
        """What becomes of a tensor; several have one number, and so one range."""

    def weights(self, weight: Tensor, axis: int) -> Tensor:
        """What becomes of a convolution's weights."""
        return weight

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in _IN_PLACE:
            with self:
                made = _IN_PLACE[func](*args, **named)
            return _replaced(args[0], made)
        if func in _CONVOLUTIONS:
            return self._convolve(func, *args, **named)
        if func in _RELUS:
            exact = getattr(args[0], _EXACT, args[0])
            return self._made(func(exact, *args[1:], **named))
        if func in _POINTWISE:
            return self._made(func(self._taken(args[0]), *args[1:], **named))
        if func in _ADDITIONS and _alike(args):
            return self._made(func(*map(self._taken, args), **named))
        if func in _MOVES:
            return self._moved(func, *args, **named)
        return func(*args, **named)

    def _convolve(self, func: Any, x: Tensor, weight: Tensor, *others: Any, **named: Any) -> Tensor:
        x, weight = self._taken(x), self.weights(weight.float(), _CONVOLUTIONS[func])
        with torch.autocast(x.device.type, enabled=False):
            return self._made(func(x, weight, *others, **named))

    def _moved(self, func: Any, x: Tensor, *others: Any, **named: Any) -> Tensor:
        """Pixels in other places, or means of some: the range stays that of the input."""
        x = self._taken(x)
        return self._pair(func(x, *others, **named), getattr(x, _NUMBER))

    def _taken(self, x: Tensor) -> Tensor:
        return x if hasattr(x, _NUMBER) else self._given(x)

    def _given(self, x: Tensor) -> Tensor:
        """What no operator here has made: a picture, unless its values say otherwise."""
        return self._new(x)

    def _made(self, x: Tensor) -> Tensor:
        result = self._new(x)
        setattr(result, _EXACT, x)
        return result

    def _new(self, x: Tensor) -> Tensor:
        self.made += 1
        return self._pair(x, self.made - 1)

    def _pair(self, x: Tensor, number: int) -> Tensor:
        x = x.float()
        result = self.pair(x, number)
        result = result.view_as(result) if result is x else result  # x itself stays unmarked
        setattr(result, _NUMBER, number)
        return result


class _Calibration(_Mode):
    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[float, float]] = []

    def pair(self, x: Tensor, number: int) -> Tensor:
        if number == len(self.ranges):
            least, largest = x.aminmax()
            self.ranges.append((float(least), float(largest)))
        return x

    def _given(self, x: Tensor) -> Tensor:
        number = len(self.ranges)
        result = super()._given(x)
        if number < len(self.ranges) and 0 <= self.ranges[number][0] <= self.ranges[number][1] <= 1:
            self.ranges[number] = (
                0.0,
                1.0,
            )  # 255 steps of an 8-bit picture, as the quantizer is told
        return result


class _Rounding(_Mode):
    def __init__(self, ranges: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        self.ranges = ranges

    def pair(self, x: Tensor, number: int) -> Tensor:
        if number >= len(self.ranges):
            raise ValueError(f"more than the {len(self.ranges)} tensors of calibration")
        return rounded(x, *self.ranges[number])

    def weights(self, weight: Tensor, axis: int) -> Tensor:
        return rounded_weights(weight, axis)


def _replaced(x: Tensor, made: Tensor) -> Tensor:
    """The tensor with another's values and marks."""
    for mark in (_NUMBER, _EXACT):
        if hasattr(made, mark):
            setattr(x, mark, getattr(made, mark))
    return x.copy_(made)


def _alike(operands: Sequence[Any]) -> bool:
    """Whether they are two feature maps: a network's addition, not one inside a norm."""
    tensors = [x for x in operands if isinstance(x, Tensor)]
    return len(operands) == len(tensors) == 2 and tensors[0].shape == tensors[1].shape


def psnr_int8(net: Student, pairs: Sequence[Pair], calibration: Sequence[Photo]) -> float:
    """Mean PSNR in dB of a network in simulated INT8 over whole validation photographs.

    As :func:`evo_agd.train.distillation.score` has it, with ranges from the least to the largest
    value (``minmax``, whatever method the export is set to).

    Args:
        net: folded, in evaluation mode.
        calibration: inputs (h, w, 3) of equal size.
    """
    int8 = SimulatedInt8()
    decibels = []
    form = integer_form(net)
    with torch.inference_mode():
        with int8.calibrate():
            form(to_tensor(list(calibration)))
        for pair in pairs:
            with int8.apply():
                output = form(to_tensor([pair.low]))
            decibels.append(psnr(to_photo(output[0]), pair))
    return float(np.mean(decibels))
