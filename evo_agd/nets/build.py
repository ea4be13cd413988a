"""From settings to the space and the supernet of the task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from evo_agd.config import Settings
from evo_agd.nets.super_resolution import SRSupernet
from evo_agd.space.genes import Genome
from evo_agd.space.super_resolution import SuperResolutionSpace


def space_of(settings: Settings) -> SuperResolutionSpace:
    """The search space that the settings describe."""
    genes = settings.genes
    return SuperResolutionSpace(
        scale=settings.scale, input_size=settings.input_size, **genes.model_dump()
    )


def supernet_of(settings: Settings) -> SRSupernet:
    """The supernet of that space, initialised from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return SRSupernet(space_of(settings))


def _build(settings: Settings) -> tuple[nn.Module, Callable[[Genome], Any]]:
    return supernet_of(settings), space_of(settings).decode


def builder(settings: Settings) -> Callable[[], tuple[nn.Module, Callable[[Genome], Any]]]:
    """What a worker calls to make its own supernet and decoder."""
    return partial(_build, settings)
