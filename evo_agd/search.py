"""``python -m evo_agd.search``: from a teacher and photographs to small networks."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from evo_agd.config import load
from evo_agd.config.load import DEFAULT
from evo_agd.errors import InputError

RUNS = Path("runs")
# By name: with `python -m` this module is __main__, whose logger nobody listens to.
log = logging.getLogger("evo_agd.search")
logging.getLogger("evo_agd").addHandler(logging.NullHandler())  # until there is a log.txt


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m evo_agd.search",
        description="Train a supernet under distillation, search it, retrain and quantize its "
        "Pareto front. Exit status: 0 done, 1 failed, 2 bad input, 130 stopped (resumable).",
    )
    result.add_argument(
        "space", nargs="?", type=Path, metavar="SPACE.yaml", help=f"default: embedded {DEFAULT}"
    )
    result.add_argument("--run", type=Path, metavar="DIR", help="default: runs/NAME-DATE-TIME")
    result.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, as in --set search.evaluations=200; may be repeated",
    )
    result.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --run, or with the newest unfinished one of this space",
    )
    result.add_argument(
        "--students",
        nargs="+",
        default=[],
        metavar="ID",
        help="members to retrain, by id, or how many, or `all`; with --resume more of a run that "
        "is done (students.ids, students.count)",
    )
    result.add_argument(
        "--latency-table",
        action="append",
        default=[],
        metavar="FILE",
        help="milliseconds per layer, made by `python -m evo_agd.benchmark latency`; with one "
        "there is latency_ms, with one of --int8 latency_int8_ms, for objectives and "
        "constraints; may be given for both",
    )
    result.add_argument("--address", metavar="RAY", help="a Ray cluster (default: this machine)")
    return result


def guarded(main: Callable[[], None], stopped: str = "stopped") -> int:
    """Run a door and turn what may go wrong into its exit status and one line on stderr.

    Args:
        stopped: what to say after Ctrl-C.
    """
    try:
        main()
    except InputError as error:
        log.info("refused: %s", error)
        print(f"evo_agd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"evo_agd: {stopped}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        log.error("failed", exc_info=True)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"evo_agd: failed: {reason[:600]}", file=sys.stderr)
        return 1
    return 0


def newest_unfinished(name: str | None) -> Path:
    """The newest run in ``runs/`` without a report, of one space or of any.

    Raises:
        InputError: there is none.
    """
    pattern = f"{name or '*'}-[0-9]*-[0-9]*/config.yaml"
    there = sorted(RUNS.glob(pattern), key=lambda p: p.stat().st_mtime)
    for config in reversed(there):
        if not (config.parent / "report.html").exists():
            return config.parent
    raise InputError(RUNS, f"an unfinished run{f' of {name}' if name else ''} to resume", "none")


def choice_of(words: Sequence[str]) -> list[str]:
    """The assignments that ``--students`` stands for: ids, or one number, or ``all``."""
    if not words:
        return []
    if len(words) == 1 and (words[0] == "all" or words[0].isdecimal()):
        return ["students.ids=[]", f"students.count={words[0]}"]
    return [f"students.ids={json.dumps(list(words))}"]


def _log_to(path: Path) -> None:
    try:
        handler = logging.FileHandler(path)
    except OSError as error:
        raise InputError(path, "a place that can be written to", error.strerror) from error
    logging.raiseExceptions = False  # a full disk is told once, by what it really stops
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("evo_agd")
    root.propagate = False
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def search(arguments: argparse.Namespace) -> None:
    """Do the main job.

    Raises:
        InputError: see ``docs/architecture.md``, Bad input.
    """
    # Late: the command line should answer --help and typing errors before torch is loaded.
    from evo_agd.deploy.latency_table import setting_of
    from evo_agd.evolve.cluster import check_outlives_job
    from evo_agd.run.directory import RunDirectory, choose, locked, resume, start
    from evo_agd.run.pipeline import Pipeline, resolved
    from evo_agd.run.students import chosen

    console = Console(highlight=False)
    assignments = [*arguments.set, *choice_of(arguments.students)]
    for file in arguments.latency_table:
        table = Path(file).resolve()
        assignments.append(f"{setting_of(table)}={table}")
    name = (arguments.space or Path(DEFAULT)).stem
    if arguments.resume:
        path = arguments.run or newest_unfinished(arguments.space and arguments.space.stem)
    else:
        path = arguments.run or RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    check_outlives_job(path)
    if arguments.resume:
        RunDirectory(path).check()
        own = RunDirectory(path).config
        settings = resolved(load(arguments.space or own, assignments))
        pipeline = Pipeline(settings, console, arguments.address)
        run = resume(path, settings, pipeline.inputs.digest)
        name = path.name
    else:
        settings = resolved(load(arguments.space, assignments))
        pipeline = Pipeline(settings, console, arguments.address)
        run = start(path, settings, pipeline.inputs.digest)
    if pipeline.address is not None:
        run = RunDirectory(run.path.resolve())
    teacher = pipeline.inputs.teacher
    console.print(
        f"{name}: {pipeline.space.count():.2g} architectures, teacher "
        f"{teacher.architecture} with {teacher.params:,} parameters, "
        f"{pipeline.workers} workers, {settings.compute.precision.upper()}, in {run.path}"
    )
    with locked(run):
        _log_to(run.log)
        log.info("started: %s", " ".join(sys.argv))
        if run.front.exists():
            chosen(run, settings)  # or refuse, before anything is changed
        choose(run, settings)
        pipeline.run(run)
    from evo_agd.report.retraining import stopped
    from evo_agd.report.table import front_rows, size_of_front, student_table

    rows = front_rows(run)
    members = size_of_front(rows)
    console.print(f"{members} members on the front; `python -m evo_agd.pareto {run.path}` lists")
    console.print("them, and takes one away with `--pick ID --to DIR`")
    if students := student_table(rows):
        console.print(students)
    for text in stopped(rows):
        console.print(text)
    # Not through the console: a path must stay on one line, to be clicked or piped.
    print(run.report)


def main(arguments: Sequence[str] | None = None) -> int:
    """The door; returns the exit status."""
    parsed = parser().parse_args(arguments)
    return guarded(lambda: search(parsed), "stopped; --resume goes on where a run has begun")


if __name__ == "__main__":
    sys.exit(main())
