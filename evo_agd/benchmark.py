"""``python -m evo_agd.benchmark``: the tables behind the claims."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evo_agd.files import write_json
from evo_agd.search import guarded


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return value


def _at_least_two(text: str) -> int:
    if _positive(text) < 2:
        raise argparse.ArgumentTypeError("expected 2 or more, one has no rank")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m evo_agd.benchmark", description=__doc__)
    names = result.add_subparsers(dest="name", required=True)
    rank = names.add_parser("rank", help="supernet scores against training alone")
    rank.add_argument("run", type=Path, metavar="RUN", help="a run whose supernet is trained")
    rank.add_argument("--members", type=_at_least_two, default=16, help="architectures (16)")
    rank.add_argument("--near-gmacs", type=float, metavar="X", help="only within 10 %% of X GMACs")
    rank.add_argument("--seeds", type=_positive, default=1, help="trainings of each (1)")
    rank.add_argument("--steps", type=_positive, help="of each training (those of the students)")
    rank.add_argument("--batch", type=_positive, help="of each step (that of the students)")
    rank.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    rank.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    return result


def benchmark(arguments: argparse.Namespace) -> None:
    """Run the benchmark that was asked for."""
    # Late: the command line should answer --help and typing errors before torch is loaded.
    from evo_agd.benchmarks.rank import rank
    from evo_agd.run.directory import RunDirectory, locked

    console = Console(highlight=False)
    run = RunDirectory(arguments.run)
    run.settings()
    with locked(run):
        rows = rank(
            run,
            console,
            members=arguments.members,
            near_gmacs=arguments.near_gmacs,
            seeds=arguments.seeds,
            steps=arguments.steps,
            batch=arguments.batch,
            seed=arguments.seed,
        )
    if arguments.json:
        write_json(arguments.json, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The door; returns the exit status."""
    parsed = parser().parse_args(arguments)
    return guarded(lambda: benchmark(parsed))


if __name__ == "__main__":
    sys.exit(main())
