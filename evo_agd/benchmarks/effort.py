"""``benchmark effort``: networks of different spaces, trained alike.

A published network was trained for days on a GPU. Which *shape* is worth its cost shows when all
are trained from scratch with equal effort: the same photographs, teacher, losses, crops drawn
alike, steps, batch, schedule and averaging. Only the peak learning rate is each network's own: the
best on the validation pictures of short trainings at the same few rates. Test sets choose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from time import process_time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evo_agd.benchmarks.alone import Course, budget_of, folder_of
from evo_agd.benchmarks.contenders import Contender, Wanted, named, nearest, told_apart
from evo_agd.benchmarks.quality import BICUBIC, ImageSet, Score, open_sets, text
from evo_agd.config import Settings
from evo_agd.config.settings import StudentTraining
from evo_agd.errors import InputError
from evo_agd.evolve.cluster import cluster
from evo_agd.run.directory import RunDirectory, locked, resume, start
from evo_agd.run.pipeline import Pipeline, resolved
from evo_agd.train.retraining import Member, fresh_student, train_member

TIMED = 10  # steps whose median is a network's time a step


def opened(path: Path, settings: Settings, inputs: str) -> RunDirectory:
    """A new folder for trainings of these settings and inputs, or the one that was begun with them.

    Raises:
        InputError: something else lies there.
    """
    begun = RunDirectory(path).config.exists()
    return resume(path, settings, inputs) if begun else start(path, settings, inputs)


def contenders_of(
    members: Sequence[tuple[Path, str]], wanted: Wanted | None, scale: int, seed: int
) -> list[Contender]:
    """The networks, those at a published cost first.

    Raises:
        InputError: fewer than two, no members, or of another scale than the settings.
    """
    found = [] if wanted is None else nearest(wanted, seed)
    found = told_apart([*found, *(named(path, name) for path, name in members)])
    if len(found) < 2:
        raise InputError("--member", "two networks to compare, or more", len(found))
    for one in found:
        if one.architecture.scale != scale:
            expected = f"a network of scale {scale}, which --like has"
            raise InputError(one.space, expected, f"scale {one.architecture.scale}")
    return found


def seconds_a_step(course: Course, one: Contender, budget: StudentTraining) -> float:
    """Of the processor's, on one core, whatever else keeps it busy: the median of a few steps."""
    marks = [process_time()]
    member = Member(one.id, one.architecture)
    train_member(
        member,
        fresh_student(member),
        course.train,
        budget.model_copy(update={"steps": TIMED + 1}),
        loss=course.loss,
        seed=course.seed,
        bf16=course.bf16,
        tick=lambda step, note: marks.append(process_time()),
    )
    return median(b - a for a, b in pairwise(marks[1:]))  # the first one warms up


def best_rates(
    course: Course,
    contenders: Sequence[Contender],
    rates: Sequence[float],
    folder: Path,
    budget: StudentTraining,
) -> dict[str, dict[float, float]]:
    """What each network reaches on the validation pictures at each rate: by id, dB by rate."""
    members = [Member(one.id, one.architecture, 0, rate) for one in contenders for rate in rates]
    course.run("learning rates", members, folder, budget)
    found: dict[str, dict[float, float]] = {one.id: {} for one in contenders}
    for member in members:
        assert member.rate is not None
        found[member.id][member.rate] = course.psnr(member, folder)
    return found


