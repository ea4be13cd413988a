"""Our search on the problems that searches are compared on, beside pymoo's, at equal budgets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pytest
from deap.base import Fitness
from deap.tools import selNSGA2, sortNondominated
from hypothesis import given, settings
from hypothesis import strategies as st
from moocore import hypervolume, is_nondominated
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from evo_agd.config.settings import Bound, Evolution
from evo_agd.evolve.candidates import Candidate
from evo_agd.evolve.nsga2 import DEFAULT_CROSSOVERS, Nsga2, levels
from evo_agd.evolve.nsga3 import reference_points
from evo_agd.evolve.scoring import Scored
from evo_agd.evolve.search import Search
from evo_agd.space.cost import ConvLayer, Cost
from evo_agd.space.genes import Gene, Genome, SearchSpace

Array = NDArray[np.float64]
SEEDS = 4


@dataclass(frozen=True)
class Problem:
    """Objectives to minimise over a box, under constraints.

    Args:
        evaluate: (n, variables) -> objectives (n, objectives) and constraint values.
        bounds: of the constraint values.
        worst: the reference point of the hypervolume.
    """

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    evaluate: Callable[[Array], tuple[Array, Array]]
    worst: tuple[float, ...]
    bounds: tuple[Bound, ...] = ()
    levels: int = 256
    population: int = 40

    def decoded(self, genomes: Any) -> Array:
        low, high = np.array(self.low), np.array(self.high)
        return low + np.asarray(genomes, dtype=float) / (self.levels - 1) * (high - low)

    def volume(self, objectives: Array, feasible: NDArray[np.bool_]) -> float:
        """Hypervolume of everything feasible that was evaluated."""
        points = objectives[feasible]
        points = points[is_nondominated(points)] if len(points) else points
        return float(hypervolume(points, ref=self.worst)) if len(points) else 0.0

    def excess(self, values: Array) -> Array:
        """Constraints as pymoo has them, at most 0 where kept, relative to their bounds."""
        columns = [
            (b.min - v if b.min is not None else v - b.max) / abs(b.min or b.max)
            for b, v in zip(self.bounds, values.T, strict=True)
        ]
        return np.stack(columns, 1) if columns else np.zeros((len(values), 0))


class Integers(SearchSpace[Genome]):
    """Genomes that stand for themselves and cost nothing."""

    input_size = (1, 1)

    def __init__(self, variables: int, levels: int) -> None:
        self.variables, self.levels = variables, levels

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        return tuple(Gene(f"x{i}", tuple(range(self.levels))) for i in range(self.variables))

    def active(self, genome: Genome) -> tuple[bool, ...]:
        return (True,) * len(genome)

    def decode(self, genome: Genome) -> Genome:
        return genome

    encode = decode

    def name_of(self, architecture: Genome) -> str:
        return ".".join(map(str, architecture))

    def parse(self, name: str) -> Genome:
        return tuple(map(int, name.split(".")))

    def layers(self, architecture: Genome) -> tuple[ConvLayer, ...]:
        return ()

    def cost(self, genome: Genome) -> Cost:
        return Cost(0.0, 0)

    def anchors(self) -> list[Genome]:
        return self.smallest()

    def smallest(self) -> list[Genome]:
        return []  # where a search would begin; a corner is on the front of ZDT's problems

    def count(self) -> int:
        return int(self.levels**self.variables)


class Pool:
    """Scores genomes as it is asked for them."""

    def __init__(self, score: Callable[[Sequence[Genome]], list[dict[str, float]]]) -> None:
        self.score = score
        self.waiting: deque[Sequence[Genome]] = deque()

    def submit(self, genomes: Sequence[Genome], *, race: object = None) -> None:
        self.waiting.append(genomes)

    def collect(self, tick: object = None) -> list[Scored]:
        return [Scored(figures, 0.0) for figures in self.score(self.waiting.popleft())]


def ours(problem: Problem, evaluations: int, seed: int, *, offspring: int | None = None) -> float:
    """Hypervolume that our search reaches."""
    names = [f"f{i}" for i in range(len(problem.worst))]
    limits = [f"g{i}" for i in range(len(problem.bounds))]

    def score(genomes: Sequence[Genome]) -> list[dict[str, float]]:
        objectives, values = problem.evaluate(problem.decoded(genomes))
        rows = np.concatenate([objectives, values], 1).tolist()
        return [dict(zip([*names, *limits], row, strict=True)) for row in rows]

    state = Search(
        Integers(len(problem.low), problem.levels),
        Evolution(
            population=problem.population,
            offspring=offspring,
            evaluations=evaluations,
            mutation=1 / len(problem.low),  # as theirs
            crossovers=DEFAULT_CROSSOVERS,
        ),
        names,
        dict(zip(limits, problem.bounds, strict=True)),
        seed=seed,
        pool=Pool(score),
    ).run()
    assert len({c.genome for c in state.candidates}) == evaluations
    found = np.array([[c.values[n] for n in names] for c in state.candidates])
    return problem.volume(found, np.array([c.violation == 0.0 for c in state.candidates]))


@dataclass
class Recorded:
    objectives: list[Array] = field(default_factory=list)
    feasible: list[NDArray[np.bool_]] = field(default_factory=list)


def theirs(problem: Problem, algorithm: Any, evaluations: int, seed: int) -> float:
    """Hypervolume that pymoo reaches with integers of the same resolution."""
    record = Recorded()

    class Wrapped(PymooProblem):
        def __init__(self) -> None:
            super().__init__(
                n_var=len(problem.low),
                n_obj=len(problem.worst),
                n_ieq_constr=len(problem.bounds),
                xl=0,
                xu=problem.levels - 1,
                vtype=int,
            )

        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"], values = problem.evaluate(problem.decoded(x))
            out["G"] = problem.excess(values)
            record.objectives.append(out["F"])
            record.feasible.append((out["G"] <= 0).all(1))

    minimize(Wrapped(), algorithm, ("n_eval", evaluations), seed=seed)
    objectives, feasible = np.concatenate(record.objectives), np.concatenate(record.feasible)
    assert len(objectives) >= evaluations
    return problem.volume(objectives[:evaluations], feasible[:evaluations])


def by_chance(problem: Problem, evaluations: int, seed: int) -> float:
    """Hypervolume of genomes drawn at random."""
    rng = np.random.default_rng(seed)
    genomes = rng.integers(problem.levels, size=(evaluations, len(problem.low)))
    objectives, _ = problem.evaluate(problem.decoded(genomes))
    return problem.volume(objectives, np.ones(evaluations, dtype=bool))


def integer_operators() -> dict[str, Any]:
    return {
        "sampling": IntegerRandomSampling(),
        "crossover": SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        "mutation": PM(eta=20, vtype=float, repair=RoundingRepair()),
        "eliminate_duplicates": True,
    }


def nothing(x: Array) -> Array:
    return np.zeros((len(x), 0))


def zdt(shape: Callable[[Array, Array], Array]) -> Callable[[Array], tuple[Array, Array]]:
    """Zitzler, Deb and Thiele, Evolutionary Computation 8(2), 2000."""

    def evaluate(x: Array) -> tuple[Array, Array]:
        first, g = x[:, 0], 1 + 9 * x[:, 1:].mean(1)
        return np.stack([first, g * shape(first, g)], 1), nothing(x)

    return evaluate


def tnk(x: Array) -> tuple[Array, Array]:
    """Tanaka et al., IEEE SMC 1995."""
    a, b = x.T
    ring = a**2 + b**2 - 0.1 * np.cos(16 * np.arctan2(a, b))
    return x, np.stack([ring, (a - 0.5) ** 2 + (b - 0.5) ** 2], 1)


def dtlz2(x: Array) -> tuple[Array, Array]:
    """Deb, Thiele, Laumanns and Zitzler, CEC 2002, with four objectives."""
    angles = x[:, :3] * np.pi / 2
    radius = 1 + ((x[:, 3:] - 0.5) ** 2).sum(1)
    cosines = np.cumprod(np.concatenate([np.ones((len(x), 1)), np.cos(angles)], 1), 1)
    sines = np.concatenate([np.sin(angles), np.ones((len(x), 1))], 1)[:, ::-1]
    return radius[:, None] * cosines[:, ::-1] * sines, nothing(x)


ZDT = {"low": (0.0,) * 10, "high": (1.0,) * 10, "worst": (1.1, 1.1)}
PROBLEMS = [
    Problem("ZDT1", evaluate=zdt(lambda f, g: 1 - np.sqrt(f / g)), **ZDT),
    Problem("ZDT2", evaluate=zdt(lambda f, g: 1 - (f / g) ** 2), **ZDT),
    Problem(
        "ZDT3",
        evaluate=zdt(lambda f, g: 1 - np.sqrt(f / g) - f / g * np.sin(10 * np.pi * f)),
        **ZDT,
    ),
    Problem("TNK", (1e-9, 1e-9), (np.pi, np.pi), tnk, (1.1, 1.1), (Bound(min=1), Bound(max=0.5))),
]
DTLZ2 = Problem("DTLZ2", (0.0,) * 8, (1.0,) * 8, dtlz2, (1.1,) * 4, population=56)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_as_good_as_pymoos_nsga2(problem: Problem) -> None:
    algorithm = partial(NSGA2, problem.population, **integer_operators())
    theirs_ = [theirs(problem, algorithm(), 2000, seed) for seed in range(SEEDS)]
    ours_ = [ours(problem, 2000, seed) for seed in range(SEEDS)]
    assert np.mean(ours_) >= 0.99 * np.mean(theirs_)


def test_as_good_as_pymoos_nsga3_with_four_objectives() -> None:
    directions = reference_points(4, DTLZ2.population)
    algorithm = partial(NSGA3, directions, DTLZ2.population, **integer_operators())
    theirs_ = [theirs(DTLZ2, algorithm(), 2000, seed) for seed in range(SEEDS)]
    ours_ = [ours(DTLZ2, 2000, seed) for seed in range(SEEDS)]
    chance = [by_chance(DTLZ2, 2000, seed) for seed in range(SEEDS)]
    assert np.mean(ours_) >= 0.97 * np.mean(theirs_)
    assert min(ours_) > 1.05 * max(chance)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """Few values and few violations, so that many are equal."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, broken = draw(st.integers(1, 40)), draw(st.sampled_from([0.0, 0.3, 1.0]))
    values = rng.integers(draw(st.sampled_from([2, 5, 9, 10**9])), size=(count, 3)).tolist()
    violations = rng.integers(1, 4, count) * (rng.random(count) < broken)
    names = ("gmacs", "psnr", "distillation_loss")
    return [
        Candidate(str(i), (0,), dict(zip(names, row, strict=True)), float(violation), 0, 0.0)
        for i, (row, violation) in enumerate(zip(values, violations, strict=True))
    ]


