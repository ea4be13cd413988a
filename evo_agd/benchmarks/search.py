"""``benchmark search``: is the evolution worth having?

Our search, random search and pymoo's NSGA-II (Blank and Deb, IEEE Access 2020) on one trained
supernet, at equal numbers of scored architectures, over several seeds; and, where the space is
small enough to score every member, against the true front.

Hypervolume is that of the run's objectives, each scaled so that the box from the best value of all
fronts to a tenth of their spread beyond the worst has volume 1; all methods and seeds share it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from evo_agd.benchmarks.enumeration import every_genome
from evo_agd.benchmarks.trained import pipeline_of
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import (
    Candidate,
    affordable,
    cost_values,
    front,
    minimised,
    violation,
    volume,
)
from evo_agd.evolve.cluster import cluster
from evo_agd.evolve.scoring import Scored
from evo_agd.evolve.search import Pool, Race, Search, candidate_of
from evo_agd.evolve.state import scored
from evo_agd.files import write_text
from evo_agd.progress import bar
from evo_agd.run.directory import RunDirectory
from evo_agd.run.pipeline import Pipeline
from evo_agd.space.genes import Genome

DRAW = 8  # random-stream key
CURVE = (0.1, 0.2, 0.5, 1.0)  # of the evaluations
SHARES = (0.02, 0.05, 0.10)  # of an enumerated space
STORE = 400  # new scores between writes
METHODS = ("evolution", "random", "pymoo")

Found = Mapping[tuple[str, int], Sequence[Candidate]]
"""What each method and seed scored, in its order."""


class Scores:
    """A pool that asks another one only for what has not been scored yet, and keeps it in a file.

    Scores depend on the architecture alone, so all methods and seeds may share them. What failed is
    not written: a worker that died says nothing about the next one.

    Raises:
        InputError: the file is damaged.
    """

    def __init__(self, run: RunDirectory, pool: Pool, tick: Callable[[int, str], None]) -> None:
        self.file = run.path / "benchmark" / "scores.json"
        self.pool = pool
        self.tick = tick
        self.known: dict[Genome, dict[str, float] | None] = {}
        self.stored = 0
        self.waiting: deque[Sequence[Genome]] = deque()
        if self.file.exists():
            try:
                raw = json.loads(self.file.read_text())
                self.known = {tuple(map(int, k.split())): dict(v) for k, v in raw.items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise InputError(self.file, "scores that this benchmark wrote", error) from error
            self.stored = len(self.known)
            self.tick(self.stored, "")

    def submit(self, genomes: Sequence[Genome], *, race: Race | None = None) -> None:
        """Hand genomes in; there are no races here."""
        self.waiting.append(genomes)

    def collect(self, tick: Callable[[int], None] = lambda done: None) -> list[Scored]:
        """The oldest submission's scores."""
        genomes = self.waiting.popleft()
        missing = list(dict.fromkeys(g for g in genomes if g not in self.known))
        if missing:
            before = len(self.known)
            self.pool.submit(missing)
            found = self.pool.collect(lambda done: self.tick(before + done, ""))
            for genome, scored in zip(missing, found, strict=True):
                self.known[genome] = scored.figures
            if len(self.known) - self.stored >= STORE:
                self.store()
        tick(len(genomes))
        return [
            Scored(self.known[g], 0.0, "" if self.known[g] is not None else "failed")
            for g in genomes
        ]

    def store(self) -> None:
        """Write what is known."""
        found = {" ".join(map(str, k)): v for k, v in self.known.items() if v is not None}
        write_text(self.file, json.dumps(found))
        self.stored = len(self.known)


def evolution(pipeline: Pipeline, scores: Pool, evaluations: int, seed: int) -> list[Candidate]:
    """What our search scores, in its order."""
    settings = pipeline.settings
    update = {"evaluations": evaluations, "patience": None, "racing": None}
    search = Search(
        pipeline.space,
        settings.search.model_copy(update=update),
        settings.objectives,
        settings.constraints,
        seed=seed,
        pool=scores,
    )
    return search.run().candidates


def random_search(pipeline: Pipeline, scores: Pool, evaluations: int, seed: int) -> list[Candidate]:
    """Distinct uniform members that keep the constraints on cost."""
    rng = np.random.default_rng([seed, DRAW])
    found: dict[Genome, None] = {}
    for _ in range(1000 * evaluations):
        if len(found) == evaluations:
            break
        genome = pipeline.space.random(rng)
        if _affordable(pipeline, genome):
            found[genome] = None
    scores.submit(list(found))
    return _candidates(pipeline, list(found), scores.collect())


