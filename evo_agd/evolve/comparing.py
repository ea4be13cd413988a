"""Comparing an output with the teacher's and the truth, as fast as it can be read.

A candidate's picture is compared once and thrown away, so what this costs is memory traffic: torch
makes a tensor for each of the ten steps between an output and its PSNR, which together took a
sixth of a worker's time. On the processor they are three loops here, compiled on
first use (numba, Lam et al., LLVM-HPC 2015), over one row of the picture at a time.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numba import float32
from numpy.typing import NDArray
from torch import Tensor

from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair, to_tensor
from evo_agd.train.quality import LUMA, decibels

Row = NDArray[np.float32]

# What lets a sum be taken in lanes. Its order is that of the compiled loop, always the same.
_LANES = {"reassoc", "contract", "nsz"}


@numba.njit(fastmath=_LANES, error_model="numpy")
def _absolute(one: Row, bytes_: NDArray[np.uint8]) -> Any:
    total = float32(0)
    for i in range(one.size):
        total += abs(one[i] - float32(bytes_[i]) * float32(1 / 255))
    return total


@numba.njit(fastmath=_LANES, error_model="numpy")
def _rounded(row: Row, into: Row) -> None:
    """8-bit values of a row in 0..1, which it need not keep to."""
    for i in range(row.size):
        into[i] = np.rint(min(max(row[i] * float32(255), float32(0)), float32(255)))


@numba.njit(fastmath=_LANES, error_model="numpy")
def _squared(one: Row, other: Row) -> Any:
    total = float32(0)
    for i in range(one.size):
        difference = one[i] - other[i]
        total += difference * difference
    return total


@numba.njit(fastmath=_LANES, error_model="numpy")
def _squared_luma(rgb: Row, luma: Row, weights: Row) -> Any:
    total = float32(0)
    for i in range(luma.size):
        mine = weights[0] * rgb[3 * i] + weights[1] * rgb[3 * i + 1] + weights[2] * rgb[3 * i + 2]
        total += (mine - luma[i]) * (mine - luma[i])
    return total


@numba.njit(error_model="numpy")
def _sums(
    output: NDArray[np.float32],
    teacher: NDArray[np.uint8],
    truth: NDArray[np.float32],
    weights: Row,
    border: int,
) -> tuple[float, float]:
    """Of absolute differences to the teacher and of squared ones to the truth, rounded.

    All are (rows, 3 columns), ``output`` in 0..1, the others in 0..255: what is read from memory is
    what takes time. With weights ``truth`` is the luma, (rows, columns), and what is within
    ``border`` pixels of an edge does not count.
    """
    distance = squares = 0.0
    columns = output.shape[1] // 3
    row = np.empty(output.shape[1], np.float32)
    for y in range(output.shape[0]):
        distance += _absolute(output[y], teacher[y])
        if border <= y < output.shape[0] - border:
            _rounded(output[y], row)
            inside = row[3 * border : 3 * (columns - border)]
            if weights.size:
                squares += _squared_luma(inside, truth[y, border : columns - border], weights)
            else:
                squares += _squared(inside, truth[y])
    return distance, squares


class Reference:
    """A validation picture, ready to be compared with.

    Args:
        loss: takes the distance to the teacher.
        device: where the outputs are.
    """

    def __init__(self, pair: Pair, loss: DistillationLoss, device: torch.device) -> None:
        self.low = to_tensor([pair.low]).to(device)
        self.loss = loss
        scale = pair.high.shape[0] // pair.low.shape[0]
        # Enlargements are judged by their luma inside a border, translations by everything.
        self.border = scale if scale > 1 else 0
        self.luma = torch.tensor(LUMA if scale > 1 else [], dtype=torch.float32, device=device)
        self.truth = self._shown((to_tensor([pair.high]).to(device) * 255).round_())
        self.compiled = device.type == "cpu" and loss.only_l1
        self.rows: tuple[NDArray[Any], ...] = ()
        if self.compiled:
            teacher = np.ascontiguousarray(pair.teacher).reshape(pair.teacher.shape[0], -1)
            truth = self.truth if scale > 1 else self.truth.flatten(1)
            self.rows = (teacher, np.ascontiguousarray(truth.numpy()), self.luma.numpy())
        else:
            self.teacher = to_tensor([pair.teacher]).to(device)

    def _shown(self, x: Tensor) -> Tensor:
        """What PSNR looks at: the luma less its offset, (H, W), or all channels, (H, W, 3)."""
        x = x[0].permute(1, 2, 0)
        if not self.border:
            return x
        return torch.mv(x.reshape(-1, 3), self.luma).view(x.shape[:2])

    def compare(self, output: Tensor) -> tuple[float, float]:
        """Distance to the teacher and PSNR in dB of an output (1, 3, H, W), which is used up."""
        if self.compiled:
            distance, squares = _sums(_rows(output), *self.rows, self.border)
            distance /= output.numel()
        else:
            distance = float(self.loss.to_teacher(output, self.teacher))
            difference = self._shown(output.clamp_(0, 1).mul_(255).round_()) - self.truth
            inside = slice(self.border, -self.border or None)
            squares = float(torch.linalg.vector_norm(difference[inside, inside])) ** 2
        height, width = (side - 2 * self.border for side in self.truth.shape[:2])
        return distance, decibels(squares / (height * width * (1 if self.border else 3)))


def _rows(x: Tensor) -> NDArray[np.float32]:
    """(1, 3, H, W) as (H, 3 W); no copy if it is in channels-last layout."""
    rows: NDArray[np.float32] = x[0].permute(1, 2, 0).contiguous().flatten(1).numpy()
    return rows