def effort(
    settings: Settings,
    console: Console,
    *,
    members: Sequence[tuple[Path, str]],
    wanted: Wanted | None,
    tests: Sequence[str],
    to: Path,
    steps: int | None,
    batch: int | None,
    rates: Sequence[float],
    rate_steps: int | None,
    seeds: int,
) -> list[dict[str, Any]]:
    """Train all networks alike and measure them on test sets; prints the tables.

    ``to`` keeps the teacher's answers and every training, for a call that was stopped to go on, and
    for calls with other networks or budgets.

    Args:
        settings: of a super-resolution file: the photographs, teacher, losses and seed are its
            own, and what it says of students but for what is given here.
        members: search-space files with ids of their members.
        tests: folders, as :func:`~evo_agd.benchmarks.quality.open_sets` takes them.
        rates: peak learning rates to choose from; without, that of the students.
        rate_steps: of the trainings that choose; None: a quarter of ``steps``.
        seeds: trainings of each network at its rate.

    Returns:
        A row for bicubic enlargement, and one for each network, the dearest first, whose cost the
        others' are compared with.

    Raises:
        InputError: settings of a translation, or any of the inputs is unusable.
    """
    if settings.scale == 1:
        raise InputError("--like", "a super-resolution file", settings.task)
    pipeline = Pipeline(resolved(settings), console)
    contenders = contenders_of(members, wanted, settings.scale, settings.seed)
    contenders.sort(key=lambda one: one.cost.gmacs, reverse=True)  # the longest trainings first
    sets = open_sets(tests, settings.scale, console)
    run = opened(to, pipeline.settings, pipeline.inputs.digest)
    budget = budget_of(settings.students, steps, batch)
    short = budget_of(budget, rate_steps or max(1, budget.steps // 4), None)
    rates = list(dict.fromkeys(rates)) or [budget.learning_rate]
    with locked(run):
        course = Course.of(pipeline, run)
        seconds = {one.id: seconds_a_step(course, one, budget) for one in contenders}
        tried: dict[str, dict[float, float]] = {}
        with cluster(None, pipeline.workers):
            if len(rates) > 1:
                tried = best_rates(course, contenders, rates, folder_of(to, short), short)
            trained = {
                one.id: [
                    Member(one.id, one.architecture, seed, _best(tried.get(one.id), rates))
                    for seed in range(seeds)
                ]
                for one in contenders
            }
            folder = folder_of(to, budget)
            everyone = [member for one in contenders for member in trained[one.id]]
            course.run("equal effort", everyone, folder, budget)
        psnr = {member.label: course.psnr(member, folder) for member in everyone}
        scores = course.on_sets(sets, everyone, folder)
    rows = [_bicubic(sets, scores[BICUBIC])]
    for one in contenders:
        row = _costs(one, contenders[0]) | {
            "learning_rate": trained[one.id][0].rate,
            "psnr_by_rate": {f"{rate:g}": value for rate, value in tried.get(one.id, {}).items()},
            "steps": budget.steps,
            "batch": budget.batch,
            "seconds": seconds[one.id] * budget.steps,
            "psnr_validation": fmean(psnr[m.label] for m in trained[one.id]),
        }
        rows.append(row | _on_sets(sets, [scores[m.label] for m in trained[one.id]]))
    _show(console, sets, rows, short.steps, seeds)
    return rows


def _best(tried: dict[float, float] | None, rates: Sequence[float]) -> float:
    return max(tried, key=tried.__getitem__) if tried else rates[0]


def _costs(one: Contender, first: Contender) -> dict[str, Any]:
    return {
        "space": one.space,
        "id": one.id,
        "gmacs": one.cost.gmacs,
        "gflops_as_papers": one.as_papers,
        "params": one.cost.params,
        "memory_mb": one.cost.memory_mb,
        "times_cheaper": first.cost.gmacs / one.cost.gmacs,
    }


def _on_sets(sets: Sequence[ImageSet], seeds: Sequence[dict[str, Score]]) -> dict[str, Any]:
    """Means over the seeds on each test set, and each seed's PSNR."""
    return {
        "psnr": {s.name: fmean(scores[s.name].psnr for scores in seeds) for s in sets},
        "ssim": {s.name: fmean(scores[s.name].ssim for scores in seeds) for s in sets},
        "psnr_seeds": {s.name: [scores[s.name].psnr for scores in seeds] for s in sets},
    }


def _bicubic(sets: Sequence[ImageSet], scores: dict[str, Score]) -> dict[str, Any]:
    """The row of bicubic enlargement, which has no cost and no training."""
    keys = ["space", "gmacs", "gflops_as_papers", "params", "memory_mb", "times_cheaper"]
    keys += ["learning_rate", "steps", "batch", "seconds", "psnr_validation"]
    return {"id": BICUBIC, **dict.fromkeys(keys)} | _on_sets(sets, [scores])


def _show(
    console: Console,
    sets: Sequence[ImageSet],
    rows: Sequence[dict[str, Any]],
    rate_steps: int,
    seeds: int,
) -> None:
    steps, batch = rows[-1]["steps"], rows[-1]["batch"]
    title = f"effort: {steps} steps of {batch} crops from scratch, {seeds} seed(s)"
    caption = "as papers: with biases and LeakyReLUs. s: one core's for a training, from a few "
    caption += "timed steps. Times: cheaper in GMACs than the dearest."
    table = Table(title=title, caption=caption)
    table.add_column("space")
    table.add_column("id", overflow="fold")
    headings = ["GMACs", "as papers", "params", "MB", "times", "rate", "s", "validation dB"]
    for heading in (*headings, *(f"{escape(s.name)} {u}" for s in sets for u in ("dB", "SSIM"))):
        table.add_column(heading, justify="right")
    for row in rows:
        figures = [text(row["gmacs"], 2), text(row["gflops_as_papers"], 2)]
        figures.append("-" if row["params"] is None else f"{row['params']:,d}")
        figures += [text(row["memory_mb"], 2), text(row["times_cheaper"], 1)]
        figures.append("-" if row["learning_rate"] is None else f"{row['learning_rate']:g}")
        figures += [text(row["seconds"], 0), text(row["psnr_validation"], 2)]
        for s in sets:
            figures += [text(row["psnr"][s.name], 2), text(row["ssim"][s.name], 4)]
        table.add_row(escape(row["space"] or ""), escape(row["id"]), *figures)
    console.print(table)
    if tried := [row for row in rows if row.get("psnr_by_rate")]:
        rates = Table(title=f"validation dB after {rate_steps} steps, by peak learning rate")
        rates.add_column("id", overflow="fold")
        for rate in tried[0]["psnr_by_rate"]:
            rates.add_column(rate, justify="right")
        for row in tried:
            rates.add_row(escape(row["id"]), *(text(v, 3) for v in row["psnr_by_rate"].values()))
        console.print(rates)
