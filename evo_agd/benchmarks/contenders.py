"""Networks that a comparison names: members of any search space, by id or by what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from evo_agd.benchmarks.counting import count, open_space
from evo_agd.errors import InputError
from evo_agd.nets.build import Architecture, Space, student_of
from evo_agd.space.cost import Cost
from evo_agd.space.genes import Genome

DRAW = 9  # random-stream key
TRIES = 200  # draws of a family, of which the nearest is taken
NEAR = 0.02  # share by which a cost may be missed


@dataclass(frozen=True)
class Contender:
    """A member of a space.

    ``as_papers`` are its GFLOPs as some versions of thop count them: with biases and LeakyReLUs.
    """

    space: str
    id: str
    architecture: Architecture
    cost: Cost
    as_papers: float


@dataclass(frozen=True)
class Wanted:
    """Members of a space that cost what a published one does: GMACs, and MB of parameters."""

    space: Path
    gmacs: float
    memory_mb: float
    count: int

    def distance(self, cost: Cost) -> float:
        """The larger of the two shares by which a cost differs."""
        return max(abs(cost.gmacs / self.gmacs - 1), abs(cost.memory_mb / self.memory_mb - 1))


def contender(path: Path, space: Space, genome: Genome) -> Contender:
    """A member with what it costs."""
    architecture = space.decode(genome)
    shape = (1, 3, *space.input_size)
    found = count(lambda: student_of(architecture).folded(), shape)
    cost, name = space.cost(genome), space.id_of(genome)
    return Contender(path.stem, name, architecture, cost, found.with_extras / 1e9)


def named(path: Path, name: str) -> Contender:
    """The member with this id.

    Raises:
        InputError: not a search space, or not an id of a member of it.
    """
    space = open_space(path)
    try:
        genome = space.genome_of(name)
    except ValueError as error:
        raise InputError("--member", f"an id of a member of {path}", f"{name} ({error})") from error
    return contender(path, space, genome)


def nearest(wanted: Wanted, seed: int) -> list[Contender]:
    """Members at a published cost, made of different operators.

    The first is of all operators, the others of one each, in the space's order, as far as such
    members can cost as much. Each is the nearest of 200: a random member, or the largest one of its
    operator, whose numbers are lowered at random until it costs no more GMACs.

    Raises:
        InputError: fewer than were asked for come within 2 % of the cost.
    """
    space = open_space(wanted.space)
    rng = np.random.default_rng([seed, DRAW])

    def fits(genome: Genome) -> bool:
        return space.cost(genome).gmacs <= wanted.gmacs

    draws = [partial(space.random, rng), *(partial(lambda g: g, g) for g in space.anchors())]
    found: dict[Genome, None] = {}
    for draw in draws:
        if len(found) == wanted.count:
            break
        lowered = [space.lowered(draw(), fits, rng) for _ in range(TRIES)]
        near = [g for g in lowered if g and wanted.distance(space.cost(g)) <= NEAR]
        if near:
            found[min(near, key=lambda g: wanted.distance(space.cost(g)))] = None
    if len(found) < wanted.count:
        cost = f"{wanted.gmacs:g} GMACs and {wanted.memory_mb:g} MB"
        expected = f"at most {len(found)}, all that were found within 2 % of {cost}"
        raise InputError("--nearest-count", expected, wanted.count)
    return [contender(wanted.space, space, genome) for genome in found]


def told_apart(contenders: Sequence[Contender]) -> list[Contender]:
    """Each network once: an id builds the same one in whatever space."""
    return list({c.id: c for c in reversed(contenders)}.values())[::-1]
