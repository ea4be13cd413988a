"""NSGA-III (Deb and Jain, 2014) on DEAP, for four objectives and more.

With many objectives nearly everything is on the first front and crowding says little about which of
it to keep. NSGA-III keeps what is nearest to directions spread evenly over the objectives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from math import comb
from typing import Any

import numpy as np
from deap.tools import selNSGA3, uniform_reference_points
from numpy.typing import NDArray

from evo_agd.evolve.candidates import Candidate, minimised
from evo_agd.evolve.nsga2 import DEFAULT_CROSSOVERS, Individual, Nsga2, levels
from evo_agd.space.genes import SearchSpace

MANY = 4  # objectives from which on crowding tells too little


def _divisions(objectives: int, room: int) -> int:
    """The finest division of the simplex that has at most ``room`` points; 0 where none has."""
    parts = 0
    while comb(parts + objectives, objectives - 1) <= room:
        parts += 1
    return parts


def reference_points(objectives: int, population: int) -> NDArray[np.float64]:
    """Directions, (at most ``population`` but one an objective, objectives), each row summing to 1.

    Das and Dennis's points on the simplex. A division finer than there are objectives has points
    inside; where a population is too small for one, a second layer at half the size has them, as
    Deb and Jain do.
    """
    outer = max(1, _divisions(objectives, population))
    points = uniform_reference_points(objectives, outer)
    inner = _divisions(objectives, population - len(points)) if outer < objectives else 0
    if inner == 0:
        return np.asarray(points)
    return np.concatenate([points, uniform_reference_points(objectives, inner, scaling=0.5)])


@contextmanager
def _drawing_from(seed: str) -> Iterator[None]:
    """DEAP's niching draws from numpy's global generator: lend it one, and leave no trace."""
    state = np.random.get_state()
    digest = sha256(seed.encode()).digest()
    np.random.seed(np.frombuffer(digest, dtype=np.uint32))
    try:
        yield
    finally:
        np.random.set_state(state)


class Nsga3(Nsga2):
    """As :class:`~evo_agd.evolve.nsga2.Nsga2`, with NSGA-III's selection.

    Args:
        population: how many survive a generation, which the directions are made for.
        variation: as there.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        objectives: Sequence[str],
        *,
        population: int,
        **variation: Any,
    ) -> None:
        super().__init__(space, objectives, **variation)
        self.points = reference_points(len(self.objectives), population)

    def select(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """The ``count`` survivors: whole fronts first, then those whose direction few others have.

        Infeasible ones follow the feasible ones, the least broken first. The same arguments give
        the same survivors.
        """
        feasible = [c for c in candidates if c.violation == 0.0]
        if len(feasible) <= count:
            broken = sorted((c for c in candidates if c.violation > 0.0), key=lambda c: c.violation)
            return [*feasible, *broken][:count]
        if count <= 0:
            return []
        # DEAP takes intercepts relative to the ideal point in one place and absolute in another,
        # which is the same only where the ideal point is 0; and its thresholds are absolute.
        values = minimised(feasible, self.objectives)
        low = values.min(axis=0)
        spread = values.max(axis=0) - low
        scaled = (values - low) / np.where(spread > 0, spread, 1.0)
        individuals = [Individual(c, r) for c, r in zip(feasible, scaled.tolist(), strict=True)]
        with _drawing_from(f"{count} {[c.id for c in feasible]}"):
            chosen = selNSGA3(individuals, count, self.points)
        return [i.candidate for i in chosen]

    def ranks(self, population: Sequence[Candidate]) -> list[tuple[int, float]]:
        """(front number, 0) of each; less is better. Within a front parents are random."""
        return [(level, 0.0) for level in levels(population, self.objectives)]


def algorithm(
    space: SearchSpace[Any],
    objectives: Sequence[str],
    *,
    population: int,
    crossover_chance: float,
    mutation_chance: float,
    crossovers: Sequence[str] = DEFAULT_CROSSOVERS,
) -> Nsga2 | Nsga3:
    """NSGA-II, or NSGA-III from four objectives on."""
    kind = Nsga2 if len(objectives) < MANY else partial(Nsga3, population=population)
    return kind(
        space,
        objectives,
        crossover_chance=crossover_chance,
        mutation_chance=mutation_chance,
        crossovers=crossovers,
    )
