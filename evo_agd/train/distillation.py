"""What a network is trained towards, and how one is scored on the validation photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evo_agd.space.genes import Genome, SearchSpace
from evo_agd.train.loop import Losses, mixed
from evo_agd.train.pairs import CropSampler, Pair, to_photo, to_tensor
from evo_agd.train.quality import psnr_y

CROPS, PATHS = 1, 2  # random-stream keys: each use of the seed has its own


def distillation_loss(output: Tensor, high: Tensor, teacher: Tensor, weight: float) -> Tensor:
    """``weight`` x L1 to the teacher + (1 - ``weight``) x L1 to the truth; scalar, 0..1 range."""
    output = output.float()
    taught = (output - teacher).abs().mean()
    if weight == 1.0:
        return taught
    return weight * taught + (1 - weight) * (output - high).abs().mean()


def supernet_losses(
    forward: Callable[[Tensor, Genome], Tensor],
    space: SearchSpace[Any],
    sampler: CropSampler,
    *,
    warm_up: int,
    paths: int,
    anchored: int,
    weight: float,
    bf16: bool,
) -> Losses:
    """The losses of one supernet step, for :func:`evo_agd.train.loop.fit`.

    In the first ``warm_up`` steps one anchor (a largest network of one kind) is trained at a time,
    in turn; after that each step trains ``paths`` uniform paths (SPOS, Guo et al., ECCV 2020),
    shared out evenly over every gene's choices, and ``anchored`` anchors, each on its own crops.
    """
    anchors = space.anchors()

    def genomes(step: int) -> list[Genome]:
        if step < warm_up:
            return [anchors[step % len(anchors)]]
        rng = np.random.default_rng([sampler.seed, PATHS, step])
        extra = [anchors[(step * anchored + i) % len(anchors)] for i in range(anchored)]
        return extra + space.stratified(rng, paths)

    def losses(step: int) -> list[Callable[[], Tensor]]:
        chosen = genomes(step)

        def loss(index: int, genome: Genome) -> Tensor:
            low, high, teacher = sampler.draw(CROPS, step, index)
            with mixed(bf16):
                output = forward(low, genome)
            return distillation_loss(output, high, teacher, weight) / len(chosen)

        return [partial(loss, index, genome) for index, genome in enumerate(chosen)]

    return losses


def student_losses(
    net: Callable[[Tensor], Tensor], sampler: CropSampler, *, weight: float, bf16: bool
) -> Losses:
    """The loss of one student step, for :func:`evo_agd.train.loop.fit`."""

    def loss(step: int) -> Tensor:
        low, high, teacher = sampler.draw(step)
        with mixed(bf16):
            output = net(low)
        return distillation_loss(output, high, teacher, weight)

    return lambda step: [partial(loss, step)]


@dataclass(frozen=True)
class Score:
    """L1 distance to the teacher's output (0..1 range) and Y-PSNR in dB to the truth."""

    distillation_loss: float
    psnr: float


def score(net: Callable[[Tensor], Tensor], pairs: Sequence[Pair], *, bf16: bool) -> Score:
    """Means over whole validation photographs; outputs are rounded to 8 bits for PSNR only."""
    distances, decibels = [], []
    for pair in pairs:
        low, teacher = to_tensor([pair.low]), to_tensor([pair.teacher])
        with torch.inference_mode(), mixed(bf16):
            output = net(low).float()
        scale = pair.high.shape[0] // pair.low.shape[0]
        distances.append(float((output - teacher).abs().mean()))
        decibels.append(psnr_y(to_photo(output[0]), pair.high, scale))
    return Score(float(np.mean(distances)), float(np.mean(decibels)))