def pymoo_search(pipeline: Pipeline, scores: Pool, evaluations: int, seed: int) -> list[Candidate]:
    """What pymoo's NSGA-II scores, in its order.

    Integers with simulated binary crossover and polynomial mutation, rounded, at the indices that
    pymoo's NSGA-II has of its own (its manual's example of integers has 3 for both). Two genomes of
    one network are duplicates, and a network counts once; but pymoo keeps the values of genes that
    have no effect, since a block that comes to life with the first choice of everything holds it
    back: 0.8 instead of 0.9 of the enumerated space's front after 5 % of it. What breaks a
    constraint on cost it is told without scoring, and it does not count.
    """
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.duplicate import DuplicateElimination
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    space, settings = pipeline.space, pipeline.settings
    found: list[Candidate] = []
    cache: dict[Genome, Candidate] = {}

    def canonical(x: NDArray[Any]) -> Genome:
        highest = [len(g.choices) - 1 for g in space.genes]
        return space.canonical(tuple(int(v) for v in np.clip(np.rint(x), 0, highest)))

    class Networks(DuplicateElimination):  # type: ignore[misc]
        def _do(self, pop: Any, other: Any, is_duplicate: NDArray[Any]) -> NDArray[Any]:
            seen = set() if other is None else {canonical(i.X) for i in other}
            for place, individual in enumerate(pop):
                genome = canonical(individual.X)
                is_duplicate[place] |= genome in seen
                seen.add(genome)
            return is_duplicate

    class Task(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(
                n_var=len(space.genes),
                n_obj=len(settings.objectives),
                n_ieq_constr=1,
                xl=0,
                xu=np.array([len(g.choices) - 1 for g in space.genes]),
                vtype=int,
            )

        def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *a: Any, **b: Any) -> None:
            genomes = [canonical(row) for row in x]
            new = [g for g in dict.fromkeys(genomes) if g not in cache and _affordable(pipeline, g)]
            new = new[: evaluations - len(found)]
            scores.submit(new)
            for candidate in _candidates(pipeline, new, scores.collect()):
                cache[candidate.genome] = candidate
                found.append(candidate)
            worst = [1e9] * len(settings.objectives)
            rows, broken = [], []
            for genome in genomes:
                known = cache.get(genome)
                failed = known is None or known.failed
                rows.append(
                    worst if failed else minimised([known], settings.objectives)[0].tolist()  # type: ignore[list-item]
                )
                costs = cost_values(space.cost(genome))
                broken.append(
                    known.violation if known else max(1e-9, violation(costs, settings.constraints))
                )
            out["F"], out["G"] = np.array(rows), np.array(broken)[:, None]

    algorithm = NSGA2(
        pop_size=settings.search.population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        mutation=PM(eta=20, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=Networks(),
    )
    for attempt in range(1000):  # it counts what it is told without scoring, so it may end early
        before = len(found)
        generations = ("n_eval", 20 * evaluations)
        minimize(
            Task(),
            algorithm,
            generations,
            seed=seed + 1000 * attempt,
            verbose=False,
            copy_algorithm=True,
            callback=_until(found, evaluations),
        )
        if len(found) >= evaluations or len(found) == before:
            break
    return found


def _until(found: list[Candidate], evaluations: int) -> Any:
    from pymoo.core.callback import Callback

    class Enough(Callback):  # type: ignore[misc]
        def notify(self, algorithm: Any) -> None:
            if len(found) >= evaluations:
                algorithm.termination.force_termination = True

    return Enough()


SEARCHES: dict[str, Callable[[Pipeline, Pool, int, int], list[Candidate]]] = {
    "evolution": evolution,
    "random": random_search,
    "pymoo": pymoo_search,
}


def _affordable(pipeline: Pipeline, genome: Genome) -> bool:
    return affordable(genome, pipeline.space, pipeline.settings.constraints)


def _candidates(
    pipeline: Pipeline, genomes: Sequence[Genome], results: Sequence[Scored]
) -> list[Candidate]:
    return [
        candidate_of(genome, result, pipeline.space, pipeline.settings.constraints)
        for genome, result in zip(genomes, results, strict=True)
    ]


class Volume:
    """Hypervolume in a box that all fronts share."""

    def __init__(self, fronts: Sequence[Sequence[Candidate]], objectives: Sequence[str]) -> None:
        self.objectives = tuple(objectives)
        points = np.concatenate([minimised(f, objectives) for f in fronts if f])
        self.low = points.min(axis=0)
        self.high = points.max(axis=0) + 0.1 * np.maximum(np.ptp(points, axis=0), 1e-12)

    def __call__(self, candidates: Sequence[Candidate]) -> float:
        """0 for none, 1 for the box's best corner."""
        return volume(scored(candidates), self.objectives, self.high, self.low)


def _front(candidates: Sequence[Candidate], objectives: Sequence[str]) -> list[Candidate]:
    return front(scored(candidates), objectives)


def search(
    run: RunDirectory,
    console: Console,
    *,
    seeds: int,
    evaluations: int | None,
    enumerated: bool,
) -> list[dict[str, Any]]:
    """Compare; prints the table and returns its rows, the last one a summary.

    What is scored is kept in ``RUN/benchmark``, so that a call that was stopped goes on.

    Args:
        evaluations: of each method and seed; without, what the settings say. Of an enumerated space
            a tenth.

    Raises:
        InputError: the supernet is not trained, the space is too large to enumerate, or pymoo is
            missing.
    """
    if find_spec("pymoo") is None:  # before anything is scored
        raise InputError("benchmark search", "pymoo (pip install pymoo)", "none")
    pipeline = pipeline_of(run, console)
    settings = pipeline.settings
    everyone = every_genome(pipeline.space) if enumerated else []
    everyone = [g for g in everyone if _affordable(pipeline, g)]
    count = evaluations or settings.search.evaluations
    if everyone:
        count = round(SHARES[-1] * len(everyone))
    train, validation = pipeline.teach(run)
    weights = load_file(run.supernet)
    total = len(everyone) or seeds * len(METHODS) * count
    with cluster(None, pipeline.workers), bar(console, "scores", total) as tick:
        pool = pipeline.pool(weights, train, validation)
        scores = Scores(run, pool, tick)
        try:
            truth, found = score_all(pipeline, scores, seeds=seeds, count=count, everyone=everyone)
        finally:  # also of one that is stopped
            scores.store()
        pool.close()
    rows = compared(found, truth, settings.objectives, count)
    _show(console, rows)
    return rows


def score_all(
    pipeline: Pipeline, scores: Pool, *, seeds: int, count: int, everyone: Sequence[Genome]
) -> tuple[list[Candidate], Found]:
    """``everyone``, and what each method and seed scores with so many evaluations."""
    truth: list[Candidate] = []
    for first in range(0, len(everyone), STORE):
        part = everyone[first : first + STORE]
        scores.submit(part)
        truth += _candidates(pipeline, part, scores.collect())
    found = {
        (method, seed): SEARCHES[method](pipeline, scores, count, seed)
        for seed in range(seeds)
        for method in METHODS
    }
    return truth, found


def compared(
    found: Found, truth: Sequence[Candidate], objectives: Sequence[str], count: int
) -> list[dict[str, Any]]:
    """A row for each method and seed, and a summary.

    Args:
        truth: all members, of an enumerated space; the volumes are shares of theirs.
        count: evaluations of each method and seed.

    Raises:
        InputError: nothing that was scored keeps the constraints.
    """
    fronts = [_front(candidates, objectives) for candidates in (*found.values(), truth)]
    if not any(fronts):
        raise InputError("constraints", "some architecture that keeps them", "none that was scored")
    size = Volume(fronts, objectives)
    marks = SHARES if truth else CURVE
    whole = len(truth) or count
    best = size(truth) if truth else 1.0
    rows: list[dict[str, Any]] = [
        {
            "method": method,
            "seed": seed,
            "evaluations": len(candidates),
            "volumes": {f"{m:g}": size(candidates[: round(m * whole)]) / best for m in marks},
        }
        for (method, seed), candidates in found.items()
    ]
    return [*rows, _summary(rows, marks, true=len(truth))]


def _summary(
    rows: Sequence[dict[str, Any]], marks: Sequence[float], *, true: int
) -> dict[str, Any]:
    means: dict[str, dict[str, float]] = {}
    spreads: dict[str, dict[str, float]] = {}
    for method in METHODS:
        mine = [row["volumes"] for row in rows if row["method"] == method]
        means[method] = {f"{m:g}": float(np.mean([v[f"{m:g}"] for v in mine])) for m in marks}
        spreads[method] = {f"{m:g}": float(np.std([v[f"{m:g}"] for v in mine])) for m in marks}
    last = f"{marks[-1]:g}"

    def ratio(other: str) -> float | None:
        """To another method, which may have found nothing."""
        theirs = means[other][last]
        return means["evolution"][last] / theirs if theirs else None

    return {
        "summary": "share of the true front's hypervolume" if true else "hypervolume",
        "members": true or None,
        "means": means,
        "spreads": spreads,
        "to_random": ratio("random"),
        "to_pymoo": ratio("pymoo"),
    }


def _show(console: Console, found: Sequence[dict[str, Any]]) -> None:
    *rows, summary = found
    marks = list(summary["means"][METHODS[0]])
    seeds = len({row["seed"] for row in rows})
    count = max(row["evaluations"] for row in rows)
    table = Table(title=f"search: {summary['summary']}, mean and spread over {seeds} seeds")
    table.add_column("method")
    for mark in marks:
        of = "space" if summary["members"] else f"{count} evaluations"
        table.add_column(f"{float(mark):.0%} of {of}", justify="right")
    for method in METHODS:
        means, spreads = summary["means"][method], summary["spreads"][method]
        table.add_row(method, *(f"{means[m]:.4f} ± {spreads[m]:.4f}" for m in marks))
    console.print(table)
    for name in ("random", "pymoo"):
        ratio = summary[f"to_{name}"]
        text = "nothing to compare with" if ratio is None else f"{ratio:.3f} times its hypervolume"
        console.print(f"evolution beside {name}, at the end: {text}")
    console.print("what pymoo proposes against a constraint on cost is not scored nor counted")
