"""NSGA-II (Deb et al., 2002) on DEAP over integer genomes, with constrained domination.

Individuals never leave the driver; evaluation elsewhere sees tuples and returns floats. DEAP's own
operators draw from Python's global generator and its tournament wants multiples of four, so the
draws here are ours, from one generator that the search owns. Most of DEAP's selection is sorting
into fronts, pair by pair in Python, so moocore's does that; both find the same fronts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from deap.base import Fitness
from deap.tools.emo import assignCrowdingDist
from moocore import pareto_rank

from evo_agd.config.settings import Evolution
from evo_agd.evolve.candidates import Candidate, minimised
from evo_agd.evolve.variation import CROSSOVERS, cross, mutate
from evo_agd.space.genes import Genome, SearchSpace

DEFAULT_CROSSOVERS = Evolution().crossovers


@cache
def minimising(objectives: int) -> type[Any]:
    """DEAP's fitness of so many objectives of which less is better."""
    return type("Minimising", (Fitness,), {"weights": (-1.0,) * objectives})


class Individual:
    """A candidate as DEAP sees it.

    Args:
        values: its objectives as less is better, on any scale.
    """

    def __init__(self, candidate: Candidate, values: Sequence[float]) -> None:
        self.candidate = candidate
        self.fitness = minimising(len(values))(tuple(values))


def levels(candidates: Sequence[Candidate], objectives: Sequence[str]) -> list[int]:
    """The front of each under Deb's constrained domination, the first is 0.

    A feasible one dominates every infeasible one; of two infeasible ones the one nearer to the
    feasible region dominates.
    """
    feasible = [c for c in candidates if c.violation == 0.0]
    fronts = iter(pareto_rank(minimised(feasible, objectives)).tolist() if feasible else ())
    amounts = sorted({c.violation for c in candidates if c.violation > 0.0})
    found = [-1 if c.violation > 0.0 else int(next(fronts)) for c in candidates]
    behind = {amount: max(found, default=-1) + 1 + n for n, amount in enumerate(amounts)}
    return [behind.get(c.violation, level) for c, level in zip(candidates, found, strict=True)]


class Nsga2:
    """Selection and variation over candidates of one space.

    Args:
        crossover_chance: of a child to have two parents.
        mutation_chance: of each active gene to change; one does where a child is like a parent.
        crossovers: names in :data:`~evo_agd.evolve.variation.CROSSOVERS`; each child of two
            parents takes any of them.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        objectives: Sequence[str],
        *,
        crossover_chance: float,
        mutation_chance: float,
        crossovers: Sequence[str] = DEFAULT_CROSSOVERS,
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self.crossover_chance = crossover_chance
        self.mutation_chance = mutation_chance
        self.crossovers = [CROSSOVERS[name] for name in crossovers]

    def select(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """The ``count`` survivors: whole fronts first, then the least crowded of the next."""
        chosen: list[Candidate] = []
        for members in self._fronts(candidates):
            room = count - len(chosen)
            if room < len(members):
                # Stable, as DEAP's: the earlier of two that are equally crowded.
                members.sort(key=lambda i: -float(i.fitness.crowding_dist))
            chosen += [i.candidate for i in members[: max(0, room)]]
        return chosen

    def ranks(self, population: Sequence[Candidate]) -> list[tuple[int, float]]:
        """(front number, negated crowding distance) of each; less is better."""
        found: dict[str, tuple[int, float]] = {}
        for level, members in enumerate(self._fronts(population)):
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

        mother = child = parent()
        father = None
        if rng.random() < self.crossover_chance:
            father = parent()
            kind = self.crossovers[int(rng.integers(len(self.crossovers)))]
            child = cross(mother, father, self.space, kind, rng)
        # What is new already need not change again: it may be the best of both.
        always = child in (mother, father)
        return mutate(child, self.space, self.mutation_chance, rng, always=always)

    def _fronts(self, candidates: Sequence[Candidate]) -> list[list[Individual]]:
        """The fronts in order, each with its crowding distances."""
        found = levels(candidates, self.objectives)
        fronts: list[list[Individual]] = [[] for _ in range(max(found, default=-1) + 1)]
        rows = minimised(candidates, self.objectives).tolist()
        for candidate, level, row in zip(candidates, found, rows, strict=True):
            fronts[level].append(Individual(candidate, row))
        for members in fronts:
            assignCrowdingDist(members)
        return fronts
