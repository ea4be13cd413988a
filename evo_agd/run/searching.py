"""What a run's settings make of the search: its pool of workers, and what it begins with."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from evo_agd.config import Settings
from evo_agd.config.settings import LATENCY_TABLES, MEASURED
from evo_agd.deploy.latency import measured_milliseconds
from evo_agd.deploy.latency_table import PRECISIONS
from evo_agd.deploy.students import calibration_inputs
from evo_agd.errors import InputError
from evo_agd.evolve.workers import Resources, Workers
from evo_agd.nets.build import Space, builder
from evo_agd.run.inputs import multiple_of
from evo_agd.space.genes import Genome
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair, middle
from evo_agd.train.simulated_int8 import psnr_int8
from evo_agd.train.sources import thinned

log = logging.getLogger(__name__)

UNSEEN = 0.5  # GMACs that take as long as all that no GMAC is in (sr_x4_small)
TIMED_SECONDS = 0.5  # of runs of a candidate whose milliseconds are measured

Figure = Callable[[nn.Module], float]


def extra_figures(
    settings: Settings, train: Sequence[Pair], validation: Sequence[Pair]
) -> dict[str, Figure]:
    """Figures that are asked for and take a candidate as a network of its own, by name."""
    found: dict[str, Figure] = {}
    asked = (*settings.objectives, *settings.constraints)
    if "psnr_int8" in asked:
        side = settings.students.crop * 2
        crops = calibration_inputs(list(train), settings.int8.calibration, side, settings.seed)
        found["psnr_int8"] = partial(_psnr_int8, pairs=list(validation), calibration=crops)
    for name, key in LATENCY_TABLES.items():
        if name in asked and getattr(settings, key) == MEASURED:
            int8 = PRECISIONS[name] == "int8"
            found[name] = partial(
                _milliseconds, size=settings.input_size, int8=int8, seconds=TIMED_SECONDS
            )
    return found


def _psnr_int8(student: Any, pairs: Sequence[Pair], calibration: Sequence[Any]) -> float:
    return psnr_int8(student.folded().cpu(), pairs, calibration)


def _milliseconds(student: Any, size: tuple[int, int], int8: bool, seconds: float) -> float:
    return measured_milliseconds(student.folded().cpu(), size=size, int8=int8, seconds=seconds)


def pool_of(
    settings: Settings,
    space: Space,
    weights: dict[str, Tensor],
    train: Sequence[Pair],
    validation: Sequence[Pair],
    *,
    loss: DistillationLoss,
    count: int | None,
) -> Workers:
    """The workers that score candidates for a run, in the Ray that is running.

    Args:
        validation: all validation pictures; of these as many are used as the settings say.
        count: of workers; None for as many as there is room for.

    Raises:
        InputError: GPUs are asked for, and no node has any.
    """
    pairs = thinned(list(validation), settings.search.pictures)
    race: list[Pair] = []
    if settings.search.racing is not None:
        least = math.ceil(loss.smallest / settings.scale)
        race = [middle(p, settings.search.racing, multiple_of(settings), least) for p in pairs]
    return Workers(
        count,
        builder(settings),
        weights,
        pairs,
        loss=loss,
        resources=Resources(
            bf16=settings.compute.precision == "bf16",
            prefix_mb=settings.search.prefix_mb,
            gpus=settings.compute.gpus_per_worker,
        ),
        order=space.reading_order,
        work=lambda genome: UNSEEN + space.cost(genome).gmacs,
        race=race,
        extras=extra_figures(settings, train, pairs),
    )


def first_genomes(settings: Settings, space: Space) -> list[Genome]:
    """What ``search.start`` and ``search.start_front`` ask the search to begin with.

    Raises:
        InputError: an id that is none or not of this space, no such file, or a front that this
            space has no member of.
    """
    found: dict[Genome, None] = {}
    for name in settings.search.start:
        try:
            found[space.genome_of(name)] = None
        except ValueError as error:
            expected = "ids of architectures of this space"
            raise InputError("search.start", expected, f"{name} ({error})") from error
    if settings.search.start_front is None:
        return list(found)
    path = Path(settings.search.start_front)
    path = path / "front.json" if path.is_dir() else path
    expected = "a run whose search is done, or its front.json"
    try:
        names = [str(member["id"]) for member in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found_instead = getattr(error, "strerror", None) or "something else"
        raise InputError(f"search.start_front: {path}", expected, found_instead) from error
    others = 0
    for name in names:
        try:
            found[space.genome_of(name)] = None
        except ValueError:
            others += 1
    if others == len(names):
        raise InputError(f"search.start_front: {path}", "members of this space", names[:1])
    if others:
        log.warning("%s: %d of %d are not of this space", path, others, len(names))
    return list(found)
