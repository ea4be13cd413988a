"""``benchmark retraining``: are the supernet's weights a better start than random ones?

Front members are trained on from what they inherit and, with the same crops, steps and schedule,
from scratch, at several budgets. What inheriting is worth shrinks as trainings grow; the table says
where it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors.torch import load_file

from evo_agd.benchmarks.alone import Course, budget_of, folder_of
from evo_agd.benchmarks.quality import ImageSet, open_sets, text
from evo_agd.benchmarks.trained import pipeline_of
from evo_agd.config.settings import StudentTraining
from evo_agd.errors import InputError
from evo_agd.evolve.cluster import cluster
from evo_agd.run.directory import RunDirectory
from evo_agd.run.pipeline import Pipeline
from evo_agd.run.students import chosen_for_retraining
from evo_agd.train.retraining import Member

VALIDATION = "validation"
STARTS = ("inherited", "scratch")

Reached = dict[str, dict[str, list[float]]]
"""PSNR in dB by pictures, by start, of each seed."""


def retraining(
    run: RunDirectory,
    console: Console,
    *,
    members: int,
    steps: Sequence[int],
    batch: int | None,
    seeds: int,
    tests: Sequence[str],
) -> list[dict[str, Any]]:
    """Train front members both ways at each budget and compare; prints the table.

    Trainings that are done are kept in ``RUN/inheriting`` for later calls, and for one that was
    stopped to go on.

    Args:
        members: of the front, chosen as for retraining.
        steps: the budgets.
        tests: folders, as :func:`~evo_agd.benchmarks.quality.open_sets` takes them; PSNR on the
            run's validation pictures is always there.

    Returns:
        A row for each member at each budget, and one that sums each budget up.

    Raises:
        InputError: the run's search is not done, its inputs are others, or test sets are unusable.
    """
    pipeline = pipeline_of(run, console)
    if tests and pipeline.settings.scale == 1:
        raise InputError("--data", "none, since a translation has no test sets", tests[0])
    sets = open_sets(tests, pipeline.settings.scale, console)
    entries = chosen_for_retraining(run.read_front(), members)
    course = Course.of(pipeline, run)
    names = [entry["id"] for entry in entries]
    trained = {n: [Member(n, pipeline.space.parse(n), s) for s in range(seeds)] for n in names}
    found: list[dict[str, Any]] = []
    with cluster(None, pipeline.workers):
        for count in sorted(set(steps)):
            budget = budget_of(pipeline.settings.students, count, batch)
            reached = _reached(run, pipeline, course, sets, trained, budget)
            rows = [_row(entry, budget, reached[entry["id"]]) for entry in entries]
            found += [*rows, _summary(rows, budget)]
    _show(console, found, seeds)
    return found


def _row(entry: dict[str, Any], budget: StudentTraining, reached: Reached) -> dict[str, Any]:
    """A front member at a budget; differences are inherited minus from scratch, in dB."""
    return {
        "steps": budget.steps,
        "batch": budget.batch,
        "id": entry["id"],
        "gmacs": entry["gmacs"],
        "psnr_supernet": entry["psnr"],
        "psnr": reached,
        "difference": {
            pictures: fmean(by_start["inherited"]) - fmean(by_start["scratch"])
            for pictures, by_start in reached.items()
        },
    }


def _reached(
    run: RunDirectory,
    pipeline: Pipeline,
    course: Course,
    sets: Sequence[ImageSet],
    trained: dict[str, list[Member]],
    budget: StudentTraining,
) -> dict[str, Reached]:
    """Train a budget's members both ways; what each reaches, by id."""
    everyone = [member for members in trained.values() for member in members]
    weights = load_file(run.supernet)
    found: dict[str, Reached] = {
        name: {pictures: {} for pictures in (VALIDATION, *(s.name for s in sets))}
        for name in trained
    }
    for start in STARTS:
        folder = folder_of(run.path / "inheriting" / start, budget)
        inheriting = (pipeline.space, weights) if start == "inherited" else ()
        course.run(f"{budget.steps} steps, {start}", everyone, folder, budget, *inheriting)
        scores = course.on_sets(sets, everyone, folder)
        for name, members in trained.items():
            found[name][VALIDATION][start] = [course.psnr(m, folder) for m in members]
            for s in sets:
                found[name][s.name][start] = [scores[m.label][s.name].psnr for m in members]
    return found


def _summary(rows: Sequence[dict[str, Any]], budget: StudentTraining) -> dict[str, Any]:
    """Mean difference over a budget's members, and how far single members' lie around it."""
    by_pictures = {p: [row["difference"][p] for row in rows] for p in rows[0]["difference"]}
    return {
        "summary": f"{budget.steps} steps of {budget.batch} crops, {len(rows)} members",
        "steps": budget.steps,
        "mean_difference": {p: fmean(values) for p, values in by_pictures.items()},
        "spread": {p: stdev(v) if len(v) > 1 else None for p, v in by_pictures.items()},
    }


def _show(console: Console, rows: Sequence[dict[str, Any]], seeds: int) -> None:
    members = [row for row in rows if "id" in row]
    pictures = list(members[0]["difference"])
    table = Table(title=f"retraining: inherited (i) and from scratch (s), {seeds} seed(s), dB")
    table.add_column("steps", justify="right")
    table.add_column("id", overflow="fold")
    headings = [f"{escape(p)} {which}" for p in pictures for which in ("i", "s", "i - s")]
    for heading in ("GMACs", "supernet", *headings):
        table.add_column(heading, justify="right")
    for row in members:
        figures = [text(row["gmacs"], 2), text(row["psnr_supernet"], 2)]
        for p in pictures:
            figures += [text(fmean(row["psnr"][p][start]), 2) for start in STARTS]
            figures.append(f"{row['difference'][p]:+.3f}")
        table.add_row(str(row["steps"]), escape(row["id"]), *figures)
    console.print(table)
    for row in rows:
        if "summary" in row:
            each = [
                f"{escape(p)} {value:+.3f} (spread {text(row['spread'][p], 3)})"
                for p, value in row["mean_difference"].items()
            ]
            console.print(f"{row['summary']}: inherited minus from scratch {', '.join(each)} dB")
