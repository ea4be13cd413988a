"""The search itself: generations, each bred while the one before is still being scored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from evo_agd.config.settings import MAXIMISED, Bound, Evolution
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
from evo_agd.evolve.nsga2 import levels
from evo_agd.evolve.nsga3 import algorithm
from evo_agd.evolve.proposals import Proposals
from evo_agd.evolve.scoring import Scored
from evo_agd.evolve.state import Brood, SearchState, scored
from evo_agd.space.genes import Genome, SearchSpace

log = logging.getLogger(__name__)

SEARCH = 6  # random-stream key of the search
AHEAD = 2  # broods under way: one that is scored, and one bred without waiting for it
QUICK = "_quick"  # behind the names of figures on less than everything
GROWTH = 1e-3  # relative growth of the hypervolume that counts as progress

Tick = Callable[[int, str], None]
Race = Callable[[Sequence[Scored]], Sequence[int]]


class Pool(Protocol):
    """Scores genomes; :class:`evo_agd.evolve.workers.Workers` is one."""

    def submit(self, genomes: Sequence[Genome], *, race: Race | None = None) -> None:
        """Hand genomes in. With a race they are scored on less first, and then only whom it lets
        through on everything."""

    def collect(self, tick: Callable[[int], None] = ...) -> list[Scored]:
        """What came of the oldest submission."""


def candidate_of(
    genome: Genome,
    result: Scored,
    space: SearchSpace[Any],
    constraints: Mapping[Any, Bound],
    generation: int = 0,
) -> Candidate:
    """A genome with what came of it, its cost, and what it breaks."""
    values = cost_values(space.cost(genome)) | (result.figures or {})
    values |= {name + QUICK: value for name, value in (result.quick or {}).items()}
    return Candidate(
        space.id_of(genome),
        genome,
        values,
        violation(values, constraints),
        generation,
        result.seconds,
        failed=result.error,
        raced_out=result.figures is None and not result.error,
    )


def _population(state: SearchState) -> list[Candidate]:
    """The parents to breed from."""
    by_id = {c.id: c for c in state.candidates}
    return [by_id[name] for name in state.population]


class Search:
    """NSGA-II, or NSGA-III from four objectives on, over a space.

    A brood of children is bred from what is known, handed in to be scored, and integrated once all
    of it is there, in the order in which broods were bred. The next brood is bred before that, so
    that workers do not wait for the driver or for the slowest among them; what it is bred from does
    not depend on who was when ready with what.

    Args:
        seed: with the same scores, the same seed gives the same front.
        pool: scores genomes.
        start: genomes that the first brood begins with.
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
        pool: Pool,
        start: Sequence[Genome] = (),
        keep: Callable[[SearchState], None] = lambda state: None,
        tick: Tick = lambda done, note: None,
    ) -> None:
        self.space = space
        self.settings = settings
        self.objectives = tuple(objectives)
        self.constraints = constraints
        self.seed = seed
        self.pool = pool
        self.keep = keep
        self.tick = tick
        self.offspring = settings.offspring or max(2, -(-settings.population // 6))
        self.algorithm = algorithm(
            space,
            objectives,
            population=settings.population,
            crossover_chance=settings.crossover,
            mutation_chance=settings.mutation,
            crossovers=settings.crossovers,
        )
        self.proposals = Proposals(space, self.algorithm, constraints, start)
        self.archive: list[Candidate] = []
        """The front of what the running search has scored."""

    def run(self, state: SearchState | None = None) -> SearchState:
        """Search until the budget or the space is used up, from ``state`` if there is one."""
        state = state or SearchState()
        self.archive = front(scored(state.candidates), self.objectives)
        rng = np.random.default_rng([self.seed, SEARCH])
        if state.generator:
            rng.bit_generator.state = state.generator
        known = {c.genome for c in state.candidates}
        for brood in state.pending:
            known.update(brood.genomes)
            self._submit(state, brood)
        while True:
            self._breed(state, known, rng)
            if state.candidates:
                self.keep(state)
            if not state.pending:
                return state
            self._integrate(state)

    def _breed(self, state: SearchState, known: set[Genome], rng: np.random.Generator) -> None:
        """Have two broods under way, as long as there is a budget."""
        left = self.settings.evaluations - len(known)
        while len(state.pending) < AHEAD and left > 0 and not self._stands_still(state):
            genomes = self.proposals(_population(state), min(self.offspring, left), known, rng)
            state.generator = dict(rng.bit_generator.state)
            if not genomes:
                log.info("no new architecture left to try: the space is used up")
                break
            known.update(genomes)
            left -= len(genomes)
            brood = Brood(tuple(genomes), len(state.candidates))
            state.pending.append(brood)
            self._submit(state, brood)

    def _submit(self, state: SearchState, brood: Brood) -> None:
        race = None
        if self.settings.racing is not None:
            race = partial(self._through, scored(state.candidates[: brood.known]), brood)
        self.pool.submit(brood.genomes, race=race)

    def _through(
        self, veterans: Sequence[Candidate], brood: Brood, quick: Sequence[Scored]
    ) -> list[int]:
        """Who of a brood is to be scored on everything: whom nobody dominates by quick scores.

        They race against each other, and against what was known when they were bred.
        """
        running = [place for place, result in enumerate(quick) if result.figures is not None]
        everyone = [
            candidate_of(brood.genomes[place], quick[place], self.space, self.constraints)
            for place in running
        ]
        for c in veterans:
            values = {k: c.values.get(k + QUICK, v) for k, v in c.values.items()}
            everyone.append(replace(c, values=values))
        found = levels(everyone, self.objectives)
        return [place for place, level in zip(running, found, strict=False) if level == 0]

    def _integrate(self, state: SearchState) -> None:
        """Wait for the oldest brood and let it compete."""
        brood, before, generation = state.pending[0], len(state.candidates), state.generation
        found = self.pool.collect(
            lambda done: self.tick(before + done, f"generation {generation + 1}")
        )
        fresh = [
            candidate_of(genome, result, self.space, self.constraints, generation)
            for genome, result in zip(brood.genomes, found, strict=True)
        ]
        parents = _population(state)
        survivors = self.algorithm.select([*parents, *scored(fresh)], self.settings.population)
        state.pending.pop(0)
        state.candidates += fresh
        state.population = [c.id for c in survivors]
        state.generation += 1
        self._measure(state, scored(fresh))

    def _stands_still(self, state: SearchState) -> bool:
        patience = self.settings.patience
        if patience is None or len(state.volumes) <= patience:
            return False
        before, now = state.volumes[-1 - patience][1], state.volumes[-1][1]
        return before > 0.0 and now < before * (1 + GROWTH)

    def _measure(self, state: SearchState, fresh: Sequence[Candidate]) -> None:
        if state.box is None and fresh:
            first = minimised(fresh, self.objectives)
            reference = reference_point(fresh, self.objectives)
            spread = reference - first.min(axis=0)
            state.box = (reference.tolist(), (first.min(axis=0) - spread).tolist())
        # What is dominated adds no volume, and there is much of it.
        self.archive = front([*self.archive, *fresh], self.objectives)
        size = 0.0
        if state.box is not None:
            reference, ideal = (np.array(p) for p in state.box)
            size = volume(self.archive, self.objectives, reference, ideal)
        state.volumes.append((len(state.candidates), size))

    def front(self, state: SearchState) -> list[Candidate]:
        """The front of everything that was evaluated, the archive.

        Raises:
            InputError: nothing that was evaluated keeps the constraints, or everything failed.
        """
        candidates = scored(state.candidates)
        members = front(candidates, self.objectives)
        if members:
            return members
        if not candidates:
            reasons = sorted({c.failed for c in state.candidates})
            expected = "a supernet that its members can be scored on"
            raise InputError("search", expected, f"all failed: {'; '.join(reasons)[:200]}")
        asked = ", ".join(f"{k} {v.model_dump()}" for k, v in self.constraints.items())
        best = {
            o: (max if o in MAXIMISED else min)(c.values[o] for c in candidates)
            for o in self.constraints
        }
        raise InputError(
            "constraints",
            f"some architecture that keeps {asked}",
            f"none among {len(candidates)}; the best of each: {best}",
        )


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
