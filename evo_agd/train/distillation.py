"""What a network is trained towards, and how one is scored on the validation photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from evo_agd.config import Settings
from evo_agd.space.genes import Genome, SearchSpace
from evo_agd.train.features import load_backbone
from evo_agd.train.loop import Losses, mixed
from evo_agd.train.losses import DistillationLoss, load_lpips
from evo_agd.train.pairs import CropSampler, Pair, to_photo, to_tensor
from evo_agd.train.quality import psnr

CROPS, PATHS = 1, 2  # random-stream keys: each use of the seed has its own
TRIES = 8  # other genomes that are tried in place of one that keeps no constraint


class Fits(Protocol):
    """Whether a genome keeps the constraints on cost, upper bounds tightened by a factor."""

    def __call__(self, genome: Genome, limit: float) -> bool: ...


def loss_of(settings: Settings) -> DistillationLoss:
    """The mix of losses that the settings ask for, with the networks that it looks through.

    Raises:
        InputError: weights that are not there or do not fit.
    """
    weights = settings.losses.model_dump()
    bf16 = settings.compute.precision == "bf16"
    backbone = lpips = None
    if settings.losses.perceptual or settings.losses.gram:
        backbone = load_backbone(settings.features.architecture, settings.features.weights)
    if settings.losses.lpips:
        lpips = load_lpips(settings.lpips.net, settings.lpips.weights)
    return DistillationLoss(weights, backbone=backbone, lpips=lpips, bf16=bf16)


def supernet_losses(
    forward: Callable[[Tensor, Genome], Tensor],
    space: SearchSpace[Any],
    sampler: CropSampler,
    *,
    warm_up: int,
    paths: int,
    anchored: int,
    loss: DistillationLoss,
    bf16: bool,
    fits: Fits | None = None,
) -> Losses:
    """The losses of one supernet step, for :func:`evo_agd.train.loop.fit`.

    In the first ``warm_up`` steps one anchor (a largest network of one kind) is trained at a time,
    in turn; after that each step trains ``paths`` uniform paths (SPOS, Guo et al., ECCV 2020),
    shared out evenly over every gene's choices, and ``anchored`` anchors, each on its own crops.

    Args:
        fits: whether a genome keeps the constraints on cost, tightened by a factor; with it paths
            and anchors that cost more are lowered until they do.
    """
    anchors = space.anchors()

    def genomes(step: int) -> list[Genome]:
        rng = np.random.default_rng([sampler.seed, PATHS, step])
        if step < warm_up:
            return _within(space, [anchors[step % len(anchors)]], fits, rng, spread=False)
        extra = [anchors[(step * anchored + i) % len(anchors)] for i in range(anchored)]
        drawn = space.stratified(rng, paths)
        extra = _within(space, extra, fits, rng, spread=False)
        return extra + _within(space, drawn, fits, rng, spread=True)

    def losses(step: int) -> list[Callable[[], Tensor]]:
        chosen = genomes(step)

        def path_loss(index: int, genome: Genome) -> Tensor:
            low, high, teacher = sampler.draw(CROPS, step, index)
            with mixed(bf16):
                output = forward(low, genome)
            return loss(output, high, teacher) / len(chosen)

        return [partial(path_loss, index, genome) for index, genome in enumerate(chosen)]

    return losses


def _within(
    space: SearchSpace[Any],
    genomes: Sequence[Genome],
    fits: Fits | None,
    rng: np.random.Generator,
    *,
    spread: bool,
) -> list[Genome]:
    """The genomes lowered until they fit; ``spread`` over costs from the limit down to a third."""
    if fits is None:
        return list(genomes)
    cheapest = min(space.smallest(), key=lambda g: space.cost(g).gmacs)

    def within(genome: Genome, limit: float) -> Genome | None:
        return space.lowered(genome, partial(fits, limit=limit), rng)

    found = []
    for genome in genomes:
        limit = float(rng.uniform(1 / 3, 1)) if spread else 1.0
        # Its operators may be too dear at any width: then others, at the full limit.
        tries = [(genome, limit), (genome, 1.0), *((space.random(rng), 1.0) for _ in range(TRIES))]
        fitting = (within(drawn, at_most) for drawn, at_most in tries)
        found.append(next((g for g in fitting if g is not None), cheapest))
    return found


def student_losses(
    net: Callable[[Tensor], Tensor],
    sampler: CropSampler,
    *,
    loss: DistillationLoss,
    bf16: bool,
    device: str = "cpu",
) -> Losses:
    """The loss of one student step, for :func:`evo_agd.train.loop.fit`.

    Args:
        device: where ``net`` and ``loss`` are.
    """

    def step_loss(step: int) -> Tensor:
        low, high, teacher = (crops.to(device) for crops in sampler.draw(step))
        with mixed(bf16, device):
            output = net(low)
        return loss(output, high, teacher)

    return lambda step: [partial(step_loss, step)]


@dataclass(frozen=True)
class Score:
    """Distance to the teacher's output (:meth:`DistillationLoss.to_teacher`), and PSNR in dB.

    PSNR is Y-PSNR to the truth in super-resolution, RGB-PSNR to the teacher's output elsewhere.
    """

    distillation_loss: float
    psnr: float


def score(
    net: Callable[[Tensor], Tensor],
    pairs: Sequence[Pair],
    *,
    loss: DistillationLoss,
    bf16: bool,
    device: str = "cpu",
) -> Score:
    """Means over whole validation photographs; outputs are rounded to 8 bits for PSNR only.

    Args:
        device: where ``net`` and ``loss`` are.
    """
    distances, decibels = [], []
    for pair in pairs:
        low, teacher = (to_tensor([p]).to(device) for p in (pair.low, pair.teacher))
        with torch.inference_mode():
            with mixed(bf16, device):
                output = net(low).float()
            distances.append(float(loss.to_teacher(output, teacher)))
        decibels.append(psnr(to_photo(output[0].cpu()), pair))
    return Score(float(np.mean(distances)), float(np.mean(decibels)))
