"""``benchmark rank``: does the supernet's score tell how good an architecture is?

Architectures are drawn at random, scored on the run's supernet, and trained alone from scratch with
a fixed budget and several seeds. Kendall's tau and Spearman's rho compare the score with the mean
over seeds, beside what the cost alone would say and what one training says about another.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from scipy.stats import kendalltau, spearmanr

from evo_agd.benchmarks.alone import Course, budget_of, folder_of
from evo_agd.benchmarks.trained import pipeline_of
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import cost_values, violation
from evo_agd.evolve.cluster import cluster
from evo_agd.progress import bar
from evo_agd.run.directory import RunDirectory
from evo_agd.run.pipeline import Pipeline
from evo_agd.space.genes import Genome
from evo_agd.train.loop import cores
from evo_agd.train.retraining import Member

DRAW = 4  # random-stream key
NEAR = 0.10  # share by which --near-gmacs may be missed
DRAWS = 200_000  # before a cost counts as one that the space does not have


@dataclass(frozen=True)
class Agreement:
    """How well the supernet's scores, and cost, order what training alone reaches (dB)."""

    tau_score: float
    rho_score: float
    tau_gmacs: float
    rho_gmacs: float
    tau_seeds: float | None
    """Between two trainings of the same architectures, mean over pairs of seeds."""
    spread_architectures: float
    """Standard deviation of the seeds' means."""
    spread_seeds: float | None
    """Standard deviation of one training around its architecture's mean, pooled."""
    mean_gap: float
    """Trained alone minus supernet score, mean."""


def agreement(
    scores: Sequence[float], gmacs: Sequence[float], alone: NDArray[np.float64]
) -> Agreement:
    """The statistics of ``alone`` (architectures, seeds) in dB against scores and costs."""
    means = alone.mean(axis=1)
    seeds = alone.shape[1]
    pairs = list(itertools.combinations(range(seeds), 2))
    taus = [float(kendalltau(alone[:, a], alone[:, b]).statistic) for a, b in pairs]
    within = float(np.sqrt(alone.var(axis=1, ddof=1).mean())) if seeds > 1 else None
    return Agreement(
        tau_score=float(kendalltau(scores, means).statistic),
        rho_score=float(spearmanr(scores, means).statistic),
        tau_gmacs=float(kendalltau(gmacs, means).statistic),
        rho_gmacs=float(spearmanr(gmacs, means).statistic),
        tau_seeds=float(np.mean(taus)) if taus else None,
        spread_architectures=float(means.std(ddof=1)),
        spread_seeds=within,
        mean_gap=float((means - np.asarray(scores)).mean()),
    )


def draw(pipeline: Pipeline, count: int, near_gmacs: float | None, seed: int) -> list[Genome]:
    """Distinct random members that keep the run's constraints on cost, near one cost if asked.

    Raises:
        InputError: the space has too few such members.
    """
    rng = np.random.default_rng([seed, DRAW])
    space, found = pipeline.space, dict[Genome, None]()
    for _ in range(DRAWS):
        if len(found) == count:
            return list(found)
        genome = space.random(rng)
        cost = space.cost(genome)
        if violation(cost_values(cost), pipeline.settings.constraints):
            continue
        if near_gmacs is None or abs(cost.gmacs - near_gmacs) <= NEAR * near_gmacs:
            found[genome] = None
    where = "" if near_gmacs is None else f" within 10 % of {near_gmacs:g} GMACs"
    raise InputError("--members", f"at most {len(found)}, all that were found{where}", count)


def rank(
    run: RunDirectory,
    console: Console,
    *,
    members: int,
    near_gmacs: float | None,
    seeds: int,
    steps: int | None,
    batch: int | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Score, train alone, compare; prints the table and returns its rows.

    Trainings that are done are kept in ``RUN/rank`` for later calls with the same budget, and for
    one that was stopped to go on.
    """
    pipeline = pipeline_of(run, console)
    course = Course.of(pipeline, run)
    budget = budget_of(pipeline.settings.students, steps, batch)
    genomes = draw(pipeline, members, near_gmacs, seed)
    folder = folder_of(run.path / "rank", budget)
    trained = [
        Member(pipeline.space.id_of(g), pipeline.space.decode(g), s)
        for g in genomes
        for s in range(seeds)
    ]
    weights = load_file(run.supernet)
    with cluster(None, pipeline.workers):
        pool = pipeline.pool(weights, course.train, course.validation)
        with bar(console, "supernet scores", len(genomes)) as tick:
            pool.submit(genomes)
            results = pool.collect(lambda done: tick(done, ""))
        pool.close()
        scores = [r.figures["psnr"] if r.figures else float("nan") for r in results]
        course.run("training alone", trained, folder, budget)
    alone = np.array([course.psnr(m, folder) for m in trained]).reshape(len(genomes), seeds)
    gmacs = [pipeline.space.cost(g).gmacs for g in genomes]
    rows: list[dict[str, Any]] = [
        {
            "id": pipeline.space.id_of(g),
            "gmacs": cost,
            "psnr_supernet": supernet,
            "psnr_alone": float(values.mean()),
            "psnr_alone_seeds": values.tolist(),
        }
        for g, cost, supernet, values in zip(genomes, gmacs, scores, alone, strict=True)
    ]
    rows.sort(key=lambda row: row["psnr_alone"])
    found = agreement(scores, gmacs, alone)
    note = f"{budget.steps} steps of {budget.batch} crops alone, {seeds} seed(s), {cores()} cores"
    _show(console, rows, found, note)
    return [*rows, {"summary": note, **found.__dict__}]


def _show(console: Console, rows: list[dict[str, Any]], found: Agreement, note: str) -> None:
    table = Table(title=f"rank: {len(rows)} architectures, {note}")
    table.add_column("id", no_wrap=True)
    for heading in ("GMACs", "supernet dB", "alone dB", "seeds"):
        table.add_column(heading, justify="right")
    for row in rows:
        each = " ".join(f"{v:.2f}" for v in row["psnr_alone_seeds"])
        figures = (f"{row['gmacs']:.2f}", f"{row['psnr_supernet']:.3f}")
        table.add_row(row["id"], *figures, f"{row['psnr_alone']:.3f}", each)
    console.print(table)

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    console.print(f"supernet score: tau {text(found.tau_score)}, rho {text(found.rho_score)}")
    console.print(f"GMACs alone:    tau {text(found.tau_gmacs)}, rho {text(found.rho_gmacs)}")
    console.print(f"between seeds:  tau {text(found.tau_seeds)}")
    console.print(
        f"spread of architectures {text(found.spread_architectures)} dB, of seeds "
        f"{text(found.spread_seeds)} dB; alone minus supernet {text(found.mean_gap)} dB"
    )
