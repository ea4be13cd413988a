"""NSGA-II (Deb et al., 2002) on DEAP over integer genomes, with constrained domination.

Individuals never leave the driver; evaluation elsewhere sees tuples and returns floats. DEAP's own
operators draw from Python's global generator and its tournament wants multiples of four, so the
draws here are ours, from one generator that the search owns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from deap.base import Fitness
from deap.tools import selNSGA2, sortNondominated
from deap.tools.emo import assignCrowdingDist

from evo_agd.config.settings import MAXIMISED
from evo_agd.evolve.candidates import Candidate
from evo_agd.space.genes import Genome, SearchSpace


class ConstrainedFitness(Fitness):  # type: ignore[misc]
    """DEAP's fitness with Deb's constrained domination.

    A feasible one dominates every infeasible one; of two infeasible ones the one nearer to the
    feasible region dominates. (DEAP's class of this name cannot be hashed, which its own sorting
    needs, and tells no infeasible one from another.)
    """

    violation = 0.0
    crowding_dist = 0.0

    def dominates(self, other: ConstrainedFitness, obj: slice = slice(None)) -> bool:
        if self.violation or other.violation:
            return self.violation < other.violation
        return bool(super().dominates(other, obj))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConstrainedFitness) and (
            (self.wvalues, self.violation) == (other.wvalues, other.violation)
        )

    def __hash__(self) -> int:
        return hash((self.wvalues, self.violation))


def fitness_class(objectives: Sequence[str]) -> type[ConstrainedFitness]:
    """A fitness with the sign of each objective."""
    weights = tuple(1.0 if o in MAXIMISED else -1.0 for o in objectives)
    return type("Fitness", (ConstrainedFitness,), {"weights": weights})


class Individual:
    """A candidate as DEAP sees it."""

    def __init__(
        self, candidate: Candidate, objectives: Sequence[str], fitness: type[ConstrainedFitness]
    ) -> None:
        self.candidate = candidate
        self.fitness = fitness(tuple(candidate.values[o] for o in objectives))
        self.fitness.violation = candidate.violation


def crossover(a: Genome, b: Genome, rng: np.random.Generator) -> Genome:
    """Uniform crossover: each gene from either parent with equal chance."""
    take = rng.random(len(a)) < 0.5
    return tuple(x if t else y for x, y, t in zip(a, b, take, strict=True))


def mutate(
    genome: Genome, space: SearchSpace[Any], chance: float, rng: np.random.Generator
) -> Genome:
    """Give each active gene another value with this chance, and at least one of them."""
    active = [i for i, on in enumerate(space.active(genome)) if on]
    movable = [i for i in active if len(space.genes[i].choices) > 1]
    if not movable:
        return genome
    chosen = [i for i in movable if rng.random() < chance] or [int(rng.choice(movable))]
    values = list(genome)
    for i in chosen:
        step = int(rng.integers(1, len(space.genes[i].choices)))
        values[i] = (values[i] + step) % len(space.genes[i].choices)
    return space.canonical(tuple(values))


class Nsga2:
    """Selection and variation over candidates of one space.

    Args:
        crossover_chance: of a child to have two parents.
        mutation_chance: of each active gene to change.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        objectives: Sequence[str],
        *,
        crossover_chance: float,
        mutation_chance: float,
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self.fitness = fitness_class(objectives)
        self.crossover_chance = crossover_chance
        self.mutation_chance = mutation_chance

    def select(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """The ``count`` survivors: whole fronts first, then the least crowded."""
        individuals = [Individual(c, self.objectives, self.fitness) for c in candidates]
        return [i.candidate for i in selNSGA2(individuals, min(count, len(individuals)))]

    def ranks(self, population: Sequence[Candidate]) -> list[tuple[int, float]]:
        """(front number, negated crowding distance) of each; less is better."""
        individuals = [Individual(c, self.objectives, self.fitness) for c in population]
        found: dict[str, tuple[int, float]] = {}
        for level, members in enumerate(sortNondominated(individuals, len(individuals))):
            assignCrowdingDist(members)
            for i in members:
                found[i.candidate.id] = (level, -float(i.fitness.crowding_dist))
        return [found[c.id] for c in population]

    def child(
        self,
        population: Sequence[Candidate],
        ranks: Sequence[tuple[int, float]],
        rng: np.random.Generator,
    ) -> Genome:
        """One canonical genome from parents that won a binary tournament each."""

        def parent() -> Genome:
            a, b = (int(rng.integers(len(population))) for _ in range(2))
            return population[a if ranks[a] <= ranks[b] else b].genome

        genome = parent()
        if rng.random() < self.crossover_chance:
            genome = self.space.canonical(crossover(genome, parent(), rng))
        return mutate(genome, self.space, self.mutation_chance, rng)
