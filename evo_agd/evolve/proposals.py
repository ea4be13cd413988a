"""Which genomes to score next: the first ones, and children of a population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evo_agd.config.settings import Bound
from evo_agd.evolve.candidates import Candidate, affordable
from evo_agd.evolve.nsga2 import Nsga2
from evo_agd.space.genes import Genome, SearchSpace

TRIES = 200  # draws per wanted genome before a space counts as used up


class Proposals:
    """Genomes that are new and keep the constraints on cost, which is known without scoring.

    Args:
        start: what the first ones begin with, behind the two extremes of the space.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        algorithm: Nsga2,
        constraints: Mapping[Any, Bound],
        start: Sequence[Genome] = (),
    ) -> None:
        self.space = space
        self.algorithm = algorithm
        self.constraints = constraints
        # And then the extremes of every family (of a pair of operator and upsampler, say): without
        # them a search now and then misses a part of the front (benchmarks/search.md).
        families = [*space.smallest(), *space.anchors()]
        self.start = [*start, *filter(self.affordable, dict.fromkeys(families))]

    def affordable(self, genome: Genome) -> bool:
        """Whether a genome keeps the constraints on cost."""
        return affordable(genome, self.space, self.constraints)

    def __call__(
        self,
        population: Sequence[Candidate],
        wanted: int,
        known: set[Genome],
        rng: np.random.Generator,
    ) -> list[Genome]:
        """At most ``wanted`` new genomes, fewer where there are no more; none of them is known.

        Without a population they are the extremes, the start and random ones.
        """
        found: dict[Genome, None] = {}

        def take(genome: Genome) -> None:
            if len(found) < wanted and genome not in known and self.affordable(genome):
                found[genome] = None

        if not known:
            for genome in self.extremes(rng):
                take(genome)
        for genome in self.start:
            take(genome)
        ranks = self.algorithm.ranks(population)
        for attempt in range(TRIES * wanted):
            if len(found) >= wanted:
                break
            if population:
                take(self.algorithm.child(population, ranks, rng))
            elif attempt < TRIES:
                take(self.space.random(rng))
            else:  # few uniform draws keep the constraints: lower one until it does
                take(self.lowered(self.space.random(rng), rng))
        return list(found)

    def extremes(self, rng: np.random.Generator) -> list[Genome]:
        """The cheapest and the dearest member that keep the constraints on cost.

        Where no largest member keeps them, the dearest is one of them lowered until it does.
        """

        def gmacs(genome: Genome) -> float:
            return self.space.cost(genome).gmacs

        cheapest = sorted(filter(self.affordable, self.space.smallest()), key=gmacs)[:1]
        largest = sorted(self.space.anchors(), key=gmacs, reverse=True)
        fitting = [g for g in largest if self.affordable(g)]
        if not fitting:
            lowered = (self.space.lowered(g, self.affordable, rng) for g in largest)
            fitting = sorted((g for g in lowered if g is not None), key=gmacs, reverse=True)
        return [*cheapest, *fitting[:1]]

    def lowered(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A member that keeps the constraints, at any cost from a third of the limit upwards."""
        found = self.space.lowered(genome, self.affordable, rng)
        if found is None:
            return genome
        limit = self.space.cost(found).gmacs * float(rng.uniform(1 / 3, 1))
        lower = self.space.lowered(found, lambda g: self.space.cost(g).gmacs <= limit, rng)
        return found if lower is None else lower
