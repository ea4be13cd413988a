"""``python -m evo_agd.pareto``: look at a run's front, take a member away."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evo_agd.errors import InputError
from evo_agd.files import write_bytes
from evo_agd.report.retraining import stopped
from evo_agd.report.table import Row, front_rows, front_table, student_table
from evo_agd.run.directory import RunDirectory
from evo_agd.search import guarded


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m evo_agd.pareto",
        description="Show the Pareto front of a run, or take one of its students away.",
    )
    result.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    result.add_argument("--json", action="store_true", help="the members as JSON, on stdout")
    result.add_argument("--html", type=Path, metavar="FILE", help="copy the run's page there")
    result.add_argument("--max-gmacs", type=float, metavar="X", help="only members this cheap")
    result.add_argument("--min-psnr", type=float, metavar="Y", help="only members this good, in dB")
    result.add_argument("--pick", metavar="ID", help="the student to take away; needs --to")
    result.add_argument("--to", type=Path, metavar="DIR", help="where to; must not exist yet")
    return result


def best_psnr(row: Row) -> float:
    """What a member reached: retrained if it was, else in the supernet."""
    return float(row["student"]["psnr"] if row["student"] else row["psnr"])


def pick(run: RunDirectory, rows: list[Row], name: str, to: Path) -> Path:
    """Copy a student's folder to ``to``, whole or not at all.

    Raises:
        InputError: no such member, one that was not retrained, or ``to`` is in the way.
    """
    ready = [r["id"] for r in rows if r["student"]]
    if name not in ready:
        ended = {r["id"]: r["stopped"] for r in rows}
        why = "which was not retrained" if name in ended else "which is not on the front"
        if end := ended.get(name):
            why = f"which was stopped early, dominated by {end['by']}"
        found = f"{name}, {why}"
        listed = ", ".join(ready) or "none"
        raise InputError(run.path, f"a retrained member ({listed})", found)
    if to.exists():
        raise InputError(to, "a folder that does not exist yet", "something there")
    partial = to.with_name(f".{to.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(run.student(name), partial)
        partial.rename(to)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(to, "a place that can be written to", error.strerror or error) from error
    return to


def pareto(arguments: argparse.Namespace) -> None:
    """Show or pick.

    Raises:
        InputError: not a run directory, or nothing in it yet; see :func:`pick`.
    """
    if bool(arguments.pick) != bool(arguments.to):
        given, other = ("--pick", "--to") if arguments.pick else ("--to", "--pick")
        raise InputError(given, f"{other} beside it", "nothing")
    run = RunDirectory(arguments.run)
    run.settings()
    rows = front_rows(run)
    if arguments.max_gmacs is not None:
        rows = [r for r in rows if r["gmacs"] <= arguments.max_gmacs]
    if arguments.min_psnr is not None:
        rows = [r for r in rows if best_psnr(r) >= arguments.min_psnr]
    if arguments.pick:
        folder = pick(run, rows, arguments.pick, arguments.to)
        print(*sorted(str(p) for p in folder.iterdir()), sep="\n")
        return
    if arguments.html:
        if not run.report.is_file():
            raise InputError(run.path, "a run with a report.html", "none")
        write_bytes(arguments.html, run.report.read_bytes())
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        console = Console(highlight=False)
        console.print(front_table(run, rows))
        if students := student_table(rows):
            console.print(students)
        for text in stopped(rows):
            console.print(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The door; returns the exit status."""
    parsed = parser().parse_args(arguments)
    return guarded(lambda: pareto(parsed))


if __name__ == "__main__":
    sys.exit(main())
