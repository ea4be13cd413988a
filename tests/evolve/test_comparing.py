from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from evo_agd.evolve.comparing import Reference
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair, to_photo, to_tensor
from evo_agd.train.quality import psnr
from tests.conftest import photograph

CPU = torch.device("cpu")


def pair(scale: int) -> Pair:
    high = photograph(20 * scale, 28 * scale, 1)
    low = np.ascontiguousarray(high[::scale, ::scale])
    return Pair("x", low, high, photograph(20 * scale, 28 * scale, 2))


def near(high: np.ndarray, spread: float) -> torch.Tensor:
    """An output (1, 3, H, W) that leaves 0..1 here and there."""
    torch.manual_seed(0)
    x = to_tensor([high])
    return x + spread * torch.randn_like(x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("weights", [{"truth_l1": 1.0}, {"teacher_l1": 0.5, "truth_l1": 0.5}])
def test_it_says_what_the_loss_and_the_psnr_of_the_written_picture_are(
    scale: int, weights: dict[str, float], layout: torch.memory_format
) -> None:
    known, loss = pair(scale), DistillationLoss(weights)
    reference = Reference(known, loss, CPU)
    assert reference.compiled
    for spread in (0.0, 0.05, 0.5):
        output = near(np.asarray(known.high), spread).to(memory_format=layout)
        expected = float(loss.to_teacher(output, to_tensor([known.teacher])))
        # For a translation, whose pairs say so, the truth is what the teacher answered.
        decibels = psnr(to_photo(output[0]), known)
        distance, found = reference.compare(output)
        assert distance == pytest.approx(expected, rel=1e-5)
        assert found == pytest.approx(decibels, abs=1e-4)


@pytest.mark.parametrize("scale", [1, 4])
def test_other_losses_are_taken_by_torch_with_the_same_psnr(scale: int) -> None:
    known = pair(scale)
    plain = Reference(known, DistillationLoss({"teacher_l1": 1.0}), CPU)
    loss = DistillationLoss({"teacher_l1": 1.0, "teacher_l2": 1.0})
    other = Reference(known, loss, CPU)
    assert not other.compiled
    output = near(np.asarray(known.high), 0.1)
    expected = float(loss.to_teacher(output, to_tensor([known.teacher])))
    _, decibels = plain.compare(output.clone())
    distance, found = other.compare(output)
    assert distance == pytest.approx(expected, rel=1e-6)
    assert found == pytest.approx(decibels, abs=1e-4)


def test_what_is_not_a_number_stays_none() -> None:
    reference = Reference(pair(4), DistillationLoss({"teacher_l1": 1.0}), CPU)
    output = near(np.asarray(pair(4).high), 0.1)
    output[0, 1, 40, 50] = math.nan
    distance, _ = reference.compare(output)
    assert math.isnan(distance)