class Constrained(Fitness):
    """Deb's constrained domination, as DEAP asks for it."""

    weights = (-1.0, 1.0, -1.0)
    violation = 0.0

    def dominates(self, other: Any, obj: slice = slice(None)) -> bool:
        if self.violation or other.violation:
            return self.violation < other.violation
        return super().dominates(other, obj)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Individual:
    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.fitness = Constrained(tuple(candidate.values.values()))
        self.fitness.violation = candidate.violation


@given(candidates(), st.integers(0, 40))
@settings(deadline=None)
def test_fronts_and_survivors_are_deaps(pool: list[Candidate], count: int) -> None:
    objectives = ("gmacs", "psnr", "distillation_loss")
    nsga2 = Nsga2(Integers(1, 2), objectives, crossover_chance=0.9, mutation_chance=0.1)
    fronts = sortNondominated([Individual(c) for c in pool], len(pool))
    expected = {i.candidate.id: level for level, front in enumerate(fronts) for i in front}
    assert levels(pool, objectives) == [expected[c.id] for c in pool]

    ours_ = [c.id for c in nsga2.select(pool, count)]
    theirs_ = [i.candidate.id for i in selNSGA2([Individual(c) for c in pool], count)]
    assert [expected[name] for name in ours_] == [expected[name] for name in theirs_]
    columns = np.array([list(c.values.values()) for c in pool]).T
    if all(len(np.unique(column)) == len(pool) for column in columns):
        # Of two that are equally crowded, as all ends of a front are, either may stay.
        crowding = dict(zip([c.id for c in pool], nsga2.ranks(pool), strict=True))
        assert sorted(crowding[n] for n in ours_) == sorted(crowding[n] for n in theirs_)
