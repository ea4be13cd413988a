"""The search itself: generations, their record, and how to go on from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from evo_agd.config.settings import Bound, Evolution
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import (
    Candidate,
    cost_values,
    front,
    minimised,
    reference_point,
    violation,
    volume,
)
from evo_agd.evolve.nsga2 import Nsga2
from evo_agd.space.genes import Genome, SearchSpace

log = logging.getLogger(__name__)

SEARCH = 2  # random-stream key of the search
TRIES = 200  # draws per wanted genome before a space counts as used up


class Scorer(Protocol):
    """Scores genomes: yields (index, figures by name, seconds), in whatever order they end."""

    def __call__(
        self, genomes: Sequence[Genome], /
    ) -> Iterator[tuple[int, dict[str, float], float]]: ...


@dataclass
class SearchState:
    """Everything that a search is at the end of a generation; JSON both ways."""

    generation: int = 0
    population: list[str] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    generator: dict[str, Any] = field(default_factory=dict)
    volumes: list[tuple[int, float]] = field(default_factory=list)
    """Evaluations so far and hypervolume, per generation."""
    box: tuple[list[float], list[float]] | None = None
    """Reference and ideal point of the hypervolume, fixed by the first generation."""

    def to_json(self) -> str:
        return json.dumps(
            {
                "generation": self.generation,
                "population": self.population,
                "generator": self.generator,
                "volumes": self.volumes,
                "box": self.box,
                "candidates": [
                    {
                        "id": c.id,
                        "genome": c.genome,
                        "values": dict(c.values),
                        "violation": c.violation,
                        "generation": c.generation,
                        "seconds": c.seconds,
                    }
                    for c in self.candidates
                ],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> SearchState:
        raw = json.loads(text)
        candidates = [Candidate(**{**c, "genome": tuple(c["genome"])}) for c in raw["candidates"]]
        volumes = [(int(n), float(v)) for n, v in raw["volumes"]]
        return cls(
            raw["generation"],
            raw["population"],
            candidates,
            raw["generator"],
            volumes,
            raw["box"] and (raw["box"][0], raw["box"][1]),
        )

    def rows(self) -> list[dict[str, Any]]:
        """The history, one row per evaluated architecture."""
        return [
            {
                "generation": c.generation,
                "id": c.id,
                "genome": " ".join(map(str, c.genome)),
                **c.values,
                "violation": c.violation,
                "seconds": round(c.seconds, 4),
            }
            for c in self.candidates
        ]


class Search:
    """NSGA-II over a space, one generation at a time.

    Args:
        seed: with the same scores, the same seed gives the same front.
        score: the measured objectives of genomes.
        keep: called with the state after each generation, to store it.
        tick: called with (evaluations done, note).
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        settings: Evolution,
        objectives: Sequence[str],
        constraints: Mapping[Any, Bound],
        *,
        seed: int,
        score: Scorer,
        keep: Callable[[SearchState], None] = lambda state: None,
        tick: Callable[[int, str], None] = lambda done, note: None,
    ) -> None:
        self.space = space
        self.settings = settings
        self.objectives = tuple(objectives)
        self.constraints = constraints
        self.seed = seed
        self.score = score
        self.keep = keep
        self.tick = tick
        self.nsga2 = Nsga2(
            space,
            objectives,
            crossover_chance=settings.crossover,
            mutation_chance=settings.mutation,
        )

    def run(self, state: SearchState | None = None) -> SearchState:
        """Search until the budget or the space is used up, from ``state`` if there is one."""
        state = state or SearchState()
        rng = np.random.default_rng([self.seed, SEARCH])
        if state.generator:
            rng.bit_generator.state = state.generator
        known = {c.genome for c in state.candidates}
        while len(state.candidates) < self.settings.evaluations:
            wanted = min(
                self.settings.population, self.settings.evaluations - len(state.candidates)
            )
            genomes = self._propose(state, wanted, known, rng)
            if not genomes:
                log.info("no new architecture left to try: the space is used up")
                break
            known.update(genomes)
            fresh = self._evaluate(genomes, state.generation, len(state.candidates))
            by_id = {c.id: c for c in state.candidates}
            parents = [by_id[name] for name in state.population]
            survivors = self.nsga2.select([*parents, *fresh], self.settings.population)
            state.candidates += fresh
            state.population = [c.id for c in survivors]
            state.generation += 1
            state.generator = dict(rng.bit_generator.state)
            self._measure(state)
            self.keep(state)
        return state

    def _affordable(self, genome: Genome) -> bool:
        return violation(cost_values(self.space.cost(genome)), self.constraints) == 0.0

    def _propose(
        self, state: SearchState, wanted: int, known: set[Genome], rng: np.random.Generator
    ) -> list[Genome]:
        """New genomes that keep the constraints on cost; fewer where there are no more."""
        by_id = {c.id: c for c in state.candidates}
        population = [by_id[name] for name in state.population]
        ranks = self.nsga2.ranks(population)
        found: list[Genome] = []
        seen = set(known)
        if not population:
            extremes = sorted(self.space.smallest(), key=lambda g: self.space.cost(g).gmacs)
            found += [g for g in extremes if self._affordable(g)][:1]
            seen.update(found)
        for attempt in range(TRIES * wanted):
            if len(found) >= wanted:
                break
            if population:
                genome = self.nsga2.child(population, ranks, rng)
            elif attempt < TRIES:
                genome = self.space.random(rng)
            else:  # few uniform draws keep the constraints: lower one until it does
                genome = self._lowered(self.space.random(rng), rng)
            if genome not in seen and self._affordable(genome):
                seen.add(genome)
                found.append(genome)
        return found

    def _lowered(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A member that keeps the constraints, at any cost from a third of the limit upwards."""
        found = self.space.lowered(genome, self._affordable, rng)
        if found is None:
            return genome
        limit = self.space.cost(found).gmacs * float(rng.uniform(1 / 3, 1))
        lower = self.space.lowered(found, lambda g: self.space.cost(g).gmacs <= limit, rng)
        return found if lower is None else lower

    def _evaluate(self, genomes: list[Genome], generation: int, before: int) -> list[Candidate]:
        results: dict[int, Candidate] = {}
        for index, figures, seconds in self.score(genomes):
            genome = genomes[index]
            values = cost_values(self.space.cost(genome)) | figures
            broken = violation(values, self.constraints)
            name = self.space.id_of(genome)
            results[index] = Candidate(name, genome, values, broken, generation, seconds)
            self.tick(before + len(results), f"generation {generation + 1}")
        return [results[i] for i in range(len(genomes))]

    def _measure(self, state: SearchState) -> None:
        if state.box is None:
            first = minimised(state.candidates, self.objectives)
            reference = reference_point(state.candidates, self.objectives)
            spread = reference - first.min(axis=0)
            state.box = (reference.tolist(), (first.min(axis=0) - spread).tolist())
        reference, ideal = (np.array(p) for p in state.box)
        size = volume(state.candidates, self.objectives, reference, ideal)
        state.volumes.append((len(state.candidates), size))

    def front(self, state: SearchState) -> list[Candidate]:
        """The archive's front.

        Raises:
            InputError: nothing that was evaluated keeps the constraints.
        """
        members = front(state.candidates, self.objectives)
        if not members:
            asked = ", ".join(f"{k} {v.model_dump()}" for k, v in self.constraints.items())
            best = {
                o: (max if o == "psnr" else min)(c.values[o] for c in state.candidates)
                for o in self.constraints
            }
            raise InputError(
                "constraints",
                f"some architecture that keeps {asked}",
                f"none among {len(state.candidates)}; the best of each: {best}",
            )
        return members


def check_constraints(space: SearchSpace[Any], constraints: Mapping[Any, Bound]) -> None:
    """Refuse, before anything is trained, bounds on cost that no member can keep.

    Raises:
        InputError: every architecture costs more than ``max``, or less than ``min``.
    """
    least = [cost_values(space.cost(g)) for g in space.smallest()]
    most = [cost_values(space.cost(g)) for g in space.anchors()]
    for name, bound in constraints.items():
        if name not in least[0]:
            continue
        low, high = min(c[name] for c in least), max(c[name] for c in most)
        where = f"constraints.{name}"
        if bound.max is not None and bound.max < low:
            expected = f"at least {low:.4g}, what the cheapest architecture takes"
            raise InputError(f"{where}.max", expected, f"{bound.max:g}")
        if bound.min is not None and bound.min > high:
            expected = f"at most {high:.4g}, what the dearest architecture takes"
            raise InputError(f"{where}.min", expected, f"{bound.min:g}")
