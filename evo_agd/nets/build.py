"""From settings to the task's space and supernet, and from an architecture to a student."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from evo_agd.config import CellSettings, Settings, SuperResolutionSettings, TranslationSettings
from evo_agd.nets.cells import CellStudent, CellSupernet
from evo_agd.nets.super_resolution import SRStudent, SRSupernet
from evo_agd.nets.translation import TranslationStudent, TranslationSupernet
from evo_agd.space.cells import CellArchitecture, CellSpace
from evo_agd.space.genes import Genome
from evo_agd.space.super_resolution import SRArchitecture, SuperResolutionSpace
from evo_agd.space.translation import TranslationArchitecture, TranslationSpace

Architecture = SRArchitecture | CellArchitecture | TranslationArchitecture
Space = SuperResolutionSpace | CellSpace | TranslationSpace
Student = SRStudent | CellStudent | TranslationStudent
Supernet = SRSupernet | CellSupernet | TranslationSupernet


def space_of(settings: Settings) -> Space:
    """The search space that the settings describe."""
    genes = settings.genes.model_dump(exclude={"body"})
    size = settings.input_size
    if isinstance(settings, TranslationSettings):
        return TranslationSpace(input_size=size, **genes)
    if isinstance(settings, CellSettings):
        return CellSpace(scale=settings.scale, input_size=size, **genes)
    assert isinstance(settings, SuperResolutionSettings)
    return SuperResolutionSpace(scale=settings.scale, input_size=size, **genes)


def empty_supernet(space: Space) -> Supernet:
    """The supernet of a space, initialised from torch's generator."""
    if isinstance(space, TranslationSpace):
        return TranslationSupernet(space)
    if isinstance(space, CellSpace):
        return CellSupernet(space)
    return SRSupernet(space)


def supernet_of(settings: Settings) -> Supernet:
    """The supernet of the settings' space, initialised from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return empty_supernet(space_of(settings))


def student_of(architecture: Architecture) -> Student:
    """A network of one architecture, initialised from torch's generator."""
    if isinstance(architecture, TranslationArchitecture):
        return TranslationStudent(architecture)
    if isinstance(architecture, CellArchitecture):
        return CellStudent(architecture)
    return SRStudent(architecture)


def _build(settings: Settings) -> tuple[nn.Module, Callable[[Genome], Any]]:
    return supernet_of(settings), space_of(settings).decode


def builder(settings: Settings) -> Callable[[], tuple[nn.Module, Callable[[Genome], Any]]]:
    """What a worker calls to make its own supernet and decoder."""
    return partial(_build, settings)
